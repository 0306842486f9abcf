"""`report.md`: tables and pictures of a run of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stts_jax.demo.claims import Claim
from stts_jax.demo.plan import UNPRUNED


def write_report(
    summary: Mapping[str, Any],
    claims: Sequence[Claim],
    pictures: Mapping[str, str],
    path: Path,
) -> None:
    """Writes the report.

    Args:
      summary: as in `summary.json`.
      claims: what the run was held against; empty for a short run.
      pictures: captions by file, relative to the report.
      path: of the report.
    """
    lines = [
        "# Demo",
        "",
        f"{summary['videos']} procedural videos, seed {summary['seed']}; unpruned training "
        f"{summary['steps']} steps, then each method is fine-tuned from it for "
        f"{summary['fine_tune_steps']} steps over several ratios of the visual tokens dropped, and "
        f"STTS at {summary['fixed_ratio']} % too. {summary['questions']} held-out questions; "
        f"guessing gets "
        f"{100 * summary['guessing']:.1f} %. Took {summary['minutes']:.1f} minutes.",
        "",
        *comparison_table(summary),
        "",
    ]
    if claims:
        lines += [*table_of_claims(claims), ""]
    else:
        lines += ["This was a short run: it shows that all parts work, not what they achieve.", ""]
    lines += [*type_table(summary), ""]
    for file, caption in pictures.items():
        lines += [f"![{caption}]({file})", "", caption, ""]
    path.write_text("\n".join(lines))


def table_of_claims(claims: Sequence[Claim]) -> list[str]:
    """Returns the table of claims, their figures, and whether they hold."""
    rows = [f"| {c.text} | {c.figures} | {'yes' if c.holds else 'NO'} |" for c in claims]
    return ["| claim | figures | holds |", "|---|---|---|", *rows]


def comparison_table(summary: Mapping[str, Any]) -> list[str]:
    """Returns the table of accuracy, tokens and speed of every run."""
    lines = [
        "| method | dropped | packing | accuracy | visual tokens | answers/s | training videos/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in summary["runs"]:
        rate = run["train_steps_per_s"] and run["train_steps_per_s"] * run["videos_per_step"]
        answers = run["questions_per_s"]  # 0 if a single batch was answered, which compiles
        lines.append(
            f"| {run['method']} | {run['k']} % | {run['packing']} | {100 * run['accuracy']:.1f} % "
            f"| {run['visual_tokens']:.0f} | {f'{answers:.0f}' if answers else '-'} "
            f"| {'-' if rate is None else f'{rate:.1f}'} |"
        )
    return lines


def type_table(summary: Mapping[str, Any]) -> list[str]:
    """Returns the table of accuracy by type of question, unpruned and for each method."""
    ratio = summary["fixed_ratio"]
    runs = [
        run
        for run in summary["runs"]
        if run["packing"] == "stream" and (run["method"] == UNPRUNED or run["k"] == ratio)
    ]
    names = [f"{run['method']} {run['k']} %" for run in runs]
    lines = [f"| type | {' | '.join(names)} |", "|---" * (len(runs) + 1) + "|"]
    for kind in sorted({kind for run in runs for kind in run["accuracy_by_type"]}):
        shares = (run["accuracy_by_type"].get(kind) for run in runs)
        cells = ("-" if share is None else f"{100 * share:.0f} %" for share in shares)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines
