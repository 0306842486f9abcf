"""Parser of a compiled program's text: its computations, and how often each runs."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

# `%name (arguments) -> result {`, with ENTRY before the program's own.
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b(pred|[suf]\d+\w*|bf16|c\d+)\[([\d,]*)\]")
_OPCODE = re.compile(r"(?<=[\s})])([a-z][a-z\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations)=\{?(%[\w.\-, %]+)\}?")
_WHILE = re.compile(r"condition=%([\w.\-]+), body=%([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"?(\d+)')
_LIMIT = re.compile(r"constant\((\d+)\)")
_NAME = re.compile(r'op_name="([^"]*)"')
_BITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: of the instruction.
      opcode: its operation.
      result: type and shape of the result, as text.
      text: the whole line.
    """

    name: str
    opcode: str
    result: str
    text: str

    @property
    def source(self) -> str:
        """Returns the operation of the model that it belongs to, empty if unknown."""
        found = _NAME.search(self.text)
        return found.group(1) if found else ""


@dataclass
class Module:
    """A compiled program.

    Attributes:
      computations: instructions by computation.
      runs: how often each computation runs in one step; loops of unknown length count once.
    """

    computations: dict[str, list[Instruction]] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)


def parse_module(text: str) -> Module:
    """Parses the text of `compiled.as_text()`."""
    module, entry = Module(), ""
    current: list[Instruction] = []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = module.computations.setdefault(header.group(2), [])
            entry = header.group(2) if header.group(1) else entry
            continue
        found = _INSTRUCTION.match(line)
        if found:
            current.append(_instruction(found.group(1), found.group(2)))
    module.runs = _count_runs(module.computations, entry)
    return module


def array_bytes(shape: str) -> int:
    """Returns the bytes of all arrays in a piece of text, without the padding of their layout."""
    total = 0
    for dtype, dimensions in _SHAPE.findall(shape):
        bits = _BITS.search(dtype)
        size = max(int(bits.group()) // 8, 1) if bits and dtype != "pred" else 1
        for dimension in filter(None, dimensions.split(",")):
            size *= int(dimension)
        total += size
    return total


def _instruction(name: str, rest: str) -> Instruction:
    opcode = _OPCODE.search(" " + rest)
    end = opcode.start() - 1 if opcode else len(rest)
    return Instruction(name, opcode.group(1) if opcode else "", rest[:end], rest)


def _count_runs(computations: dict[str, list[Instruction]], entry: str) -> dict[str, int]:
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, instructions in computations.items():
        for instruction in instructions:
            calls[name] += _calls(instruction, computations)
    runs: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for called, each in calls[name]:
            visit(called, times * each)

    if entry:
        visit(entry, 1)
    return dict(runs)


def _calls(
    instruction: Instruction, computations: dict[str, list[Instruction]]
) -> list[tuple[str, int]]:
    found = _WHILE.search(instruction.text)
    if instruction.opcode == "while" and found:
        condition, body = found.groups()
        return [(body, _trips(instruction.text, computations.get(condition, [])))]
    if instruction.opcode in ("async-update", "async-done"):
        return []  # the start has called it
    named = [name for group in _CALLED.findall(instruction.text) for name in group.split(",")]
    called = (name.strip().lstrip("%") for name in named)
    return [(name, 1) for name in called if name in computations]


def _trips(text: str, condition: list[Instruction]) -> int:
    """Returns the trip count: loops of `scan` count from 0 to a constant in their condition."""
    known = _TRIPS.search(text)
    if known:
        return int(known.group(1))
    limits = [int(n) for i in condition for n in _LIMIT.findall(i.text) if "s32[]" in i.result]
    return max(limits, default=1)
