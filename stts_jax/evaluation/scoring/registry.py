"""Metrics by name."""

from __future__ import annotations

from collections.abc import Callable

from stts_jax.evaluation.scoring import cleaned, video_benchmarks
from stts_jax.evaluation.scoring.judge import Judge
from stts_jax.evaluation.scoring.mlvu_generation import mlvu_generation
from stts_jax.evaluation.scoring.pointing import IMAGE_POINTING, VIDEO_COUNTING, VIDEO_POINTING
from stts_jax.evaluation.scoring.score import Metric, ScoringError
from stts_jax.evaluation.scoring.segments import QV_HIGHLIGHTS
from stts_jax.evaluation.scoring.temp_compass import RULE_TASKS, TASKS, temp_compass
from stts_jax.evaluation.scoring.tracking import TRACKING

_PLAIN = {
    metric.name: metric
    for metric in (
        *cleaned.METRICS,
        video_benchmarks.video_mme(),
        video_benchmarks.LONG_VIDEO_BENCH,
        video_benchmarks.LV_BENCH,
        video_benchmarks.TOMATO,
        video_benchmarks.TEMPORAL_BENCH,
        QV_HIGHLIGHTS,
        IMAGE_POINTING,
        VIDEO_POINTING,
        VIDEO_COUNTING,
        TRACKING,
    )
}
# Those that may ask a judge.
_JUDGED: dict[str, Callable[[Judge | None], Metric]] = {
    "temp_compass": lambda judge: temp_compass(judge, RULE_TASKS),
    "temp_compass_all": lambda judge: temp_compass(judge, TASKS),
    "mlvu_gen": mlvu_generation,
}


def metric_names() -> tuple[str, ...]:
    """All known names."""
    return tuple(sorted({*_PLAIN, *_JUDGED}))


def may_ask_judge(name: str) -> bool:
    """Whether the metric of a name has answers that no rule can score."""
    return name in _JUDGED


def metric_named(name: str, judge: Judge | None = None) -> Metric:
    """The metric of a name.

    Args:
      name: one of `metric_names`.
      judge: for answers that no rule can score; without it they are reported as not judged.

    Raises:
      ScoringError: if there is none.
    """
    if name in _PLAIN:
        return _PLAIN[name]
    if name in _JUDGED:
        return _JUDGED[name](judge)
    raise ScoringError(f"no metric is called '{name}'; known are {', '.join(metric_names())}")
