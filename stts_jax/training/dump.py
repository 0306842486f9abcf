"""What is left behind when a step's loss is not finite, so that it can be looked into."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np

from stts_jax.config import Config, load_config

DUMPS = "dumps"
_FACTS = "step.json"


@dataclass(frozen=True)
class Dump:
    """A step that went wrong.

    Attributes:
      step: its number, 1 for the first.
      seed: `train.seed`; the step's randomness is this seed's key folded with `step - 1`.
      fingerprint: of this process's part of the batch.
      checkpoint: the run's newest one from before the step, None if there was none.
      metrics: as they were found, not finite ones as text.
      init_from: what the run started from, where it has no checkpoint of its own.
    """

    step: int
    seed: int
    fingerprint: str
    checkpoint: str | None
    metrics: dict[str, float | str]
    init_from: str | None = None


def fingerprint(batch: Mapping[str, np.ndarray]) -> str:
    """12 hex digits that tell one batch from another."""
    digest = hashlib.sha256()
    for name in sorted(batch):
        array = np.ascontiguousarray(batch[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:12]


def write_dump(
    output: Path,
    config: Config,
    step: int,
    batch: Mapping[str, np.ndarray],
    metrics: Mapping[str, float],
    checkpoint: Path | None,
    init_from: Path | None = None,
) -> Path:
    """Write a step's batch, setup and randomness; every process its rows, the first all else.

    Returns:
      `output/dumps/step-STEP`.
    """
    folder = output / DUMPS / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    index, count = jax.process_index(), jax.process_count()
    np.savez(folder / f"batch-{index}-of-{count}.npz", **batch)
    if index == 0:
        config.save(folder)
        values = {n: v if math.isfinite(v) else str(v) for n, v in metrics.items()}
        at, source = (None if path is None else str(path) for path in (checkpoint, init_from))
        dump = Dump(step, config.train.seed, fingerprint(batch), at, values, source)
        (folder / _FACTS).write_text(json.dumps(asdict(dump), indent=2) + "\n")
    return folder


def read_dump(folder: Path) -> tuple[Dump, Config, dict[str, np.ndarray]]:
    """What `write_dump` wrote, with the rows of all processes.

    Raises:
      FileNotFoundError: if the folder holds no dump, or not that of every process.
    """
    if not (folder / _FACTS).is_file():
        raise FileNotFoundError(
            f"there is no dump in '{folder}'; give a folder of OUTPUT/{DUMPS}, step-120 for example"
        )
    files = sorted(folder.glob("batch-*-of-*.npz"), key=lambda path: int(path.stem.split("-")[1]))
    count = int(files[0].stem.split("-")[-1]) if files else 1
    if len(files) != count:
        raise FileNotFoundError(
            f"'{folder}' has the rows of {len(files)} of {count} processes; copy the others' files "
            "there"
        )
    parts = [dict(np.load(file)) for file in files]
    batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    dump = Dump(**json.loads((folder / _FACTS).read_text()))
    return dump, load_config(str(folder / "config.json")), batch
