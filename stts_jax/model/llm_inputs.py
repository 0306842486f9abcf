"""The LLM's side of the drop: which tokens of a batch stay, and their text arrays."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Array, Bool, Int

from stts_jax.batch import TextRows
from stts_jax.budget import Budget
from stts_jax.config import LlmConfig
from stts_jax.parallel.platform import row_length
from stts_jax.pruning.plan import PruningPlan
from stts_jax.pytrees import register_pytree


@register_pytree
@dataclass(frozen=True)
class KeptTokens:
    """The tokens of each row that stay in the LLM's input, padded to L.

    Attributes:
      windows: (B, V, G) int32, patches of each visual token that stays, -1 at empty entries.
      text: of these tokens.
      is_visual: (B, L) bool, tokens that stand for a pooling window.
      source: (B, L) int32, position of each token in the row before the drop.
    """

    windows: Int[Array, "B V G"]
    text: TextRows
    is_visual: Bool[Array, "B L"]
    source: Int[Array, "B L"]


def keep_tokens(
    plan: PruningPlan,
    token_pooling: Int[Array, "B V_before G"],
    text: TextRows,
    budget: Budget,
    config: LlmConfig,
) -> KeptTokens:
    """Drops from the tokens of a batch what a plan drops.

    Args:
      plan: of the drop.
      token_pooling: (B, V before, G) int32, the patches of each visual token; see `Batch`.
      text: the tokens before the drop.
      budget: static sizes.
      config: of the LLM, for the id of visual tokens.
    """
    visual_id = config.special_token("<im_patch>")
    kept = plan.llm_tokens(
        token_pooling,
        text.input_ids == visual_id,
        text.input_ids >= 0,
        visual=budget.visual,
        tokens=row_length(budget.tokens),
    )
    left = TextRows(
        input_ids=kept.gather(text.input_ids, -1),
        labels=kept.gather(text.labels, 0),
        loss_masks=kept.gather(text.loss_masks, 0),
        position_ids=kept.gather(text.position_ids, 0),
        subsegment_ids=kept.gather(text.subsegment_ids, 0),
    )
    return KeptTokens(kept.windows, left, left.input_ids == visual_id, kept.source)
