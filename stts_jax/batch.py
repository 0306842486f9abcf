"""A batch: what the data pipeline makes and the model reads.

The letters of shapes are those of docs/method.md#shapes.
"""

# Annotations are objects here, not strings: only so are fields of dataclasses checked in tests.

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float, Int, Num

from stts_jax.pytrees import register_pytree


@register_pytree
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

    input_ids: Int[Any, "*B L"]
    labels: Int[Any, "*B L"]
    loss_masks: Float[Any, "*B L"]
    position_ids: Int[Any, "*B L"]
    subsegment_ids: Int[Any, "*B L"]


@register_pytree
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
      to_prune: (B, M) int32, k of each example: the pooled tokens that it loses. By default the
        model's ratio says it.
      threshold: (B,) float32, for a model with `prune.threshold`: the score that a token of the row
        needs to stay. By default the model's own.
    """

    images: Num[Any, "*B T N patch_dim"]
    num_images: Int[Any, "*B M"]
    multimodal_type: Int[Any, "*B M"]
    token_pooling: Int[Any, "*B V G"]
    text: TextRows
    to_prune: Int[Any, "*B M"] | None = None
    threshold: Float[Any, "*B"] | None = None

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "Batch":
        """Returns the batch of these arrays.

        Args:
          arrays: by the names of the fields, those of the text among them; `to_prune` and
            `threshold` may be absent.

        Raises:
          KeyError: if one is missing.
        """
        own = {name: arrays[name] for name in VISUAL_FIELDS}
        own |= {name: arrays.get(name) for name in OPTIONAL_FIELDS}
        return Batch(**own, text=TextRows(**{name: arrays[name] for name in TEXT_FIELDS}))

    def to_arrays(self) -> dict[str, Any]:
        """Returns all arrays by the names of the fields, those of the text among them."""
        own = {name: getattr(self, name) for name in VISUAL_FIELDS}
        found = ((name, getattr(self, name)) for name in OPTIONAL_FIELDS)
        own |= {name: array for name, array in found if array is not None}
        return own | {name: getattr(self.text, name) for name in TEXT_FIELDS}


TEXT_FIELDS = tuple(field.name for field in fields(TextRows))
OPTIONAL_FIELDS = ("to_prune", "threshold")
VISUAL_FIELDS = tuple(f.name for f in fields(Batch) if f.name not in ("text", *OPTIONAL_FIELDS))
