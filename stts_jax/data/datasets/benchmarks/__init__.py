"""Benchmarks that models are evaluated on; to import this makes all of them known by name."""

from __future__ import annotations

from stts_jax.data.datasets.benchmarks import (  # noqa: F401  (they enter themselves by name)
    ego_schema,
    long_video_bench,
    lvbench,
    mlvu,
    molmo2_pointing,
    motionbench,
    mvbench,
    temp_compass,
    tomato,
    video_eval_pro,
    video_mme,
)

# Each with the split that results are published on. Source: docs/reference.md#benchmarks. NeXT-QA
# and the Perception Test are training sets too, and live there with all their splits.
SHORT_VIDEO = (
    "mvbench:validation",
    "tomato:test",
    "motionbench:validation",
    "temp_compass_internal:validation",
    "perception_test:validation",
    "ego_schema:validation",
    "nextqa_mc:test",
)
LONG_VIDEO = (
    "video_mme:validation",
    "video_mme_w_subtitle:validation",
    "long_video_bench_no_subtitle:validation",
    "long_video_bench_w_subtitle:validation",
    "mlvu_mc:validation",
    "mlvu_gen:validation",
    "lvbench:test",
    "video_eval_pro_mc:test",
)
VIDEO_POINTING = ("molmo2_video_count_eval:val", "molmo2_video_point_eval:val")
BENCHMARKS = SHORT_VIDEO + LONG_VIDEO + VIDEO_POINTING
