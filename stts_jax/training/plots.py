"""`loss.png`: the curves of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stts_jax.training.checkpoint import writing
from stts_jax.training.log import METRICS_FILE, read_metrics

LOSS_PLOT = "loss.png"
# Curves are drawn as they are and, darker, as a running mean over this share of the run.
_SMOOTHING = 0.05


def plot_training(output: Path) -> Path | None:
    """Draw loss, accuracy and temporal loss over the steps, from `metrics.jsonl` of a run.

    Returns:
      The picture, or None if there is no step to draw yet.
    """
    records = read_metrics(output / METRICS_FILE)
    steps = [record for record in records if "loss" in record]
    if not steps:
        return None
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (title, name) in zip(
        axes,
        (("loss", "loss"), ("accuracy", "accuracy"), ("temporal loss", "auxiliary_loss")),
        strict=True,
    ):
        _curve(axis, [r["step"] for r in steps], [r[name] for r in steps])
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    _evaluations(axes[1], [record for record in records if "evaluation" in record])
    axes[1].set_ylim(0, 1)
    path = output / LOSS_PLOT
    with writing(path):
        figure.savefig(path, dpi=110)
    return path


def _curve(axis: Axes, steps: Sequence[int], values: Sequence[float]) -> None:
    axis.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=1)
    width = max(1, round(_SMOOTHING * len(values)))
    if width > 1:
        mean = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axis.plot(steps[width - 1 :], mean, color="tab:blue", linewidth=1.5, label="training")


def _evaluations(axis: Axes, records: Sequence[dict[str, Any]]) -> None:
    """Answers that are right on the validation set; the curve is of single tokens."""
    points = [
        (r["step"], r["evaluation"]["accuracy"]) for r in records if "accuracy" in r["evaluation"]
    ]
    if points:
        axis.plot(*zip(*points, strict=True), "o-", color="tab:orange", label="validation")
        axis.legend(loc="lower right")
