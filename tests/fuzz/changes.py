"""Random changes to bytes, to parsed JSON and to files."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from random import Random
from typing import Any

ODD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    2.5,
    1e308,
    float("nan"),
    float("inf"),
    10**6,
    10**9,
    2**63,
    10**30,
    "",
    "x",
    "x" * 5000,
    "\0",
    "\ud800",
    "../../etc/passwd",
    "/dev/zero",
    [],
    {},
    [[]],
    [0],
    [1, 2],
    [None],
    {"a": 1},
    list(range(3000)),
)


def change_bytes(path: Path, rng: Random) -> str:
    """Changes some bytes of a file; a description of it."""
    data = bytearray(path.read_bytes())
    at, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 8, 64, 1000))
    kind = rng.choice(("flip", "cut", "drop", "add", "zero", "twice", "ones"))
    if kind == "flip" and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "drop":
        del data[at : at + size]
    elif kind == "add":
        data[at:at] = rng.randbytes(size)
    elif kind == "twice":
        data[at:at] = data[at : at + size]
    else:
        filler = b"\0" if kind == "zero" else b"\xff"
        data[at : at + size] = filler * len(data[at : at + size])
    path.write_bytes(bytes(data))
    return f"{kind} {size} bytes at {at} of {path.name}"


def change_json(path: Path, rng: Random) -> str:
    """Changes one value of a JSON file, or a name; a description of it."""
    value = json.loads(path.read_text())
    where: list[Any] = []
    holder, inner = value, value
    while isinstance(inner, dict | list) and inner and (not where or rng.random() < 0.8):
        holder = inner
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        where.append(rng.choice(keys))
        inner = holder[where[-1]]
    odd = rng.choice(ODD)
    if not where or rng.random() < 0.03:
        value, what = odd, "all of it"
    elif rng.random() < 0.15:
        del holder[where[-1]]
        what = f"{where} is taken away"
    else:
        holder[where[-1]] = odd
        what = f"{where}"
    text = json.dumps(value)
    if rng.random() < 0.03:
        text, what = "[" * 100_000, "deep nesting"
    path.write_text(text)
    return f"{path.name}: {what} = {str(odd)[:60]!r}"


def change_file(path: Path, rng: Random) -> str:
    """Puts something else in the place of a file; a description of it."""
    kind = rng.choice(("gone", "empty", "pipe", "folder", "socket", "device", "outside", "loop"))
    path.unlink()
    if kind == "empty":
        path.touch()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        _socket(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "outside":
        path.symlink_to("/etc/passwd")
    elif kind == "loop":
        path.symlink_to(path.name)
    return f"{kind} in the place of {path.name}"


def _socket(path: Path) -> None:
    """In a folder whose name may be too long for the address of a socket."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name[:90])
    finally:
        os.chdir(here)
