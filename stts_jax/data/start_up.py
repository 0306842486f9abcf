"""Measures what a run's start costs by the number of lines of its data: seconds and memory.

Every measurement is a process of its own, which reads batches of the tiny setup in as many worker
processes as are asked for. Memory is of it and its workers together, as PSS (pages that several
processes share count once) and as the sum of their RSS.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

WORDS = "a dog that was lying in the shade gets up and walks slowly over to the other side of it"
CLIP_SIZE = (64, 48)
HEAD = f"{'lines':>10}{'workers':>9}{'index s':>9}{'batches s':>11}{'PSS MB':>9}{'RSS MB':>9}"
_BATCHES = 2


@dataclass(frozen=True)
class Start:
    """What was measured.

    Attributes:
      lines: of the file.
      workers: processes that read.
      sources: seconds until the examples are known, from an index that is there.
      batches: seconds until the second batch, imports and starting the workers included.
      pss, rss: bytes over all processes.
    """

    lines: int
    workers: int
    sources: float
    batches: float
    pss: int
    rss: int


def write_lines(path: Path, count: int) -> None:
    """Write that many lines of some 280 bytes, each about another part of `clip.mp4`."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            line = {
                "video": "clip.mp4",
                "clip": [0.0, 1 + number * 1e-6],
                "question": f"What can be seen in part {number:08d}, {WORDS}?",
                "answer": f"In part {number:08d} there is {WORDS}.",
                "type": f"kind {number % 7}",
            }
            file.write(json.dumps(line) + "\n")


def measured(path: Path, lines: int, workers: Sequence[int]) -> Iterator[Start]:
    """Start a run on a file with each number of workers.

    Raises:
      subprocess.CalledProcessError: if one fails.
    """
    for count in workers:
        program = [sys.executable, "-m", "stts_jax.data.start_up", str(path), str(count)]
        ended = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True)
        yield Start(lines, count, **json.loads(ended.stdout.splitlines()[-1]))


def row(start: Start) -> str:
    """Returns a measurement as a line of a table below `HEAD`."""
    return (
        f"{start.lines:10d}{start.workers:9d}{start.sources:9.2f}{start.batches:11.1f}"
        f"{start.pss / 1e6:9.0f}{start.rss / 1e6:9.0f}"
    )


def measured_lines(folder: Path, lines: int, workers: Sequence[int]) -> Iterator[str]:
    """Makes data in a folder and measures; the result as lines of text, when there is one."""
    from stts_jax.data.sources.own_data import OwnData
    from stts_jax.data.speed import made_clip_set

    made_clip_set(folder, 1.2, *CLIP_SIZE)
    path = folder / "my.jsonl"
    write_lines(path, lines)
    begun = time.process_time()
    examples = len(OwnData(path))
    seconds = time.process_time() - begun
    yield (
        f"the index of {lines} lines ({examples} examples, {path.stat().st_size / 1e6:.0f} MB) "
        f"took {seconds:.1f} s of a core to build: {lines / seconds:,.0f} lines/s"
    )
    yield HEAD
    yield from map(row, measured(path, lines, workers))


def memory(processes: Sequence[int]) -> tuple[int, int]:
    """Returns PSS and RSS of processes, in bytes."""
    found = {"Pss": 0, "Rss": 0}
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in found:
                found[name] += int(value.split()[0]) * 1024
    return found["Pss"], found["Rss"]


def _with_children(process: int) -> list[int]:
    """The process, and all that descend from it."""
    found = [process]
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            for child in (thread / "children").read_text().split():
                found += _with_children(int(child))
    return found


def _start(path: str, workers: int) -> dict[str, float]:
    """Reads batches as a run does; runs in a process of its own."""
    begun = time.monotonic()
    from stts_jax.config import load_config
    from stts_jax.data.pipeline import training_batches
    from stts_jax.data.sources.configured import sources_of

    settings = [f"data.train={path}", f"data.workers={workers}", "data.max_bad_share=1.0"]
    config = load_config("tiny", settings)
    known = time.monotonic()
    sources_of(config, "train")
    known = time.monotonic() - known
    again = time.monotonic()
    with training_batches(config) as batches:
        for _ in range(_BATCHES):
            next(batches)
        # What was read twice above counts once.
        took = time.monotonic() - again + (again - begun - known)
        pss, rss = memory(_with_children(os.getpid()))
    return {"sources": known, "batches": took, "pss": pss, "rss": rss}


if __name__ == "__main__":
    print(json.dumps(_start(sys.argv[1], int(sys.argv[2]))))
