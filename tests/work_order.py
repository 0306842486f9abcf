"""The order of the test files, and which of them one process runs: hooks of pytest and xdist.

Processes take units of work from the front of the list. The long ones come first, so that no
process idles at the end; files that share what they compile are one unit, so that it is compiled
once.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

# All of these call `train_step()` of training_cases.py, half a minute of a core with its state.
ONE_TRAINING_STEP = (
    "test_training_watching",
    "test_training_full_disk",
    "test_training_start",
    "test_training_step",
    "test_training_checkpoint",
    "test_training_loop",
)
# These compile the same small models.
ONE_SMALL_MODEL = ("test_model", "test_model_dropping")
# Those that take longest, by seconds of a core with nothing compiled yet: see `--durations=0`.
LONGEST = (
    "test_training_meshes",
    *ONE_TRAINING_STEP,
    "test_train_exit_codes",
    "test_training_processes",
    "test_evaluation_tasks",
    "test_training_survival",
    *ONE_SMALL_MODEL,
    "test_generation",
    "test_commands",
    "test_bench",
    "test_fit",
    "test_pruning",
    "test_attention",
    "test_data_pipeline",
    "test_data_read_order",
    "test_parity_backbone",
)


def position(name: str, tests: int) -> tuple[int, int, str]:
    """Sorts file `name`: the longest ones, then those with few tests, which compile and train."""
    rank = LONGEST.index(name) if name in LONGEST else len(LONGEST)
    return rank, tests, name


def unit_of_work(nodeid: str) -> str:
    """Names the unit that a test belongs to: its file, or the files that compile the same."""
    file = nodeid.split("::", 1)[0]
    units = {"one training step": ONE_TRAINING_STEP, "one small model": ONE_SMALL_MODEL}
    return next((name for name, files in units.items() if Path(file).stem in files), file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    counts = Counter(item.path.stem for item in items)
    items.sort(key=lambda item: position(item.path.stem, counts[item.path.stem]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Returns the scheduler of `--dist loadfile` with our units; None leaves others to xdist."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of_work(nodeid)

    return Scheduling(config, log)
