"""What all tests share: eight CPU devices, exact products, and the table of worst errors."""

from __future__ import annotations

import dataclasses
import gc
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import pytest
from goldens_folder import REPOSITORY
from jaxtyping import install_import_hook
from quick_compile import QUICK_COMPILE

# Before they are imported, by a plugin below or by a test: the shapes in their annotations hold.
CHECKED = ("stts_jax.batch", "stts_jax.inference", "stts_jax.model", "stts_jax.pruning")
install_import_hook(CHECKED, "shape_checks.checked")
pytest_plugins = ("work_order", "bucket_server")
# Tracing makes many objects and hardly any garbage: by default, looking for it takes a tenth of
# the time.
gc.set_threshold(100_000, 50, 100)
os.environ["XLA_FLAGS"] = " ".join([*QUICK_COMPILE, os.environ.get("XLA_FLAGS", "")])
# Before any backend starts. Several devices, so that sharding is tested where there is one CPU.
jax.config.update("jax_platforms", os.environ.get("STTS_TEST_PLATFORM", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", str(REPOSITORY / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@dataclass(frozen=True)
class Entry:
    """One measured error and what it may be."""

    case: str
    error: float
    tolerance: float


@dataclass
class WorstErrors:
    """The largest error of each kind in each test file, for the table at the end of the run.

    And the cases of which only counts were compared, so that a pass doesn't pass for more.
    """

    test_file: str = ""
    largest: dict[tuple[str, str], Entry] = field(default_factory=dict)
    counted: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, case: str, what: str, error: float, tolerance: float) -> None:
        """Record the `error` that `what` has in `case`; asserting it is up to the test."""
        self._keep_worse((self.test_file, what), Entry(case, float(error), float(tolerance)))

    def only_counted(self, case: str, why: str) -> None:
        """Record that of `case` no more than counts could be compared."""
        self._add_counted((self.test_file, why), [case])

    def to_plain(self) -> dict[str, list[list[Any]]]:
        """What can be sent from a worker to the process that started it."""
        return {
            "largest": [[*key, *dataclasses.astuple(x)] for key, x in self.largest.items()],
            "counted": [[*key, list(cases)] for key, cases in self.counted.items()],
        }

    def merge(self, plain: dict[str, list[list[Any]]]) -> None:
        """Take in what a worker sent."""
        for test_file, what, *entry in plain.get("largest", ()):
            self._keep_worse((test_file, what), Entry(*entry))
        for test_file, why, cases in plain.get("counted", ()):
            self._add_counted((test_file, why), cases)

    def _add_counted(self, key: tuple[str, str], cases: list[str]) -> None:
        known = self.counted.setdefault(key, [])
        known += [case for case in cases if case not in known]

    def _keep_worse(self, key: tuple[str, str], entry: Entry) -> None:
        known = self.largest.get(key)
        if known is None or _size(entry.error) > _size(known.error):
            self.largest[key] = entry

    def lines(self) -> Iterator[str]:
        """The table, one line a test file and kind."""
        rows = [("test file", "what", "worst", "tolerance", "case")]
        for (test_file, what), entry in sorted(self.largest.items()):
            worst, tolerance = f"{entry.error:.2e}", f"{entry.tolerance:.2e}"
            rows.append((test_file, what, worst, tolerance, entry.case))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield "  ".join(cells).rstrip()

    def counted_lines(self) -> Iterator[str]:
        """The cases of which only counts were compared, a line for each test file and reason."""
        for (test_file, why), cases in sorted(self.counted.items()):
            yield f"{test_file}  {why}: {len(cases)}: {', '.join(sorted(cases))}"


def _size(error: float) -> float:
    """Not a number is worse than anything."""
    return math.inf if math.isnan(error) else error


_WORST = pytest.StashKey[WorstErrors]()
_SENT = "worst_errors"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_WORST] = WorstErrors()


def pytest_collection_finish() -> None:
    """What was collected stays to the end: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Take in the table of a worker of pytest-xdist; one that crashed has sent none."""
    sent = getattr(node, "workeroutput", {}).get(_SENT, {})
    node.config.stash[_WORST].merge(sent)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker: send the table."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_SENT] = session.config.stash[_WORST].to_plain()


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.config.stash[_WORST].test_file = Path(item.path).name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config):
    worst = config.stash[_WORST]
    if worst.largest:
        terminalreporter.section("worst errors")
        for line in worst.lines():
            terminalreporter.write_line(line)
    if worst.counted:
        terminalreporter.section("compared by counts only")
        for line in worst.counted_lines():
            terminalreporter.write_line(line)


# A compiled program maps memory, of which Linux gives a process 65530 pieces; beyond, XLA crashes.
MANY_MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs() -> Iterator[None]:
    """After a test file, if those of all files so far have taken much of what a process may map."""
    yield
    maps = Path("/proc/self/maps")
    if maps.is_file() and len(maps.read_bytes().splitlines()) > MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def worst_error(pytestconfig: pytest.Config) -> WorstErrors:
    """Recorder of measured errors: `worst_error.add(case, what, error, tolerance)`."""
    return pytestconfig.stash[_WORST]


@pytest.fixture
def report_error(
    request: pytest.FixtureRequest, worst_error: WorstErrors
) -> Callable[[str, float, float], None]:
    """`report_error(what, worst, tolerance)`: the same, with the test's own name as the case."""

    def report(what: str, worst: float, tolerance: float) -> None:
        worst_error.add(request.node.name, what, worst, tolerance)

    return report
