"""The mask of the LLM: which tokens of a row see each other.

Source: olmo/models/molmo2/molmo2.py; docs/reference.md#fusion-and-mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from stts_jax.attention import IndexMask, MaskSpec, TokenMaskIds
from stts_jax.budget import EXAMPLE_SUBSEGMENT_INCREMENT
from stts_jax.config import IMAGE_STRUCTURE_TOKENS, Bidirectional, LlmConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenTable:
    """The properties of each token that the mask compares, (B, L) each.

    Attributes:
      index: position in the row; a token sees itself and those before.
      valid: False for padding, which no token sees.
      visual: one of the image-structure tokens.
      frame: running count of frame (or low-resolution image) starts.
      subsegment: a query sees a key only if its subsegment id is at most the key's.
    """

    index: jax.Array
    valid: jax.Array
    visual: jax.Array
    frame: jax.Array
    subsegment: jax.Array


def token_table(input_ids: jax.Array, subsegment_ids: jax.Array, config: LlmConfig) -> TokenTable:
    """Returns the table of (B, L) input ids, -1 for padding, and (B, L) subsegment ids."""
    visual_ids = jnp.array([config.special_token(name) for name in IMAGE_STRUCTURE_TOKENS])
    starts = jnp.array([config.special_token(n) for n in ("<frame_start>", "<low_res_im_start>")])
    return TokenTable(
        index=jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape),
        valid=input_ids >= 0,
        visual=jnp.isin(input_ids, visual_ids),
        frame=jnp.cumsum(jnp.isin(input_ids, starts), axis=1),
        subsegment=subsegment_ids,
    )


def attention_mask(queries: TokenTable, keys: TokenTable, mode: Bidirectional) -> IndexMask:
    """Returns which of (B, Lq) queries see which of (B, Lk) keys.

    Causal; visual tokens of one example also look forward at each other (`image_tokens`), or at
    those of their own and earlier frames (`within_image`). No token sees padding.
    """
    mutual, framed = mode != "none", mode == "within_image"
    return IndexMask(
        _mask_ids(queries, queries.subsegment, mutual, framed, no_group=-1),
        _mask_ids(keys, jnp.where(keys.valid, keys.subsegment, -1), mutual, framed, no_group=-2),
        MaskSpec(causal=True, mutual=mutual, framed=framed, segments="from"),
    )


def _mask_ids(
    tokens: TokenTable, segment: jax.Array, mutual: bool, framed: bool, no_group: int
) -> TokenMaskIds:
    group = jnp.where(tokens.visual, tokens.subsegment // EXAMPLE_SUBSEGMENT_INCREMENT, no_group)
    return TokenMaskIds(
        index=tokens.index,
        group=group if mutual else None,
        frame=tokens.frame if framed else None,
        segment=segment,
    )
