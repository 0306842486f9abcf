"""Plots of the demo."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stts_jax.demo.plan import TEXT_ONLY, UNPRUNED, Method
from stts_jax.demo.summaries import accuracies
from stts_jax.training.log import METRICS_FILE, read_metrics


def accuracy_against_ratio(
    summaries: Sequence[Mapping[str, Any]], methods: Sequence[Method], path: Path
) -> None:
    """Draws the paper's Figure 1: accuracy of each method over the share of dropped tokens.

    Args:
      summaries: of one seed, or of several, whose means are drawn with their standard deviations.
      methods: to draw.
      path: of the picture.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for method in methods:
        found = accuracies(summaries, method.name)
        ratios = sorted(found)
        means = [np.mean(found[k]) for k in ratios]
        spreads = [np.std(found[k]) for k in ratios] if len(summaries) > 1 else None
        axis.errorbar(ratios, means, spreads, marker="o", capsize=3, label=method.label)
    axis.plot(0, _mean(summaries, UNPRUNED, 0), "k*", markersize=10, label="before the fine-tunes")
    text_only = _mean(summaries, TEXT_ONLY, 100)
    axis.axhline(text_only, color="grey", linestyle=":", label=TEXT_ONLY)
    guessing = 100 * np.mean([summary["guessing"] for summary in summaries])
    axis.axhline(guessing, color="grey", linestyle="--", label="guessing")
    axis.set(xlabel="visual tokens dropped (%)", ylabel="accuracy (%)", ylim=(0, 100))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


def _mean(summaries: Sequence[Mapping[str, Any]], method: str, k: int) -> float:
    return float(np.mean(accuracies(summaries, method)[k]))


def loss_curves(output: Path, names: Sequence[str], path: Path) -> None:
    """Draws the loss of every training, one after the other."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name in names:
        records = [r for r in read_metrics(output / name / METRICS_FILE) if "loss" in r]
        losses = np.array([record["loss"] for record in records])
        width = max(1, len(losses) // 30)
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axis.plot([record["step"] for record in records][width - 1 :], smooth, label=name)
    axis.set(xlabel="step", ylabel="loss")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


def save_summary(summary: Mapping[str, Any], path: Path) -> None:
    """Writes `summary.json`."""
    path.write_text(json.dumps(summary, indent=2) + "\n")
