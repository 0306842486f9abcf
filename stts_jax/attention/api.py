"""The two functions: attention, and attention within the segments of a stream.

On a mesh every device attends for its own rows, heads and frames or queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from stts_jax.attention.dispatch import BACKENDS, STREAM_BACKENDS, select_backend
from stts_jax.attention.masks import Mask, MaskKind
from stts_jax.attention.requests import AttentionRequest, StreamRequest
from stts_jax.parallel.mesh import BATCH_AXES, CONTEXT_AXIS, LOGICAL_AXES, on_one_device

HEAD_AXIS = LOGICAL_AXES["heads"]
R = TypeVar("R", AttentionRequest, StreamRequest)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: Mask | None = None,
    key_bias: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    mask_kind: MaskKind = "full",
    backend: str = "auto",
) -> jax.Array:
    """Scaled dot-product attention with the softmax in float32.

    No Lq x Lk array is kept for the backward pass, and where there are many scores, only those of
    one block exist at a time. Hidden values are multiplied by 0, so all numbers must be finite.

    Args:
      query: (B, ..., Lq, H, d).
      key: (B, ..., Lk, K, d); each key head serves H / K consecutive query heads.
      value: (B, ..., Lk, K, d).
      mask: (B, ..., Lq or 1, Lk) bool, True where the query sees the key; or an `IndexMask`, which
        is never made into an Lq x Lk array where there are many scores.
      key_bias: (B, ..., Lk) float, added to the scores of a key for all heads.
      segment_ids: (B, ..., L) int, tokens see only their own segment, and none sees padding (ids
        below 0); for as many queries as keys.
      mask_kind: `causal` lets tokens see only themselves and those before.
      backend: `auto`, or the name of one of `dispatch.BACKENDS`, which then runs or raises.

    Returns:
      (B, ..., Lq, H, d) in the dtype of `value`; exactly 0 for a query that sees no key.

    Raises:
      ValueError: for a backend that cannot compute this, or arguments that contradict each other.
    """
    request = AttentionRequest(query, key, value, mask, key_bias, segment_ids, mask_kind)
    request.check()

    def attend(own: AttentionRequest) -> jax.Array:
        return select_backend(BACKENDS, "attention", own, backend).run(own)

    return shard_attention(attend, request)


def stream_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    longest_segment: int,
    segments: int,
    backend: str = "auto",
) -> jax.Array:
    """Attention within the segments of a stream whose segments are contiguous and in order.

    Args:
      query, key, value: (B, S, H, d), finite at padding too, where they are multiplied by 0.
      segment_ids: (B, S) int, non-decreasing; ids below 0 are padding at the end.
      longest_segment: tokens of the longest segment that can occur.
      segments: ids are below this.
      backend: `auto`, or the name of one of `dispatch.STREAM_BACKENDS`, which then runs or raises.

    Returns:
      (B, S, H, d); 0 at padding.

    Raises:
      ValueError: for a backend that cannot compute this.
    """
    request = StreamRequest(query, key, value, segment_ids, longest_segment, segments)

    def attend(own: StreamRequest) -> jax.Array:
        return select_backend(STREAM_BACKENDS, "attention of streams", own, backend).run(own)

    return shard_attention(attend, request)


def shard_attention(attend: Callable[[R], jax.Array], request: R) -> jax.Array:
    """Returns `attend(request)`; where a mesh is set, each device computes its part of it.

    Rows are split over `data` and `fsdp`, heads over `tensor`, and the second dimension over
    `context`: of (B, T, N, H, d) the frames, so that nothing is sent; of (B, L, H, d) the queries,
    and all keys of a row are sent to each device. With segments the second dimension is not split,
    and heads are split over `context` too. A dimension that its axes do not divide is not split.
    Kernels need this: the compiler cannot split them.

    Args:
      attend: computes one device's part.
      request: its arrays start with B.
    """
    if on_one_device():
        return attend(request)
    mesh, query = jax.sharding.get_abstract_mesh(), request.query
    rows = _dividing(BATCH_AXES, mesh, query.shape[0])
    count = math.gcd(query.shape[-2], request.key.shape[-2])
    heads = _dividing((HEAD_AXIS,), mesh, count)
    if not _can_split_queries(request):
        heads = _dividing((HEAD_AXIS, CONTEXT_AXIS), mesh, count) or heads
    second = _dividing((CONTEXT_AXIS,), mesh, query.shape[1])

    def spec(path: tuple[Any, ...], x: jax.Array) -> PartitionSpec:
        axes: list[Any] = [None] * x.ndim
        if x.shape[0] == query.shape[0]:
            axes[0] = rows
        if x.shape[1:2] == query.shape[1:2] and _is_split_with_queries(path, request):
            axes[1] = second
        if path[0].name in ("query", "key", "value"):
            axes[-2] = heads
        return PartitionSpec(*axes)

    leaves, structure = jax.tree_util.tree_flatten_with_path(request)
    specs = jax.tree.unflatten(structure, [spec(path, x) for path, x in leaves])
    sharded = jax.shard_map(attend, in_specs=(specs,), out_specs=specs.query, check_vma=False)
    return sharded(request)


def _is_split_with_queries(
    path: tuple[Any, ...], request: AttentionRequest | StreamRequest
) -> bool:
    """Returns whether an array with the queries' second dimension is split along it.

    Args:
      path: of the array in the request.
      request: the request.
    """
    if request.query.ndim > 4:
        return True
    if not _can_split_queries(request):
        return False
    names = [entry.name for entry in path]
    return names in (["query"], ["mask"]) or names[:2] == ["mask", "queries"]


def _can_split_queries(request: AttentionRequest | StreamRequest) -> bool:
    """Returns whether the second dimension can be split.

    Not that of queries with segments or a causal mask, which compare positions in the row.
    """
    if request.query.ndim > 4:
        return True
    if isinstance(request, StreamRequest):
        return False
    return request.segment_ids is None and request.mask_kind == "full"


def _dividing(
    axes: tuple[str | None, ...], mesh: AbstractMesh, size: int
) -> tuple[str, ...] | None:
    """Returns those of the axes that the mesh has, if they divide this size, else None."""
    present = tuple(axis for axis in axes if axis is not None and mesh.shape.get(axis, 1) > 1)
    parts = math.prod(mesh.shape[axis] for axis in present)
    return present if present and size % parts == 0 else None
