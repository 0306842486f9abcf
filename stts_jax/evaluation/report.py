"""Tables of results."""

from __future__ import annotations

from collections.abc import Mapping

from stts_jax.evaluation.metrics import BY_EXACT_ANSWER, BY_OPTION, BY_TEXT
from stts_jax.evaluation.runner import Evaluation
from stts_jax.evaluation.tables import aligned


def print_table(results: Mapping[str, Evaluation]) -> None:
    """Print a line for each type of question and rule, a column for each result, and the costs."""
    for line in table(results):
        print(line)


def table(results: Mapping[str, Evaluation]) -> list[str]:
    """Returns the lines of `print_table`.

    Types whose answers are right or wrong add up to the accuracy; free texts have lines apart.
    """
    found = list(results.values())
    rows = [["type", *results]]
    for name in sorted({name for result in found for name in result.rules_by_type}):
        rules = {rule for result in found for rule in result.rules_by_type.get(name, ())}
        if judged := [rule for rule in (BY_OPTION, BY_EXACT_ANSWER) if rule in rules]:
            shares = (result.by_type.get(name) for result in found)
            rows.append([f"{name} ({', '.join(judged)})", *map(_percent, shares)])
        if BY_TEXT in rules:
            means = (result.text_score_by_type.get(name) for result in found)
            rows.append([f"{name} ({BY_TEXT})", *map(_percent, means)])
    totals = {
        "all (accuracy)": [result.accuracy for result in found],
        f"all ({BY_TEXT})": [result.text_score for result in found],
    }
    rows += [[n, *map(_percent, v)] for n, v in totals.items() if any(x is not None for x in v)]
    rows.append(["questions", *(str(len(result.predictions)) for result in found)])
    rows.append(["visual tokens", *(f"{round(r.visual_tokens, 1):g}" for r in found)])
    rates = (f"{r.questions_per_s:.1f}" if r.questions_per_s else "-" for r in found)
    rows.append(["questions/s", *rates])
    compared = [result.agreement for result in found]
    if any(compared):
        rows += [
            [
                "same tokens",
                *("-" if own is None else _percent(own.same_tokens) for own in compared),
            ],
            [
                "same answers",
                *("-" if own is None else _percent(own.same_answers) for own in compared),
            ],
            ["KL, nats a token", *("-" if own is None else f"{own.kl:.2g}" for own in compared)],
        ]
    return aligned(rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
