r"""The bytes of a record: a description in JSON, and parts as they are.

    offset  bytes
    0       8      b"STTSEX1\n"
    8       4      length of the description, little-endian
    12      n      the description, UTF-8 JSON: an object; "parts" lists the sizes of the parts
    12 + n         the parts, one after the other, to the end

Reading one checks all lengths and runs nothing of it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

MAGIC = b"STTSEX1\n"
_START = struct.Struct("<8sI")
# What ArrayRecord's format holds in one record, with room for what it adds.
MOST_BYTES = 1 << 30
MOST_DESCRIPTION = 64 << 20

Part = bytes | memoryview


class RecordError(ValueError):
    """A record that can't be written or is not one; the message says why, without a remedy."""


def packed(description: dict[str, Any], parts: Sequence[Part]) -> bytes:
    """Returns the bytes of a record.

    Raises:
      RecordError: if they are too many.
    """
    sizes = [len(part) for part in parts]
    text = json.dumps(description | {"parts": sizes}, ensure_ascii=False, sort_keys=True)
    content = text.encode("utf-8", "surrogatepass")
    total = _START.size + len(content) + sum(sizes)
    if total > MOST_BYTES or len(content) > MOST_DESCRIPTION:
        raise RecordError(f"it takes {total:,} bytes, and a record holds {MOST_BYTES:,}")
    return b"".join((_START.pack(MAGIC, len(content)), content, *parts))


def unpacked(record: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    """Returns the description and the parts of a record; these are not copied.

    Raises:
      RecordError: if it is none, or its lengths are not its own.
    """
    if len(record) < _START.size:
        raise RecordError(f"it has {len(record)} bytes, fewer than any record")
    magic, length = _START.unpack_from(record)
    if magic != MAGIC:
        raise RecordError("it does not begin as a record of examples does")
    begin = _START.size + length
    if length > MOST_DESCRIPTION or begin > len(record):
        raise RecordError(f"its description would have {length:,} of its {len(record):,} bytes")
    try:
        found = json.loads(record[_START.size : begin].decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise RecordError("its description is not JSON") from error
    sizes = found.get("parts") if isinstance(found, dict) else None
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise RecordError("its description does not list the sizes of its parts")
    if begin + sum(sizes) != len(record):
        raise RecordError(f"its parts would end at {begin + sum(sizes):,} of {len(record):,} bytes")
    parts, view = [], memoryview(record)
    for size in sizes:
        parts.append(view[begin : begin + size])
        begin += size
    return found, parts
