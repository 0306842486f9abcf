"""Errors in writing and reading checkpoints, each turned into one sentence that says what to do.

An error in reading is damage if the files are not what was written. Too little memory on the
devices, a file store that doesn't answer and missing permissions are not: nothing may be moved or
replaced because of them.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from stts_jax.plain_files import FileError

# A file that is missing, or a folder in the place of a file.
_DAMAGE_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# Beginnings of TensorStore's errors, which reads the arrays, that are no damage.
_NO_DAMAGE = re.compile(
    "(RESOURCE_EXHAUSTED|UNAVAILABLE|PERMISSION_DENIED|DEADLINE_EXCEEDED|ABORTED|CANCELLED|UNKNOWN)"
    "(:|$)"
)
# TensorStore appends what it was asked to open.
_DETAILS = " [tensorstore_spec="
_LONGEST = 300


class CheckpointError(RuntimeError):
    """A file of a run that can't be written or read; the message says what to do."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises an `OSError` of the block, a full disk for example, as a `CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"'{path}' cannot be written: {error.strerror or error}; make room or choose another "
            "--output"
        ) from error


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Raises any error of the block, which reads a checkpoint, as a `CheckpointError`."""
    try:
        yield
    except CheckpointError:  # says itself what to do
        raise
    except Exception as error:
        # The first cause says most, but not which file it is about.
        reason = str(error) if isinstance(error, FileError) else reason_of(error)
        if is_damage(error):
            raise damaged_error(checkpoint, reason) from error
        raise CheckpointError(
            f"checkpoint '{checkpoint}' cannot be read, for a reason that isn't its files' "
            f"({reason}); free memory, or give access to files that can be read, and start again"
        ) from error


def damaged_error(checkpoint: Path, reason: str) -> CheckpointError:
    """Returns the error for a checkpoint that can't be read because of its files."""
    return CheckpointError(
        f"checkpoint '{checkpoint}' is damaged or incomplete ({reason}); copy it again"
    )


def is_damage(error: BaseException) -> bool:
    """Returns whether an error in reading a checkpoint means that its files were changed or cut."""
    return not any(map(_is_no_damage, _causes(error)))


def reason_of(error: BaseException) -> str:
    """Returns the message of an error's first cause, in one line."""
    *_, first = _causes(error)
    lines = (str(first) or type(first).__name__).splitlines()
    return lines[0].partition(_DETAILS)[0][:_LONGEST]


def _is_no_damage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _DAMAGE_ERRNOS
    # The devices' runtime reads no files.
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
        return True
    return _NO_DAMAGE.match(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its chain of causes, the first cause last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
