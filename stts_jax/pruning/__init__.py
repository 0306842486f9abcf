"""The paper: scoring tokens, selecting those that stay, dropping the rest in the ViT and the LLM.

Nothing here knows Molmo2: widths, windows and counts are arguments. `docs/method.md` follows the
paper's equations to the lines here, `docs/your_own_vit.md` prunes another ViT with these names.
"""

from __future__ import annotations

from stts_jax.pruning.baselines import BASELINES, BaselineInputs, baseline_scores, merge_targets
from stts_jax.pruning.first_fit import FirstFitLayout, bin_sizes, first_fit_layout
from stts_jax.pruning.frames import FrameTable, frame_table
from stts_jax.pruning.layout import DenseLayout, Layout
from stts_jax.pruning.merging import Merging
from stts_jax.pruning.plan import LlmTokens, PruningPlan, at_visual_tokens, make_plan
from stts_jax.pruning.pooling_windows import to_patches, to_windows
from stts_jax.pruning.score_bias import score_bias
from stts_jax.pruning.scorer import TokenScorer
from stts_jax.pruning.selection import protect_first_frames, select
from stts_jax.pruning.stream import StreamLayout, stream_layout, stream_size
from stts_jax.pruning.temporal_loss import temporal_loss

__all__ = [
    "BASELINES",
    "BaselineInputs",
    "DenseLayout",
    "FirstFitLayout",
    "FrameTable",
    "Layout",
    "LlmTokens",
    "Merging",
    "PruningPlan",
    "StreamLayout",
    "TokenScorer",
    "at_visual_tokens",
    "baseline_scores",
    "bin_sizes",
    "first_fit_layout",
    "frame_table",
    "make_plan",
    "merge_targets",
    "protect_first_frames",
    "score_bias",
    "select",
    "stream_layout",
    "stream_size",
    "temporal_loss",
    "to_patches",
    "to_windows",
]
