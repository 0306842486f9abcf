"""The collectives of a step, read from the compiled program."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from stts_jax.fit.hlo import Instruction, Module, array_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: one of `KINDS`.
      devices: in a group.
      runs: in one step.
      bytes_sent: by each device in one run of a ring algorithm.
      source: the operation of the model that it belongs to.
    """

    kind: str
    devices: int
    runs: int
    bytes_sent: int
    source: str

    @property
    def total(self) -> int:
        """Returns the bytes sent by each device in a step."""
        return self.runs * self.bytes_sent


def collectives(module: Module, devices: int) -> list[Collective]:
    """Returns all collectives of a program, the largest first.

    Args:
      module: of the compiled program.
      devices: of the program, for collectives that name no groups.
    """
    found: dict[tuple[str, str], Collective] = {}
    for name, instructions in module.computations.items():
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            runs = module.runs.get(name, 0)
            if kind not in KINDS or not runs:
                continue
            channel = _CHANNEL.search(instruction.text)
            # A compiler may write one collective as a start, steps and an end.
            key = (kind, channel.group(1) if channel else f"{name}/{instruction.name}")
            size = _group_size(instruction.text, devices)
            sent = _bytes_sent(kind, instruction, size)
            known = found.get(key)
            if known is None or runs * sent > known.total:
                found[key] = Collective(kind, size, runs, sent, instruction.source)
    return sorted(found.values(), key=lambda c: -c.total)


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """Returns `runs` and `bytes` sent by each device in a step, by kind."""
    totals: dict[str, dict[str, int]] = {}
    for collective in found:
        total = totals.setdefault(collective.kind, {"runs": 0, "bytes": 0})
        total["runs"] += collective.runs
        total["bytes"] += collective.total
    return totals


def _bytes_sent(kind: str, instruction: Instruction, devices: int) -> int:
    size = array_bytes(_result(instruction))
    share = (devices - 1) / devices if devices > 1 else 0.0
    if kind == "all-reduce":
        return int(2 * size * share)
    if kind == "reduce-scatter":
        return int(size * (devices - 1))
    return size if kind == "collective-permute" else int(size * share)


def _result(instruction: Instruction) -> str:
    """Returns the result type; a start lists its operands first, except for an all-reduce."""
    result = instruction.result.strip()
    if not instruction.opcode.endswith("-start") or not result.startswith("("):
        return result
    if instruction.opcode == "all-reduce-start":
        return result
    depth, parts, start = 0, [], 1
    for end, letter in enumerate(result):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(result[start:end])
            start = end + 1
        if depth == 0:
            break
    return parts[1]


def _group_size(text: str, devices: int) -> int:
    if found := _LISTED.search(text):
        return len(found.group(1).split(","))
    if found := _IOTA.search(text):
        return int(found.group(2))
    if found := _MESH.search(text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found.group(2)))
    return devices
