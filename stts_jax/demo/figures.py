"""Plots of the demo."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stts_jax.demo.plan import TEXT_ONLY, UNPRUNED, Method
from stts_jax.training.log import METRICS_FILE, read_metrics


def accuracy_against_ratio(
    summary: Mapping[str, Any], methods: Sequence[Method], path: Path
) -> None:
    """Draws the paper's Figure 1: accuracy of each method over the share of dropped tokens."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    runs = [run for run in summary["runs"] if run["packing"] == "stream"]
    start = next(run for run in runs if run["method"] == UNPRUNED)
    for method in methods:
        own = sorted((r for r in runs if r["method"] == method.name), key=lambda r: r["k"])
        shares = [100 * run["accuracy"] for run in own]
        axis.plot([run["k"] for run in own], shares, marker="o", label=method.label)
    axis.plot(0, 100 * start["accuracy"], "k*", markersize=10, label="before the fine-tunes")
    text_only = next(run for run in runs if run["method"] == TEXT_ONLY)
    axis.axhline(100 * text_only["accuracy"], color="grey", linestyle=":", label=TEXT_ONLY)
    axis.axhline(100 * summary["guessing"], color="grey", linestyle="--", label="guessing")
    axis.set(xlabel="visual tokens dropped (%)", ylabel="accuracy (%)", ylim=(0, 100))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


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
