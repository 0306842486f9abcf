"""The targets of random changes, and how one change is judged."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

SECONDS = 120  # of a change, on a slow machine that is shared
GIGABYTES = 1.5  # that one may add to what the process takes
LETTERS = 20_000  # of a message that lists what doesn't fit

Note = Callable[[str], None]
Trial = Callable[[Path, Random, Note], None]


@dataclass(frozen=True)
class Target:
    """Something that is given changed files.

    Attributes:
      name: for messages, and part of the seed.
      trial: makes one change in an empty folder and gives it to the product; tells what it does.
      errors: that the product may raise; each becomes one sentence and exit code 2.
      quick: changes in the default suite.
    """

    name: str
    trial: Trial
    errors: tuple[type[BaseException], ...]
    quick: int


TARGETS: list[Target] = []


def target(
    name: str, errors: tuple[type[BaseException], ...], quick: int
) -> Callable[[Trial], Trial]:
    """Registers a trial; see `Target`."""

    def register(trial: Trial) -> Trial:
        TARGETS.append(Target(name, trial, errors, quick))
        return trial

    return register


def fault(target: Target, seed: int, folder: Path) -> str:
    """What is wrong with one change, with all that is needed to see it again; empty if nothing.

    Args:
      target: see `Target`.
      seed: of the change.
      folder: a place for its files, which is emptied.
    """
    told: list[str] = []
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "given").mkdir(parents=True)
    before = _resident()
    wrong = ""
    try:
        with _limited():
            target.trial(folder / "given", Random(f"{target.name}-{seed}"), told.append)
    except target.errors as error:
        if len(str(error)) > LETTERS or not str(error).strip():
            wrong = f"a message of {len(str(error))} letters: {str(error)[:300]}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        wrong = "".join(traceback.format_exception(error))[-3000:]
    grown = _resident() - before
    if not wrong and grown > GIGABYTES:
        wrong = f"it took {grown:.1f} GB"
    if not wrong and [path.name for path in folder.iterdir()] != ["given"]:
        wrong = f"it wrote outside of its folder: {sorted(map(str, folder.iterdir()))}"
    return f"{target.name}, seed {seed}, {'; '.join(told)}: {wrong}" if wrong else ""


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class TooSlow(BaseException):
    """A change that is waited for."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow(f"it took more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
