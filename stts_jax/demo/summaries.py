"""Reads the summaries of runs of the demo: `summary.json`, as `demo.__main__` makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def runs_of(summary: Mapping[str, Any], method: str) -> dict[int, Mapping[str, Any]]:
    """Returns the runs of a method with streams, by the percentage of tokens dropped."""
    runs = (run for run in summary["runs"] if run["packing"] == "stream")
    return {run["k"]: run for run in runs if run["method"] == method}


def run_of(summary: Mapping[str, Any], method: str, k: int) -> Mapping[str, Any]:
    """Returns one run.

    Raises:
      KeyError: if the summary has no such run.
    """
    found = runs_of(summary, method)
    if k not in found:
        raise KeyError(f"the summary has no run of '{method}' at {k} %; run `make demo` again")
    return found[k]


def accuracy_of(summary: Mapping[str, Any], method: str, k: int) -> float:
    """Returns the accuracy of one run in percent; errors are those of `run_of`."""
    return 100.0 * float(run_of(summary, method, k)["accuracy"])


def accuracies(summaries: Sequence[Mapping[str, Any]], method: str) -> dict[int, list[float]]:
    """Returns the accuracies of a method in percent, by ratio, one for each summary that has it."""
    found: dict[int, list[float]] = {}
    for summary in summaries:
        for k, run in runs_of(summary, method).items():
            found.setdefault(k, []).append(100.0 * run["accuracy"])
    return found
