"""Reports of a check, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from stts_jax.data.checking.check import DatasetState

SHOWN = 10  # of each kind of problem
HEAD = ["dataset", "split", "examples", "checked", "usable", "hours", "missing", "damaged", "wrong"]
TEXT_COLUMNS = 2


def details(state: DatasetState) -> Iterator[str]:
    """Returns a few lines for each kind of fault of a dataset; none if it is complete."""
    if state.complete:
        return
    split = f" ({state.selection.split})" if state.selection.split else ""
    yield f"{state.selection.dataset}{split}:"
    kinds = {
        "faults of the annotations": state.unreadable,
        "missing files": state.missing,
        "files that cannot be read": state.damaged,
        "examples that cannot be used": state.wrong,
    }
    for kind, reasons in kinds.items():
        if reasons:
            yield f"  {kind}: {len(reasons)}"
            yield from (f"    {reason}" for reason in reasons[:SHOWN])
            if len(reasons) > SHOWN:
                yield f"    and {len(reasons) - SHOWN} more (--report FILE lists all)"
    if state.home and (state.unreadable or state.missing):
        yield f"  get it from {state.home}"


def table(states: Sequence[DatasetState]) -> list[str]:
    """One line a dataset, and the sums."""
    rows = [_row(state) for state in states]
    if len(states) > 1:
        rows.append(["all", "", *_numbers(states)])
    rows.insert(0, HEAD)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(state: DatasetState) -> list[str]:
    name, split = state.selection
    if state.examples is None:
        return [name, split or "", *["-"] * (len(HEAD) - TEXT_COLUMNS)]
    return [name, split or "", *_numbers([state])]


def _numbers(states: Sequence[DatasetState]) -> list[str]:
    counts = [
        sum(state.examples or 0 for state in states),
        sum(state.checked for state in states),
        sum(len(state.usable) for state in states),
    ]
    problems = [
        sum(len(getattr(state, kind)) for state in states)
        for kind in ("missing", "damaged", "wrong")
    ]
    hours = f"{sum(state.hours for state in states):.2f}"
    return [*map(str, counts), hours, *map(str, problems)]


def write_report(path: Path, states: Sequence[DatasetState]) -> None:
    """All that was found, as JSON."""
    content = {
        "complete": all(state.complete for state in states),
        "datasets": [state.to_plain() for state in states],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
