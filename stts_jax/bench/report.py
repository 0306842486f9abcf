"""Reports measured and ideal speed-ups: a table, JSON, and a picture."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from stts_jax.bench.race import Times, ratios, speedup, spread

# Required shares of the ideal.
REQUIRED = {"vit": 0.85, "prefill": None, "forward": 0.90, "step": 0.90}
Key = tuple[str, float]


def result_rows(times: Mapping[Key, Times], flops: Mapping[Key, float]) -> list[dict[str, Any]]:
    """Returns one row for each part and ratio.

    Args:
      times: by part and ratio; ratio 0 is the unpruned baseline and must be there.
      flops: likewise.
    """
    rows = []
    for (part, ratio), own in times.items():
        baseline = times[part, 0.0]
        ideal = flops[part, 0.0] / flops[part, ratio]
        measured, of_cores = speedup(baseline, own), speedup(baseline, own, "cores")
        rows.append(
            {
                "part": part,
                "ratio": ratio,
                "seconds": own.median(),
                "core_seconds": own.median("cores"),
                "gflops": flops[part, ratio] / 1e9,
                "ideal": ideal,
                "measured": measured,
                "measured_cores": of_cores,
                "measured_in_rounds": ratios(baseline, own),
                "measured_cores_in_rounds": ratios(baseline, own, "cores"),
                "share": measured / ideal,
                "share_cores": of_cores / ideal,
                "required": REQUIRED[part],
            }
        )
    return rows


def measured_on(frames: int, rounds: int, load: Sequence[float]) -> dict[str, Any]:
    """Returns the common fields of all result files.

    Args:
      frames: of the video.
      rounds: turns of each program.
      load: average of the last minute, before the first turn and after the last.
    """
    return {
        "frames": frames,
        "rounds": rounds,
        "machine": {
            "backend": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "cores": len(os.sched_getaffinity(0)),
            "load_before_and_after": list(load),
            "platform": platform.platform(),
            "jax": jax.__version__,
        },
    }


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows as a Markdown table."""
    lines = [
        "| part | dropped | seconds | core-s | GFLOP | ideal | measured | share of ideal "
        "| of core time | wanted |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        wanted = "-" if row["required"] is None or not row["ratio"] else f"{row['required']:.2f}"
        lines.append(
            f"| {row['part']} | {row['ratio']:.0%} | {row['seconds']:.2f} "
            f"| {row['core_seconds']:.2f} | {row['gflops']:.1f} | {row['ideal']:.2f}x "
            f"| {row['measured']:.2f}x {spread(row['measured_in_rounds'])} | {row['share']:.2f} "
            f"| {row['share_cores']:.2f} | {wanted} |"
        )
    return "\n".join(lines)


def selection_shares(times: Mapping[Key, Times]) -> dict[float, float]:
    """Returns the share of selection and layout in a step's core time, at each ratio."""
    return {
        ratio: own.median("cores") / times["step", ratio].median("cores")
        for (part, ratio), own in times.items()
        if part == "selection" and ratio
    }


def selection_line(shares: Mapping[float, float]) -> str:
    """Formats the shares as a sentence."""
    each = [f"{share:.2%} at {ratio:.0%} dropped" for ratio, share in shares.items()]
    return f"selection and packing, of a step's core time: {', '.join(each)}"


def stages(rows: Sequence[Mapping[str, Any]]) -> dict[float, dict[str, float]]:
    """Returns core-seconds of a step's stages by ratio, by subtraction.

    Only of ratios of which all four parts were measured.
    """
    by_ratio: dict[float, dict[str, float]] = {}
    for row in rows:
        by_ratio.setdefault(row["ratio"], {})[row["part"]] = row["core_seconds"]
    return {
        ratio: {
            "ViT": parts["vit"],
            "connector, selection, loss": max(
                parts["forward"] - parts["vit"] - parts["prefill"], 0.0
            ),
            "LLM": parts["prefill"],
            "backward and update": max(parts["step"] - parts["forward"], 0.0),
        }
        for ratio, parts in by_ratio.items()
        if len(parts) == 4
    }


def draw_stages(rows: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draws a bar of stages for each ratio, with a mark at the ideal.

    Returns:
      whether there was one to draw.
    """
    bars = stages(rows)
    if not bars:
        return False
    figure = Figure(figsize=(9, 1.0 + 0.6 * len(bars)), layout="constrained")
    axis = figure.subplots()
    ideal = {row["ratio"]: row["ideal"] for row in rows if row["part"] == "step"}
    whole = sum(bars[0.0].values()) if 0.0 in bars else None
    labels = [f"{ratio:.0%} dropped" for ratio in bars]
    left = [0.0] * len(bars)
    for stage in next(iter(bars.values())):
        widths = [parts[stage] for parts in bars.values()]
        axis.barh(labels, widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    if whole is not None:
        for row, ratio in enumerate(bars):
            axis.plot([whole / ideal[ratio]] * 2, [row - 0.4, row + 0.4], color="black")
    axis.invert_yaxis()
    axis.set_xlabel("core-seconds of a training step (black: where arithmetic alone would end it)")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return True
