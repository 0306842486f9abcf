"""What keeps a checkpoint from being read: damage, or something that says nothing of its files.

The latter is too little memory on the devices, a file store that doesn't answer, a folder that
another user may read.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

import jax

# A file that is missing, or a folder in the place of a file.
_DAMAGE_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# How TensorStore, which reads the arrays, begins to say that files can't be read (now).
_NOT_THE_FILES = re.compile(
    "(RESOURCE_EXHAUSTED|UNAVAILABLE|PERMISSION_DENIED|DEADLINE_EXCEEDED|ABORTED|CANCELLED|UNKNOWN)"
    "(:|$)"
)
# Where it goes on to what it was asked to open.
_DETAILS = " [tensorstore_spec="
_LONGEST = 300


def is_damage(error: BaseException) -> bool:
    """Whether an error in reading a checkpoint says that its files aren't what they were."""
    return not any(map(_is_not_of_the_files, _causes(error)))


def reason_of(error: BaseException) -> str:
    """What an error began with, in a line."""
    *_, first = _causes(error)
    lines = (str(first) or type(first).__name__).splitlines()
    return lines[0].partition(_DETAILS)[0][:_LONGEST]


def _is_not_of_the_files(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _DAMAGE_ERRNOS
    # The devices' runtime reads no files.
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
        return True
    return _NOT_THE_FILES.match(str(error)) is not None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from or in handling, down to the first one."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
