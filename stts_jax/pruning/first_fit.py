"""The reference's packing: kept patches of several frames in bins of one frame's size.

Frames are sorted by kept patches, descending, and each goes to the first bin with room
(first-fit decreasing). A frame that is alone in its bin gets all its patches back ("refill"): they
are seen by the kept ones, but their own results are dropped. Released weights were trained so.
Source: paper 3.3 and algorithm 1; olmo/nn/temporal_image_vit.py, `rearrange_tokens`.

One thing differs: where exactly one frame of the batch keeps nothing, the reference runs an extra
bin that nobody reads; we don't.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from stts_jax.attention import attention
from stts_jax.layers.memory_efficient_switch import memory_efficient_switch
from stts_jax.pruning.layout import Step
from stts_jax.pytrees import register_pytree

# Each size bucket is at most this much of the next; more buckets take longer to compile.
BUCKET_STEP = 0.75


@register_pytree
@dataclass(frozen=True)
class FirstFitLayout:
    """Kept patches of the whole batch in bins, (bins, N, ...).

    Attributes:
      source: (bins, N) int32, `(row * T + frame) * N + patch`, B * T * N at empty slots.
      segment_ids: (bins, N) int32, `row * T + frame`, -1 at empty slots.
      slot: (B, T, N) int32, `bin * N + position` of each kept patch, -1 if it is dropped.
      used_bins: () int32, bins that hold anything.
      refilled: (B, T, N) bool, dropped patches that the kept ones still see.
      sizes: size buckets, ascending numbers of bins; the last one is how many there are.
    """

    source: Int[Array, "bins N"]
    segment_ids: Int[Array, "bins N"]
    slot: Int[Array, "B T N"]
    used_bins: Int[Array, ""]
    refilled: Bool[Array, "B T N"]
    sizes: tuple[int, ...] = field(metadata={"static": True})

    def gather(self, x: Num[Array, "B T N D"]) -> Num[Array, "bins N D"]:
        """Moves patches into the bins: (B, T, N, D) -> (bins, N, D), zeros at empty slots."""
        flat = x.reshape(-1, x.shape[-1])
        return flat.at[self.source].get(mode="fill", fill_value=0)

    def attend(
        self,
        query: Float[Array, "bins N H h"],
        key: Float[Array, "bins N H h"],
        value: Float[Array, "bins N H h"],
    ) -> Float[Array, "bins N H h"]:
        """Attends among the patches of each frame: (bins, N, H, d) each."""
        return attention(query, key, value, segment_ids=self.segment_ids)

    def apply_block(self, step: Step, block: Any, x: jax.Array) -> jax.Array:
        """Runs a block on the smallest size bucket that holds the used bins: (bins, N, D).

        The result is zero in bins beyond that size.
        """

        def with_size(
            size: int, operands: tuple[Any, jax.Array], layout: FirstFitLayout
        ) -> jax.Array:
            own_block, own_x = operands
            y = step(own_block, own_x[:size], layout.first(size))
            return jnp.pad(y, [(0, self.sizes[-1] - size), (0, 0), (0, 0)])

        bucket = jnp.searchsorted(jnp.array(self.sizes), self.used_bins)
        branches = [partial(with_size, size) for size in self.sizes]
        stepped: jax.Array = memory_efficient_switch(bucket, branches, (block, x), self)
        return stepped

    def first(self, bins: int) -> FirstFitLayout:
        """Returns the layout of the first `bins` bins alone; the others must be empty."""
        return dataclasses.replace(
            self,
            source=self.source[:bins],
            segment_ids=self.segment_ids[:bins],
            sizes=(bins,),
        )

    def lookup(
        self, features: Num[Array, "bins N D"], patches: Int[Array, "B V G"]
    ) -> Num[Array, "B V G D"]:
        """See `Layout.lookup`; features are (bins, N, D)."""
        rows, frames, count = self.slot.shape
        inside = (patches >= 0) & (patches < frames * count)
        row = jnp.arange(rows)[:, None, None]
        slot = self.slot.reshape(rows, frames * count)[row, jnp.where(inside, patches, 0)]
        flat = features.reshape(-1, features.shape[-1])
        out_of_range = flat.shape[0]
        slot = jnp.where(inside & (slot >= 0), slot, out_of_range)
        return flat.at[slot].get(mode="fill", fill_value=0)


def bin_bound(rows: int, frames: int, patches_per_row: int, patches: int) -> int:
    """Returns how many bins first fit can need, from the static budget alone.

    At most one bin is half full or less, so `2 * kept / N + 1` bins do, and never more than there
    are frames.
    """
    return min(rows * frames, 2 * rows * patches_per_row // patches + 1)


def bin_sizes(rows: int, frames: int, patches_per_row: int, patches: int) -> tuple[int, ...]:
    """Returns the size buckets: ascending numbers of bins, the last one `bin_bound`.

    Frames that happen to fit well need few bins, uneven ones many; the bound alone would make
    everyone pay for the worst case. None is below what perfect packing of full rows needs.
    """
    sizes = [bin_bound(rows, frames, patches_per_row, patches)]
    fewest = -(-rows * patches_per_row // patches)
    while (smaller := int(sizes[-1] * BUCKET_STEP)) >= fewest and smaller > 0:
        sizes.append(smaller)
    return tuple(reversed(sizes))


def first_fit_layout(keep_patches: Bool[Array, "B T N"], sizes: tuple[int, ...]) -> FirstFitLayout:
    """Packs the kept patches of the whole batch, then refills frames that are alone in their bin.

    Args:
      keep_patches: (B, T, N) bool.
      sizes: static numbers of bins, `bin_sizes`; the last one must do.
    """
    bins = sizes[-1]
    rows, frames, patches = keep_patches.shape
    kept = keep_patches.reshape(rows * frames, patches)
    bin_of, offset, alone = _first_fit(kept.sum(-1), bins, patches)
    present = kept | alone[:, None]
    position = jnp.cumsum(present, axis=-1) - 1 + offset[:, None]
    slot = jnp.where(present, bin_of[:, None] * patches + position, bins * patches)
    frame = jnp.broadcast_to(jnp.arange(rows * frames)[:, None], kept.shape)
    index = jnp.arange(rows * frames * patches).reshape(kept.shape)

    def scatter(value: jax.Array, empty: int) -> jax.Array:
        slots = jnp.full((bins * patches,), empty, jnp.int32)
        return slots.at[slot].set(value, mode="drop").reshape(bins, patches)

    return FirstFitLayout(
        source=scatter(index, index.size),
        segment_ids=scatter(frame, -1),
        slot=jnp.where(kept, slot, -1).reshape(keep_patches.shape),
        used_bins=jnp.where(kept.any(-1), bin_of + 1, 0).max(),
        refilled=(present & ~kept).reshape(keep_patches.shape),
        sizes=sizes,
    )


def _first_fit(counts: jax.Array, bins: int, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the bin and offset of each frame, and whether it is alone; (frames,) each."""
    order = jnp.argsort(-counts, stable=True)

    def add_frame(
        used: jax.Array, frame: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        chosen = jnp.argmax(used + counts[frame] <= size)
        return used.at[chosen].add(counts[frame]), (chosen, used[chosen])

    _, (chosen, before) = jax.lax.scan(add_frame, jnp.zeros(bins, counts.dtype), order)
    bin_of = jnp.zeros_like(counts).at[order].set(chosen)
    offset = jnp.zeros_like(counts).at[order].set(before)
    occupied = counts > 0
    frames_in_bin = jnp.zeros(bins, counts.dtype).at[bin_of].add(occupied.astype(counts.dtype))
    return bin_of, offset, occupied & (frames_in_bin[bin_of] == 1)
