"""The LLM's side of the drop: which tokens of a batch stay, and their text arrays."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from stts_jax.budget import Budget
from stts_jax.config import LlmConfig
from stts_jax.parallel.platform import row_length
from stts_jax.pruning.plan import PruningPlan

# The text arrays of a batch, and their values at padding.
TEXT_FILL = {
    "input_ids": -1,
    "labels": 0,
    "loss_masks": 0,
    "position_ids": 0,
    "subsegment_ids": 0,
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeptTokens:
    """The tokens of each row that stay in the LLM's input, padded to L.

    Attributes:
      windows: (B, V, G) int32, patches of each visual token that stays, -1 at empty entries.
      text: the arrays of `TEXT_FILL`, (B, L) each.
      is_visual: (B, L) bool, tokens that stand for a pooling window.
      source: (B, L) int32, position of each token in the row before the drop.
    """

    windows: jax.Array
    text: dict[str, jax.Array]
    is_visual: jax.Array
    source: jax.Array


def keep_tokens(
    plan: PruningPlan, batch: dict[str, jax.Array], budget: Budget, config: LlmConfig
) -> KeptTokens:
    """Drops from the text arrays of a batch what a plan drops.

    Args:
      plan: of the drop.
      batch: the arrays of `budget.batch_arrays`.
      budget: static sizes.
      config: of the LLM, for the id of visual tokens.
    """
    ids, visual_id = batch["input_ids"], config.special_token("<im_patch>")
    kept = plan.llm_tokens(
        batch["token_pooling"],
        ids == visual_id,
        ids >= 0,
        visual=budget.visual,
        tokens=row_length(budget.tokens),
    )
    text = {name: kept.gather(batch[name], fill) for name, fill in TEXT_FILL.items()}
    return KeptTokens(kept.windows, text, text["input_ids"] == visual_id, kept.source)
