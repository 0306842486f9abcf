"""What the demos of several seeds have in common: means with their spread, and the claims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.demo.claims import Claim, claims_over_seeds
from stts_jax.demo.figures import accuracy_against_ratio
from stts_jax.demo.plan import TEXT_ONLY, UNPRUNED, Plan, specialist
from stts_jax.demo.report import table_of_claims
from stts_jax.demo.summaries import accuracies

SUMMARY = "summary.json"
OWN_RATIO = "STTS trained at each ratio"


def table_of_seeds(plan: Plan, summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a table of mean accuracies with their standard deviations over seeds, in percent."""
    ratios = sorted({*plan.ratios, *plan.auto})
    lines = [
        f"| % of tokens dropped | {' | '.join(f'{k} %' for k in ratios)} |",
        "|---" * (len(ratios) + 1) + "|",
    ]
    rows = {"unpruned": accuracies(summaries, UNPRUNED)}
    if plan.specialists:
        names = {k: specialist(k).name for k in _specialists(plan)}
        rows[OWN_RATIO] = {k: accuracies(summaries, name)[k] for k, name in names.items()}
    rows |= {method.label: accuracies(summaries, method.name) for method in plan.compared}
    text_only = accuracies(summaries, TEXT_ONLY)[100]
    for label, found in rows.items():
        cells = (_mean_and_spread(found[k]) if k in found else "-" for k in ratios)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, "", f"Without visual tokens: {_mean_and_spread(text_only)} %."]


def claims_of_seeds(plan: Plan, summaries: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """Returns the claims about each seed, and those about their means."""
    return claims_over_seeds(summaries, _specialists(plan)) if plan.claims else []


def read_summaries(folder: Path) -> list[dict[str, Any]]:
    """Returns the summaries of the seeds whose reports are in a folder, in order."""
    found = [json.loads(path.read_text()) for path in folder.glob(f"*/{SUMMARY}")]
    return sorted(found, key=lambda summary: summary["seed"])


def publish_seeds(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Writes `report.md` and `accuracy.png` of the seeds whose reports are in a folder.

    Returns:
      their summaries, in the order of the seeds.
    """
    summaries = read_summaries(folder)
    accuracy_against_ratio(summaries, plan.compared, folder / "accuracy.png")
    held = claims_of_seeds(plan, summaries)
    seeds = ", ".join(str(summary["seed"]) for summary in summaries)
    several = "s" if len(summaries) > 1 else ""
    lines = [
        "# Demo over several seeds",
        "",
        f"Seed{several} {seeds}: accuracy in percent, mean and standard deviation, on some "
        f"{summaries[0]['questions']} held-out questions for each seed.",
        "",
        *table_of_seeds(plan, summaries),
        "",
        *([*table_of_claims(held), ""] if held else []),
        "![Accuracy against the share of visual tokens dropped](accuracy.png)",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    return summaries


def _specialists(plan: Plan) -> tuple[int, ...]:
    return tuple(sorted((*plan.specialists, plan.fixed_ratio)))


def _mean_and_spread(shares: Sequence[float]) -> str:
    spread = f" ± {np.std(shares):.1f}" if len(shares) > 1 else ""
    return f"{np.mean(shares):.1f}{spread}"
