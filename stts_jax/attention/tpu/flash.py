"""Flash attention under an `IndexMask`, for TPUs: no Lq x Lk array exists.

Source: FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2.

`IndexMask.may_hold` says beforehand which pairs of blocks may have visible scores; the others are
neither fetched nor computed. Scores are (keys, queries). Heads stay side by side as the projections
make them: a block is some rows of a head's lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from stts_jax.attention.masks import IndexMask
from stts_jax.attention.requests import AttentionRequest
from stts_jax.attention.softmax import attention_vjp, softmax_delta
from stts_jax.attention.tpu.flash_kernels import dkv_kernel, dq_kernel, forward_kernel

BLOCKS = (512, 256, 128)
# The lanes of a head start at a tile's first; heads of another width are padded.
LANES = 128


def unsupported(request: AttentionRequest) -> str | None:
    """Returns why the kernels cannot compute a request on any TPU, or None."""
    return request.flash_unsupported(BLOCKS[-1])


def flash_attention(request: AttentionRequest, *, interpret: bool = False) -> jax.Array:
    """Computes `attention`.

    Args:
      request: for which `unsupported` is None.
      interpret: run the kernels' Python on any device, slowly.
    """
    request = request.with_one_mask()
    assert isinstance(request.mask, IndexMask)
    rows, queries, _, width = request.query.shape
    keys = request.key.shape[1]
    size = next(n for n in BLOCKS if n <= min(queries, keys))
    mask = request.mask.padded(rows, queries, keys, size)
    lanes = -(-width // LANES) * LANES

    def side_by_side(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, lanes - width)))
        return x.reshape(*x.shape[:2], -1)

    q, k, v = (side_by_side(x) for x in (request.query, request.key, request.value))
    sizes = _Sizes(size, lanes, width**-0.5, (queries, keys), interpret)
    out = _attend(q, k, v, mask, sizes)
    return out.reshape(rows, queries, -1, lanes)[..., :width]


@dataclass(frozen=True)
class BlockTables:
    """The blocks of the other side that each block needs, (B, blocks, other blocks) int32 each.

    Attributes:
      needed: 1 where a pair of blocks is computed.
      fetched: the other side's block that is in VMEM then; where none is needed the last needed
        one, so that nothing is fetched in vain.
    """

    needed: jax.Array
    fetched: jax.Array


def block_tables(mask: IndexMask, size: int, *, of_keys: bool = False) -> BlockTables:
    """Returns the tables of queries' blocks, or of keys' blocks.

    Args:
      mask: from `IndexMask.padded`.
      size: tokens of a block.
      of_keys: whether the blocks are of keys and the other side of queries.
    """
    needed = mask.may_hold(size).astype(jnp.int32)
    if of_keys:
        needed = jnp.swapaxes(needed, 1, 2)
    numbers = jnp.where(needed == 1, jnp.arange(needed.shape[2], dtype=jnp.int32), 0)
    return BlockTables(needed, jax.lax.cummax(numbers, axis=2))


@dataclass(frozen=True)
class _Sizes:
    """Sizes that are known when tracing.

    Attributes:
      block: tokens of a block.
      width: d, lanes of a head.
      scale: of the scores.
      lengths: Lq and Lk; the last block of each may be longer than what is left.
      interpret: see `flash_attention`.
    """

    block: int
    width: int
    scale: float
    lengths: tuple[int, int]
    interpret: bool

    @property
    def blocks(self) -> tuple[int, int]:
        """Blocks of queries and of keys."""
        queries, keys = (pl.cdiv(length, self.block) for length in self.lengths)
        return queries, keys

    def heads(self, x: jax.Array) -> int:
        """Heads of a (B, L, heads * d) array."""
        return x.shape[2] // self.width


@dataclass(frozen=True)
class _Layout:
    """A grid and which blocks a program of it has.

    Attributes:
      grid: see the kernels.
      tables: prefetched.
      q, k: blocks of (B, L, heads * d) arrays of queries and of keys.
      lse: a block of a (B, H, 1, L) array.
      ids: of queries, (B, n, L), and of keys, (B, L, n).
    """

    grid: tuple[int, ...]
    tables: BlockTables
    q: pl.BlockSpec
    k: pl.BlockSpec
    lse: pl.BlockSpec
    ids: list[pl.BlockSpec]


def _query_layout(q: jax.Array, k: jax.Array, mask: IndexMask, sizes: _Sizes) -> _Layout:
    """Returns the layout in which a program has one block of queries and all keys in turn."""
    size, width, count = sizes.block, sizes.width, len(mask.spec.fields)
    groups = sizes.heads(q) // sizes.heads(k)

    def keys(b: Any, h: Any, i: Any, j: Any, needed: Any, fetched: Any) -> Any:
        return b, fetched[b, i, j], jax.lax.div(h, groups)

    def key_ids(b: Any, h: Any, i: Any, j: Any, needed: Any, fetched: Any) -> Any:
        return b, fetched[b, i, j], 0

    return _Layout(
        (q.shape[0], sizes.heads(q), *sizes.blocks),
        block_tables(mask, size),
        pl.BlockSpec((None, size, width), lambda b, h, i, j, *_: (b, i, h)),
        pl.BlockSpec((None, size, width), keys),
        pl.BlockSpec((None, None, 1, size), lambda b, h, i, j, *_: (b, h, 0, i)),
        [
            pl.BlockSpec((None, count, size), lambda b, h, i, j, *_: (b, 0, i)),
            pl.BlockSpec((None, size, count), key_ids),
        ],
    )


def _key_layout(q: jax.Array, k: jax.Array, mask: IndexMask, sizes: _Sizes) -> _Layout:
    """Returns the layout in which a program has one block of keys and all queries in turn.

    The last dimension of the grid counts the blocks of queries of one head after the other.
    """
    size, width, count = sizes.block, sizes.width, len(mask.spec.fields)
    groups, (blocks, key_blocks) = sizes.heads(q) // sizes.heads(k), sizes.blocks

    def queries(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, fetched[b, j, jax.lax.rem(n, blocks)], h * groups + jax.lax.div(n, blocks)

    def lse(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, h * groups + jax.lax.div(n, blocks), 0, fetched[b, j, jax.lax.rem(n, blocks)]

    def query_ids(b: Any, h: Any, j: Any, n: Any, needed: Any, fetched: Any) -> Any:
        return b, 0, fetched[b, j, jax.lax.rem(n, blocks)]

    return _Layout(
        (q.shape[0], sizes.heads(k), key_blocks, groups * blocks),
        block_tables(mask, size, of_keys=True),
        pl.BlockSpec((None, size, width), queries),
        pl.BlockSpec((None, size, width), lambda b, h, j, n, *_: (b, j, h)),
        pl.BlockSpec((None, None, 1, size), lse),
        [
            pl.BlockSpec((None, count, size), query_ids),
            pl.BlockSpec((None, size, count), lambda b, h, j, n, *_: (b, j, 0)),
        ],
    )


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: IndexMask, sizes: _Sizes
) -> tuple[jax.Array, tuple[Any, ...]]:
    """Computes attention of (B, Lq, H * d) and (B, Lk, K * d), with ids (B, L) of whole blocks."""
    layout, size = _query_layout(q, k, mask, sizes), sizes.block
    lse_shape = (q.shape[0], sizes.heads(q), 1, sizes.blocks[0] * size)
    o, lse = _call(
        forward_kernel,
        layout,
        mask,
        sizes,
        [(q, layout.q), (k, layout.k), (v, layout.k)],
        [
            (jax.ShapeDtypeStruct(q.shape, v.dtype), layout.q),
            (jax.ShapeDtypeStruct(lse_shape, jnp.float32), layout.lse),
        ],
        scratch=[(1, size), (1, size), (sizes.width, size)],
    )
    return o, (q, k, v, mask, o, lse)


def _backward(sizes: _Sizes, residuals: tuple[Any, ...], do: jax.Array) -> tuple[Any, ...]:
    q, k, v, mask, o, lse = residuals
    do = do.astype(v.dtype)
    delta = softmax_delta(*(x.reshape(*x.shape[:2], -1, sizes.width) for x in (o, do)))
    behind = lse.shape[-1] - delta.shape[1]
    delta = jnp.pad(jnp.swapaxes(delta, 1, 2)[:, :, None], ((0, 0), (0, 0), (0, 0), (0, behind)))
    block = (sizes.block, sizes.width)

    def gradients(
        kernel: Callable[..., None], layout: _Layout, outputs: list[tuple[Any, pl.BlockSpec]]
    ) -> Any:
        inputs = [(q, layout.q), (k, layout.k), (v, layout.k), (do, layout.q)]
        inputs += [(lse, layout.lse), (delta, layout.lse)]
        return _call(kernel, layout, mask, sizes, inputs, outputs, scratch=[block] * len(outputs))

    layout = _query_layout(q, k, mask, sizes)
    (dq,) = gradients(dq_kernel, layout, [(q, layout.q)])
    layout = _key_layout(q, k, mask, sizes)
    kernel = partial(dkv_kernel, blocks=sizes.blocks[0])
    dk, dv = gradients(kernel, layout, [(k, layout.k), (v, layout.k)])
    return dq, dk, dv, None


_attend = attention_vjp(_forward, _backward, (4,))


def _call(
    kernel: Callable[..., None],
    layout: _Layout,
    mask: IndexMask,
    sizes: _Sizes,
    inputs: Sequence[tuple[jax.Array, pl.BlockSpec]],
    outputs: Sequence[tuple[Any, pl.BlockSpec]],
    *,
    scratch: list[tuple[int, int]],
) -> Any:
    """Runs a kernel; inputs and outputs are pairs of an array (or its like) and its blocks."""
    arrays, specs = zip(*inputs, strict=True)
    like, out_specs = zip(*outputs, strict=True)
    run = pl.pallas_call(
        partial(kernel, spec=mask.spec, scale=sizes.scale, lengths=sizes.lengths),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=layout.grid,
            in_specs=[*layout.ids, *specs],
            out_specs=list(out_specs),
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        interpret=sizes.interpret,
    )
    ids = mask.spec.stack(mask.queries, axis=1), mask.spec.stack(mask.keys, axis=2)
    return run(layout.tables.needed, layout.tables.fetched, *ids, *arrays)
