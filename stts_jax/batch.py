"""A batch: what the data pipeline makes and the model reads.

JAX is imported only to register the dataclasses as pytrees, so that `jax.jit` and `jax.tree.map`
take them; grain imports it anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextRows:
    """The text of rows, L tokens each: before the drop in a `Batch`, after it in the LLM's input.

    The data pipeline pads all arrays with -1 but `loss_masks` with 0; after the drop only
    `input_ids` are padded with -1, all others with 0.
    Source: docs/reference.md#packer, docs/reference.md#fusion-and-mask.

    Attributes:
      input_ids: (B, L) int32 token ids; -1 is padding.
      labels: (B, L) int32, the next token, already shifted.
      loss_masks: (B, L) float32, weight of each position's loss.
      position_ids: (B, L) int32 rotary positions.
      subsegment_ids: (B, L) int32; a query sees a key only if its id is at most the key's.
        `budget.EXAMPLE_SUBSEGMENT_INCREMENT` more for each further example of the row.
    """

    input_ids: Any
    labels: Any
    loss_masks: Any
    position_ids: Any
    subsegment_ids: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """B rows of one `Budget`, as NumPy arrays on the host or as JAX arrays on devices.

    A row by itself has the same fields without the axis B. `budget.batch_arrays` gives the shapes
    and dtypes of a budget.
    Source: docs/reference.md#packer.

    Attributes:
      images: (B, T, N, patch_dim) uint8 pixels, 0 in padding frames.
      num_images: (B, M) int32, frames of each example in row order, -1 where there is none.
      multimodal_type: (B, M) int32 `MultimodalType` of each example, -1 where there is none.
      token_pooling: (B, V, G) int32, for each `<im_patch>` token of the row in order, the patches
        it pools, as `frame * N + patch` in the row; -1 is an empty entry, padding rows are all -1.
      text: the tokens, visual tokens included, before the drop.
    """

    images: Any
    num_images: Any
    multimodal_type: Any
    token_pooling: Any
    text: TextRows

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Returns the batch of these arrays.

        Args:
          arrays: by the names of the fields, those of the text among them.

        Raises:
          KeyError: if one is missing.
        """
        own = {name: arrays[name] for name in VISUAL_FIELDS}
        return cls(**own, text=TextRows(**{name: arrays[name] for name in TEXT_FIELDS}))

    def to_arrays(self) -> dict[str, Any]:
        """Returns all arrays by the names of the fields, those of the text among them."""
        own = {name: getattr(self, name) for name in VISUAL_FIELDS}
        return own | {name: getattr(self.text, name) for name in TEXT_FIELDS}


TEXT_FIELDS = tuple(field.name for field in fields(TextRows))
VISUAL_FIELDS = tuple(field.name for field in fields(Batch) if field.name != "text")
