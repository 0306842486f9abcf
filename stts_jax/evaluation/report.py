"""Tables of results."""

from __future__ import annotations

from collections.abc import Mapping

from stts_jax.evaluation.runner import Evaluation
from stts_jax.evaluation.tables import aligned


def print_table(results: Mapping[str, Evaluation]) -> None:
    """One line a type of question, one column a result, and what each cost."""
    types = sorted({name for result in results.values() for name in result.by_type})
    rows = [["type", *results]]
    for name in types:
        shares = [result.by_type.get(name) for result in results.values()]
        rows.append([name, *("-" if s is None else f"{100 * s:.1f}" for s in shares)])
    rows.append(["all", *(f"{100 * result.accuracy:.1f}" for result in results.values())])
    rows.append(["questions", *(str(len(r.predictions)) for r in results.values())])
    rows.append(["visual tokens", *(f"{round(r.visual_tokens, 1):g}" for r in results.values())])
    rows.append(["questions/s", *(f"{r.questions_per_s:.1f}" for r in results.values())])
    for line in aligned(rows):
        print(line)
