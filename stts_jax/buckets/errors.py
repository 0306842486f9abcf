"""The error of an operation on a bucket, as one sentence that says what to do."""

from __future__ import annotations

import errno
import re

_LONGEST = 200
# Of an address in a message of a library: the query of a signed URL or of an upload lets others in.
_QUERY = re.compile(r"\?[^\s'\"]*")
_BEARER = re.compile(r"(?i)\b(bearer|token|authorization|access_token)\b[:= ]+\S+")
_LOG_IN = re.compile(r"(?i)anonymous|401|unauthorized|credential|forbidden|403|permission|refresh")
_HELP = (
    (_LOG_IN, "log in with `gcloud auth application-default login` and see that you may do so"),
    (re.compile("(?i)requester pays"), "use a bucket that doesn't charge the one who reads"),
)


class BucketError(OSError):
    """An operation on a bucket that failed.

    Attributes:
      address: of the folder or file.
      operation: that failed, "read" for example.
      strerror: what the store said, without credentials.
    """

    def __init__(self, address: str, operation: str, reason: str, remedy: str = "") -> None:
        super().__init__(errno.EIO, reason)
        self.address, self.operation = address, operation
        self.remedy = remedy or _remedy(reason)

    def __str__(self) -> str:
        return f"'{self.address}' cannot be {self.operation}: {self.strerror}; {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return BucketError, (self.address, self.operation, self.strerror or "", self.remedy)


def reason_without_secrets(error: BaseException) -> str:
    """Returns the first line of an error, without what would let its reader into the bucket."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = " ".join(line.strip() for line in lines[:2] if line.strip())
    text = _QUERY.sub("", _BEARER.sub(r"\1 ...", text))[:_LONGEST]
    return text if str(error).strip() else type(error).__name__


def _remedy(reason: str) -> str:
    for pattern, remedy in _HELP:
        if pattern.search(reason):
            return remedy
    return "check the name of the bucket and the network, and start again"
