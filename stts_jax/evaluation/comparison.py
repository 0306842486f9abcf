"""Tables of results: by task, and beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stts_jax.evaluation.paper import (
    COLUMNS,
    LONG_COLUMNS,
    RANDOM_BY_PERCENT,
    SHORT_COLUMNS,
    TABLE_1,
    PaperRow,
)
from stts_jax.evaluation.results import TaskResult
from stts_jax.evaluation.tables import aligned

AVERAGES = ("Short", "Long", "Average")
AVERAGED = {"short": SHORT_COLUMNS, "long": LONG_COLUMNS, "overall": tuple(COLUMNS)}
# An average this close (points) to that of a model that sees only the text is suspicious.
TEXT_ONLY_MARGIN = 2.0
# The paper's own models.
OWN_ROWS = tuple(row for row in TABLE_1 if row.name.startswith(("baseline", "STTS")))
IN_DOUBT = "?"
# Of fewer questions than this a score of 50 % has a standard error of 5 points and more.
FEW_QUESTIONS = 100
FROM_FEW = "*"
PAPER = "paper: "
ABSENT = "-"


@dataclass(frozen=True)
class Averages:
    """Averages by the paper's rule, percent.

    Attributes:
      short: mean of the short benchmarks that there are, None if there are none.
      long: mean of the long ones.
      overall: the mean of `short` and `long`, not of all columns.
      missing: columns that there is no score for.
    """

    short: float | None
    long: float | None
    overall: float | None
    missing: tuple[str, ...]


def averages(scores: Mapping[str, float]) -> Averages:
    """Short, long and overall average of scores by column.

    A column without a score is left out of its mean, as the paper does with its competitors.
    The result says which were, since such an average compares only with others over the same.

    Source: docs/reference.md#table-1, where every row of the paper was recomputed.
    """
    short, long = _mean(scores, SHORT_COLUMNS), _mean(scores, LONG_COLUMNS)
    overall = None if short is None or long is None else (short + long) / 2
    return Averages(short, long, overall, tuple(c for c in COLUMNS if not _known(scores, c)))


def column_scores(results: Mapping[str, float]) -> dict[str, float]:
    """Percentages by column from shares (0 to 1) by task; other tasks are left out."""
    return {
        column: 100 * results[task]
        for column, task in COLUMNS.items()
        if task in results and not math.isnan(results[task])
    }


def column_counts(questions: Mapping[str, int]) -> dict[str, int]:
    """Returns the questions of each column from those of each task; other tasks are left out."""
    return {column: questions[task] for column, task in COLUMNS.items() if task in questions}


def results_table(results: Iterable[TaskResult]) -> list[str]:
    """Returns a line a task: percent by the published and the fixed rule, questions, remarks."""
    table = [["task", "published rule", "fixed rule", "questions"]]
    notes = [""]
    for result in results:
        summary = result.summary
        scores = (_cell(100 * value) for value in (summary.value, summary.fixed_value))
        table.append([result.task.label, *scores, str(summary.questions)])
        notes.append("; ".join(summary.notes()))
    lines = zip(aligned(table), notes, strict=True)
    return [f"{line}  {note}".rstrip() for line, note in lines]


def comparison_table(
    own: Mapping[str, Mapping[str, float]],
    rows: Sequence[PaperRow] = OWN_ROWS,
    questions: Mapping[str, Mapping[str, int]] | None = None,
) -> list[str]:
    """Lines of a table: benchmarks and averages down, one's own results and the paper's across.

    Args:
      own: scores by column (`column_scores`) of each result, by its name.
      rows: of the paper.
      questions: number of them for each score by column, of each result; all if not given.

    Returns:
      The table, and below it what is in doubt, missing or made of few questions.
    """
    means = {name: averages(scores) for name, scores in own.items()}
    few = {
        name: {c: n for c, n in counts.items() if n < FEW_QUESTIONS and _known(own[name], c)}
        for name, counts in (questions or {}).items()
    }
    table = [["", *own, *(PAPER + row.name for row in rows)]]
    for column in COLUMNS:
        cells = [
            _cell(scores.get(column)) + (FROM_FEW if column in few.get(name, ()) else "")
            for name, scores in own.items()
        ]
        table.append([column, *cells, *(_paper_cell(row, column) for row in rows)])
    for label, field in zip(AVERAGES, AVERAGED, strict=True):
        cells = [
            _cell(getattr(mean, field))
            + (FROM_FEW if set(few.get(name, ())) & set(AVERAGED[field]) else "")
            for name, mean in means.items()
        ]
        printed = "average" if field == "overall" else field
        table.append([label, *cells, *(_paper_cell(row, printed) for row in rows)])
    return [*aligned(table), *_few_notes(few), *_notes(means, rows)]


def _few_notes(few: Mapping[str, Mapping[str, int]]) -> list[str]:
    return [
        f"{FROM_FEW} '{name}' has few questions, so its score may be off by many points: "
        + ", ".join(f"{column} {count}" for column, count in counts.items())
        for name, counts in few.items()
        if counts
    ]


def _notes(means: Mapping[str, Averages], rows: Iterable[PaperRow]) -> list[str]:
    notes = [
        f"'{name}' lacks {', '.join(mean.missing)}; its averages are over the others"
        for name, mean in means.items()
        if mean.missing
    ]
    text_only = RANDOM_BY_PERCENT[100].average or 0.0
    notes += [
        f"'{name}' is close to the {text_only} of a model that sees only the text: check that the "
        "video reaches the model"
        for name, mean in means.items()
        if not mean.missing
        and mean.overall is not None
        and mean.overall < text_only + TEXT_ONLY_MARGIN
    ]
    doubts: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            doubts.setdefault(note, []).append(row.name)
    return notes + [f"{IN_DOUBT} {', '.join(names)}: {note}" for note, names in doubts.items()]


def _mean(scores: Mapping[str, float], columns: Iterable[str]) -> float | None:
    known = [scores[column] for column in columns if _known(scores, column)]
    return sum(known) / len(known) if known else None


def _known(scores: Mapping[str, float], column: str) -> bool:
    return column in scores and not math.isnan(scores[column])


def _cell(value: float | None) -> str:
    return ABSENT if value is None or math.isnan(value) else f"{value:.1f}"


def _paper_cell(row: PaperRow, name: str) -> str:
    value = row.scores.get(name) if name in COLUMNS else getattr(row, name)
    return _cell(value) + (IN_DOUBT if name in row.uncertain else "")
