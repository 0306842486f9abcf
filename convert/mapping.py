"""Maps rows of checkpoint tensors to our parameters, checked before any is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convert.names import NATIVE, Bounds, Name
from convert.tensor_names import require_own_names, summarized
from convert.tensor_reader import ConvertError, RowRange, Rows
from stts_jax.quoting import shorten


@dataclass(frozen=True)
class ParameterMapping:
    """One of our parameters and the tensors that fill it.

    Attributes:
      name: row of the table.
      shape: of our parameter.
      theirs: name and rows in the column of the checkpoint.
      layers: a tensor for each layer; one if the parameter isn't stacked. Transposes of ours if
        the table says so.
    """

    name: Name
    shape: tuple[int, ...]
    theirs: tuple[str, Bounds | None]
    layers: tuple[Rows, ...]

    @property
    def stacked(self) -> bool:
        """Whether our parameter has a leading layer axis."""
        return "{layer}" in self.name.native


@dataclass(frozen=True)
class Origin:
    """A checkpoint, or a part of one, whose names are of one column.

    Attributes:
      tensors: by its names.
      column: of the table, that the names are from.
      ignore: names that nothing needs to read.
      prefixes: of those of our parameters that it fills.
    """

    tensors: Mapping[str, Rows]
    column: str = NATIVE
    ignore: Collection[str] = ()
    prefixes: tuple[str, ...] = ("",)


@dataclass
class _Mapper:
    """Maps the tensors of one origin, and notes what doesn't fit."""

    origin: Origin
    problems: list[str]
    read: dict[str, list[Bounds]] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)

    def fill(self, name: Name, shape: tuple[int, ...]) -> ParameterMapping | None:
        template, rows = name.in_column(self.origin.column)
        stacked = "{layer}" in name.native
        wanted = shape[1:] if stacked else shape
        wanted = wanted[::-1] if name.transpose else wanted
        names = [template.format(layer=i) for i in range(shape[0])] if stacked else [template]
        layers = [self._part(name.ours, theirs, rows, wanted) for theirs in names]
        found = tuple(layer for layer in layers if layer is not None)
        if len(found) < len(layers):
            return None
        return ParameterMapping(name, shape, (template, rows), found)

    def _part(
        self, ours: str, theirs: str, rows: Bounds | None, wanted: tuple[int, ...]
    ) -> Rows | None:
        self.wanted.add(theirs)
        if theirs not in self.origin.tensors:
            self.problems.append(f"{ours}: '{theirs}' is missing")
            return None
        tensor = self.origin.tensors[theirs]
        whole = (0, tensor.shape[0] if tensor.shape else 1)
        start, stop = rows or whole
        self.read.setdefault(theirs, []).append((start, stop))
        found = (min(stop, whole[1]) - start, *tensor.shape[1:]) if rows else tensor.shape
        if found != wanted:
            self.problems.append(
                f"{ours}: '{theirs}' has shape {tensor.shape}"
                + (f", of which rows {start} to {stop} are wanted" if rows else "")
                + f", but the model wants {wanted}"
            )
            return None
        return RowRange(tensor, start, stop) if rows else tensor

    def leftovers(self) -> None:
        for name, tensor in self.origin.tensors.items():
            if name not in self.read:
                if name not in self.origin.ignore:
                    self.problems.append(f"{shorten(name)} {tensor.shape}: nothing reads it")
                continue
            reached = 0
            for start, stop in sorted(self.read[name]):
                if start != reached:
                    self.problems.append(f"'{name}': rows {reached} to {start} are read wrongly")
                reached = stop
            if tensor.shape and reached < tensor.shape[0]:
                self.problems.append(f"'{name}': nothing reads rows {reached} to {tensor.shape[0]}")


def map_parameters(
    parameters: Mapping[str, Any], origins: Sequence[Origin], table: Iterable[Name]
) -> tuple[ParameterMapping, ...]:
    """Returns the rows that fill each parameter.

    Args:
      parameters: ours by dotted name, anything with a shape.
      origins: the checkpoints; the first whose prefixes have a parameter fills it.
      table: see `name_table`.

    Raises:
      ConvertError: with the list of everything that is missing, unread, misshapen or read twice.
    """
    problems: list[str] = []
    mappers = [_Mapper(origin, problems) for origin in origins]
    rows = {name.ours: name for name in table}
    found = []
    for ours, parameter in parameters.items():
        mapper = next((m for m in mappers if ours.startswith(m.origin.prefixes)), None)
        if mapper is None or ours not in rows or not rows[ours].in_column(mapper.origin.column)[0]:
            problems.append(f"{ours}: nothing fills it")
        elif (mapping := mapper.fill(rows[ours], tuple(parameter.shape))) is not None:
            found.append(mapping)
    for mapper in mappers:
        mapper.leftovers()
    if problems:
        for mapper in mappers:
            require_own_names(mapper.origin.tensors, mapper.wanted)
        raise ConvertError(
            "the checkpoint doesn't fit the model that its configuration describes; download it "
            "again, or take the configuration that belongs to it:\n  "
            + "\n  ".join(summarized(problems))
        )
    return tuple(found)
