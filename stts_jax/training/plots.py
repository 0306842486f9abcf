"""Draws `loss.png`, the curves of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stts_jax.training.checkpointing.checkpoint_errors import writing
from stts_jax.training.log import METRICS_FILE, read_metrics

LOSS_PLOT = "loss.png"
# Curves are drawn as they are and, darker, as a running mean over this share of the run.
_SMOOTHING = 0.05


def plot_training(output: Path) -> Path | None:
    """Draws the curves of a run over its steps, from `metrics.jsonl`.

    Accuracy of single tokens on the training set, with the right tokens before them, and accuracy
    of whole answers on the validation set are different measures, so each has its own axes.

    Returns:
      path of the picture, or None if there is no step to draw yet.
    """
    records = read_metrics(output / METRICS_FILE)
    steps = [record for record in records if "loss" in record]
    if not steps:
        return None
    evaluations = [r for r in records if "accuracy" in r.get("evaluation", {})]
    curves = [("loss", "loss"), ("training: tokens predicted right", "accuracy")]
    curves.append(("temporal loss", "auxiliary_loss"))
    figure = Figure(figsize=(4 * (len(curves) + bool(evaluations)), 3.5), layout="constrained")
    axes = figure.subplots(1, len(curves) + bool(evaluations))
    for axis, (title, name) in zip(axes, curves, strict=False):
        _curve(axis, [r["step"] for r in steps], [r[name] for r in steps])
        axis.set_title(title)
    axes[1].set_ylim(0, 1)
    if evaluations:
        _evaluations(axes[-1], evaluations)
        axes[-1].set_xlim(axes[0].get_xlim())
    for axis in axes:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    path = output / LOSS_PLOT
    with writing(path):
        figure.savefig(path, dpi=110)
    return path


def _curve(axis: Axes, steps: Sequence[int], values: Sequence[float]) -> None:
    axis.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=1)
    width = max(1, round(_SMOOTHING * len(values)))
    if width > 1:
        mean = np.convolve(values, np.full(width, 1 / width), mode="valid")
        axis.plot(steps[width - 1 :], mean, color="tab:blue", linewidth=1.5)


def _evaluations(axis: Axes, records: Sequence[dict[str, Any]]) -> None:
    points = [(r["step"], r["evaluation"]["accuracy"]) for r in records]
    axis.plot(*zip(*points, strict=True), "o-", color="tab:orange")
    axis.set_title("validation: answers that are right")
    axis.set_ylim(0, 1)
