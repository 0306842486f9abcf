"""What devices send each other in a step, read from the compiled program."""

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
    """One exchange of the program.

    Attributes:
      kind: one of `KINDS`.
      devices: that take part in a group.
      runs: in one step.
      bytes_sent: by each device in one run, if the exchange is done as well as a ring does it.
      source: where it comes from.
    """

    kind: str
    devices: int
    runs: int
    bytes_sent: int
    source: str

    @property
    def total(self) -> int:
        """Bytes sent by each device in a step."""
        return self.runs * self.bytes_sent


def collectives(module: Module, devices: int) -> list[Collective]:
    """All exchanges of a program, the largest first.

    Args:
      module: of the compiled program.
      devices: that it runs on, for exchanges that name no groups.
    """
    found: dict[tuple[str, str], Collective] = {}
    for name, instructions in module.computations.items():
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            runs = module.runs.get(name, 0)
            if kind not in KINDS or not runs:
                continue
            channel = _CHANNEL.search(instruction.text)
            # A compiler may write one exchange out as a start, steps and an end.
            key = (kind, channel.group(1) if channel else f"{name}/{instruction.name}")
            size = _group_size(instruction.text, devices)
            sent = _bytes_sent(kind, instruction, size)
            known = found.get(key)
            if known is None or runs * sent > known.total:
                found[key] = Collective(kind, size, runs, sent, instruction.source)
    return sorted(found.values(), key=lambda c: -c.total)


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """`runs` and `bytes` sent by each device in a step, by kind."""
    totals: dict[str, dict[str, int]] = {}
    for collective in found:
        total = totals.setdefault(collective.kind, {"runs": 0, "bytes": 0})
        total["runs"] += collective.runs
        total["bytes"] += collective.total
    return totals


def _bytes_sent(kind: str, instruction: Instruction, devices: int) -> int:
    size = array_bytes(_made(instruction))
    share = (devices - 1) / devices if devices > 1 else 0.0
    if kind == "all-reduce":
        return int(2 * size * share)
    if kind == "reduce-scatter":
        return int(size * (devices - 1))
    return size if kind == "collective-permute" else int(size * share)


def _made(instruction: Instruction) -> str:
    """What an exchange makes; a start lists what goes in before it, but for a sum."""
    result = instruction.result.strip()
    if not instruction.opcode.endswith("-start") or not result.startswith("("):
        return result
    if instruction.opcode == "all-reduce-start":
        return result
    depth, parts, start = 0, [], 1
    for place, letter in enumerate(result):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(result[start:place])
            start = place + 1
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
