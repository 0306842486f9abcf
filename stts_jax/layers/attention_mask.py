"""The mask of the LLM: which token of a row may see which.

Source: olmo/models/molmo2/molmo2.py; docs/reference.md#fusion-and-mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from stts_jax.config import IMAGE_STRUCTURE_TOKENS, Bidirectional, LlmConfig
from stts_jax.layers.attention.masks import PlaceMask, Places, Rule

# Packed example e has this times e added to its subsegment ids (olmo/data/dynamic_packer.py).
EXAMPLE_SUBSEGMENT_INCREMENT = 100000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenTable:
    """What the mask needs to know of each token, all (B, L).

    Attributes:
      index: physical order in the row; a token sees itself and what comes before.
      valid: False for padding, which nobody sees.
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
    """(B, L) ids, -1 for padding -> what the mask needs."""
    visual_ids = jnp.array([config.special_token(name) for name in IMAGE_STRUCTURE_TOKENS])
    starts = jnp.array([config.special_token(n) for n in ("<frame_start>", "<low_res_im_start>")])
    return TokenTable(
        index=jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape),
        valid=input_ids >= 0,
        visual=jnp.isin(input_ids, visual_ids),
        frame=jnp.cumsum(jnp.isin(input_ids, starts), axis=1),
        subsegment=subsegment_ids,
    )


def attention_mask(queries: TokenTable, keys: TokenTable, mode: Bidirectional) -> PlaceMask:
    """Of (B, Lq) and (B, Lk) tokens: which query may look at which key.

    Causal; visual tokens of one example also look forward at each other (`image_tokens`), or at
    those of their own and earlier frames (`within_image`). Nobody sees padding.
    """
    mutual, framed = mode != "none", mode == "within_image"
    return PlaceMask(
        _places(queries, queries.subsegment, mutual, framed, no_group=-1),
        _places(keys, jnp.where(keys.valid, keys.subsegment, -1), mutual, framed, no_group=-2),
        Rule(causal=True, mutual=mutual, framed=framed, segments="from"),
    )


def _places(
    tokens: TokenTable, segment: jax.Array, mutual: bool, framed: bool, no_group: int
) -> Places:
    group = jnp.where(tokens.visual, tokens.subsegment // EXAMPLE_SUBSEGMENT_INCREMENT, no_group)
    return Places(
        index=tokens.index,
        group=group if mutual else None,
        frame=tokens.frame if framed else None,
        segment=segment,
    )
