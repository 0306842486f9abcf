"""Reads the few forms of pickles that torch writes, without calling anything that is in them.

Python's own unpickler can't be bounded: nine bytes make it take gigabytes, and nested keys keep it
busy for ever. Checkpoints use a small part of the language, which is interpreted here: a step of
constant cost for each opcode, and names that are looked up in a table of the caller's.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

# Of the descriptions of 4B models, torch's own has 3 million opcodes on 64 processes.
MOST_OPCODES = 10_000_000
MOST_BYTES = 256 << 20
# The fields of any record, and the dimensions of any shape.
_MOST_FIELDS = 64
_MARK = object()

Build = Callable[..., Any]


class PickleError(ValueError):
    """A pickle that is damaged, or not one of those that torch writes."""


class Record:
    """Stands for an object of any class; its fields are attributes, or values in order."""

    def __init__(self, *values: Any) -> None:
        self.values = values


class PersistentId:
    """A pickle's name of an object that is stored beside it."""

    def __init__(self, value: Any) -> None:
        self.value = value


def load(
    data: bytes, names: Mapping[tuple[str, str], Build], most_opcodes: int = MOST_OPCODES
) -> Any:
    """The value of a pickle.

    Args:
      data: the pickle.
      names: a function of few arguments for each module and name that it may use.
      most_opcodes: more are refused.

    Raises:
      PickleError: if it is damaged, uses another name, or an opcode that no checkpoint needs.
    """
    if len(data) > MOST_BYTES:
        raise PickleError(f"it has {len(data)} bytes, more than {MOST_BYTES}")
    machine = _Machine(names)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= most_opcodes:
                raise PickleError(f"it has more than {most_opcodes} opcodes")
            machine.step(opcode.name, argument)
    except PickleError:
        raise
    except Exception as error:  # damaged data: missing operands, values of other types
        raise PickleError(f"it is no sound pickle: {error or type(error).__name__}") from error
    return machine.result()


class _Machine:
    def __init__(self, names: Mapping[tuple[str, str], Build]) -> None:
        self._names = names
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self._stack) != 1 or self._stack[0] is _MARK:
            raise PickleError("it is no sound pickle: it doesn't end with one value")
        return self._stack[0]

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            values = tuple(stack[-count:])
            if len(values) != count or _MARK in values:
                raise PickleError("it is no sound pickle: a tuple lacks values")
            stack[-count:] = [values]
        elif name not in ("PROTO", "FRAME", "STOP"):
            handler = getattr(self, f"_{name.lower()}", None)
            if handler is None:
                raise PickleError(f"it uses {name}, which no checkpoint needs")
            handler(argument)

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _to_mark(self) -> list[Any]:
        """Pops the items above the last mark, and the mark."""
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not _MARK:  # each value is passed once: it is taken now
            at -= 1
            if at < 0:
                raise PickleError("it is no sound pickle: a mark is missing")
        values = stack[at + 1 :]
        del stack[at:]
        return values

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        self._list().append(value)

    def _appends(self, _: Any) -> None:
        values = self._to_mark()
        self._list().extend(values)

    def _list(self) -> list[Any]:
        if not isinstance(self._stack[-1], list):
            raise PickleError("it appends to what is no list")
        return self._stack[-1]

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set(key, value)

    def _setitems(self, _: Any) -> None:
        values = self._to_mark()
        for key, value in zip(values[::2], values[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        # Of these no two can be made to have the same hash; of numbers and tuples they can.
        if not isinstance(self._stack[-1], dict) or not isinstance(key, str | Record):
            raise PickleError("it has a dictionary whose keys are no names")
        self._stack[-1][key] = value

    def _global(self, argument: str) -> None:
        self._stack.append(self._named(*argument.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._named(module, name))

    def _named(self, module: Any, name: Any) -> Build:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("it names something by what is no text")
        if (module, name) not in self._names:
            raise PickleError(f"it wants to use '{module[:80]}.{name[:80]}'")
        return self._names[module, name]

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(arguments, tuple) or len(arguments) > _MOST_FIELDS:
            raise PickleError("it calls something with what are no arguments")
        if not callable(function):  # what is callable is from the table
            raise PickleError("it calls what is no name")
        self._stack.append(function(*arguments))

    _newobj = _reduce

    def _build(self, _: Any) -> None:
        state, record = self._stack.pop(), self._stack[-1]
        if not isinstance(record, Record):
            raise PickleError("it gives fields to what is no record")
        # Enums and tuples come as values, dataclasses as a dictionary of fields.
        if isinstance(state, dict):
            if len(state) > _MOST_FIELDS or not all(isinstance(key, str) for key in state):
                raise PickleError("it has a record with fields that no checkpoint needs")
            vars(record).update(state)
        elif isinstance(state, tuple) and len(state) <= _MOST_FIELDS:
            record.values = state
        else:
            raise PickleError("it has a record without fields")

    def _binpersid(self, _: Any) -> None:
        self._stack.append(PersistentId(self._stack.pop()))


_VALUES = frozenset(
    (
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
    )
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def few(*values: Any) -> tuple[Any, ...]:
    """A shape: the tuple that is the one argument of `torch.Size`, or none."""
    if len(values) > 1 or not all(
        isinstance(value, list | tuple) and len(value) <= _MOST_FIELDS for value in values
    ):
        raise PickleError("it has a shape that is none")
    return tuple(values[0]) if values else ()


def empty(*values: Any) -> dict[Any, Any]:
    """An ordered dictionary, which is filled after it is made."""
    if values:
        raise PickleError("it makes a dictionary from values")
    return {}
