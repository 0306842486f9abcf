"""Our kernels and cuDNN, compiled for the chips they are for, forward and backward, and XLA's way.

The sizes are the 4B's with 384 frames at 50 %; nothing runs, the compilers say what it would take.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from stts_jax.config import ConfigError
from stts_jax.fit.cycles import estimates
from stts_jax.fit.hlo import parse_module
from stts_jax.fit.topologies import get_topology, tracing_for
from stts_jax.layers.attention import attention, stream_attention
from stts_jax.layers.attention.masks import PlaceMask, Places, Rule
from stts_jax.parallel.mesh import make_mesh, on_mesh

pytestmark = [pytest.mark.slow, pytest.mark.compilers]
MIB = 2**20
TOKENS, HEADS, KEY_HEADS, WIDTH = 21_403, 32, 8, 128
FRAMES, PATCHES, KEPT = 384, 729, 384 * 729 // 2
VIT_HEADS, VIT_WIDTH = 16, 72
CHIPS = ["v5e:2x2", "v6e:2x2", "v5p:1x1x1", "h100:1"]
# Of a TPU's matrix units: as many multiplications with their additions as they have places.
FLOPS_A_CYCLE = {"v5e:2x2": 2**17, "v6e:2x2": 2**19, "v5p:1x1x1": 2**18}
# How much longer than that the way to attention and back may take; a v6e waits for its memory.
TIMES_THE_PRODUCTS = {"v5e:2x2": 2, "v6e:2x2": 3, "v5p:1x1x1": 2}


def compiled(
    name: str, function, *shapes: tuple[tuple[int, ...], jnp.dtype], options=None
) -> list[jax.stages.Compiled]:
    """A function of arrays for one device, and its gradient of the first three."""
    try:
        topology = get_topology(name)
    except ConfigError as missing:
        pytest.skip(str(missing))
    mesh = make_mesh(devices=topology.devices[:1])
    place = NamedSharding(mesh, PartitionSpec())
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape, dtype in shapes]

    def gradient(query, key, value, *rest):
        def total(*arrays):
            return function(*arrays, *rest).astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1, 2))(query, key, value)

    found = []
    for each in (function, gradient):
        # Kernels want to hear that nobody will cut them up.
        with tracing_for(topology.chip.platform), on_mesh(mesh):
            lowered = jax.jit(each).lower(*arrays)
        found.append(lowered.compile(compiler_options=options))
    return found


def temporaries(*arguments, **options) -> list[int]:
    """Bytes that the device puts aside for each of `compiled`."""
    return [
        program.memory_analysis().temp_size_in_bytes for program in compiled(*arguments, **options)
    ]


def heads(length: int, count: int, width: int) -> tuple[tuple[int, ...], jnp.dtype]:
    return (1, length, count, width), jnp.dtype(jnp.bfloat16)


@pytest.mark.parametrize("chip", CHIPS)
def test_the_mask_of_384_frames_takes_no_array_of_all_pairs(chip, report_error):
    """Causal, and mutual among visual tokens: what is put aside is below a byte of each score."""
    rule = Rule(causal=True, mutual=True, segments="from")

    def attend(query, key, value, numbers):
        index, group, segment = numbers
        queries = Places(index=index, group=group, segment=segment)
        return attention(query, key, value, mask=PlaceMask(queries, queries, rule))

    own, shared = heads(TOKENS, HEADS, WIDTH), heads(TOKENS, KEY_HEADS, WIDTH)
    numbers = (3, 1, TOKENS), jnp.dtype(jnp.int32)
    for way, size in zip(
        ("forward", "gradient"),
        temporaries(chip, attend, own, shared, shared, numbers),
        strict=True,
    ):
        limit = HEADS * TOKENS**2
        report_error(f"MiB, LLM, {chip}, {way}", size / MIB, limit / MIB)
        assert size < limit


@pytest.mark.parametrize("chip", CHIPS)
def test_a_stream_of_384_frames_takes_no_scores_of_whole_frames(chip, report_error):
    """What is put aside is below one float of each score of frames with themselves."""
    attend = partial(stream_attention, longest_segment=PATCHES, segments=FRAMES)
    own, ids = heads(KEPT, VIT_HEADS, VIT_WIDTH), ((1, KEPT), jnp.dtype(jnp.int32))
    for way, size in zip(
        ("forward", "gradient"), temporaries(chip, attend, own, own, own, ids), strict=True
    ):
        limit = FRAMES * VIT_HEADS * PATCHES**2 * 4
        report_error(f"MiB, stream, {chip}, {way}", size / MIB, limit / MIB)
        assert size < limit


@pytest.mark.parametrize("chip", CHIPS[:3])
@pytest.mark.parametrize("whole", [False, True], ids=["stream", "whole frames"])
def test_a_tpu_lays_heads_nowhere_anew(chip, whole, report_error):
    """Between projections, there are little more than their own results: no heads apart, padded.

    Nor does it take long to move them, by the compiler's own estimate: with the projections two or
    three times what their products take at the peak, where heads laid out apart took five.
    """
    frames = 128
    length = frames * (PATCHES if whole else 365)
    inner = VIT_HEADS * VIT_WIDTH

    def attend(x, kernels, out, ids):
        each = (x @ kernel for kernel in kernels)
        if whole:
            query, key, value = (y.reshape(1, frames, PATCHES, VIT_HEADS, VIT_WIDTH) for y in each)
            attended = attention(query, key, value)
        else:
            query, key, value = (y.reshape(1, length, VIT_HEADS, VIT_WIDTH) for y in each)
            attended = stream_attention(
                query, key, value, ids, longest_segment=PATCHES, segments=frames
            )
        return attended.reshape(1, length, inner) @ out

    shapes = [(1, length, inner), (3, inner, inner), (inner, inner)]
    arrays = [(shape, jnp.dtype(jnp.bfloat16)) for shape in shapes]
    programs = compiled(chip, attend, *arrays, ((1, length), jnp.dtype(jnp.int32)))
    size, products = length * inner * 2, 8 * length * inner**2
    for way, program, room, times in zip(
        ("forward", "gradient"), programs, (4 * size, 8 * size), (1, 3), strict=True
    ):
        taken = program.memory_analysis().temp_size_in_bytes
        report_error(f"MiB, heads, {chip}, {way}", taken / MIB, room / MIB)
        assert taken < room
        found = sum(e.cycles for e in estimates(parse_module(program.as_text())))
        limit = TIMES_THE_PRODUCTS[chip] * times * products / FLOPS_A_CYCLE[chip]
        report_error(f"million cycles, heads, {chip}, {way}", found / 1e6, limit / 1e6)
        assert found < limit


# A kernel whose sums don't fit into registers would go to memory with them. The other two undo
# what makes tests compile quickly. XLA must compile the kernel to see it: up to jaxlib 0.10.2.
NO_SPILLS = {
    "xla_gpu_fail_ptx_compilation_on_register_spilling": True,
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


def test_the_gpu_kernel_of_streams_moves_nothing_into_frames(report_error):
    """It puts aside less than a tenth of the queries; with gradients less than three times them."""
    attend = partial(
        stream_attention, longest_segment=PATCHES, segments=FRAMES, backend="stream_triton"
    )
    own, ids = heads(KEPT, VIT_HEADS, VIT_WIDTH), ((1, KEPT), jnp.dtype(jnp.int32))
    found = temporaries("h100:1", attend, own, own, own, ids, options=NO_SPILLS)
    size = KEPT * VIT_HEADS * VIT_WIDTH * 2
    for way, taken, limit in zip(
        ("forward", "gradient"), found, (size / 10, 3 * size), strict=True
    ):
        report_error(f"MiB, own kernel of streams, h100, {way}", taken / MIB, limit / MIB)
        assert taken < limit


def test_the_gpu_kernel_of_the_mask_makes_scores_in_registers_only(report_error):
    """As above; its lists of blocks are what it puts aside forward."""
    rule = Rule(causal=True, mutual=True, segments="from")

    def attend(query, key, value, numbers):
        places = Places(**dict(zip(rule.numbers, numbers, strict=True)))
        mask = PlaceMask(places, places, rule)
        return attention(query, key, value, mask=mask, backend="place_triton")

    own, shared = heads(TOKENS, HEADS, WIDTH), heads(TOKENS, KEY_HEADS, WIDTH)
    numbers = (3, 1, TOKENS), jnp.dtype(jnp.int32)
    found = temporaries("h100:1", attend, own, shared, shared, numbers, options=NO_SPILLS)
    size = TOKENS * HEADS * WIDTH * 2
    for way, taken, limit in zip(
        ("forward", "gradient"), found, (size / 10, 3 * size), strict=True
    ):
        report_error(f"MiB, own kernel of the mask, h100, {way}", taken / MIB, limit / MIB)
        assert taken < limit


def test_the_gpu_kernel_takes_bins_of_segments_too():
    """Those of `first_fit`, with their heads of 72; nobody may see other frames of a bin."""

    def attend(query, key, value, ids):
        return attention(query, key, value, segment_ids=ids, backend="place_triton")

    bins = (48, PATCHES, VIT_HEADS, VIT_WIDTH), jnp.dtype(jnp.bfloat16)
    ids = (48, PATCHES), jnp.dtype(jnp.int32)
    temporaries("h100:1", attend, bins, bins, bins, ids, options=NO_SPILLS)


def test_cudnn_takes_a_stream_where_it_is_asked_to():
    attend = partial(stream_attention, longest_segment=PATCHES, segments=64, backend="cudnn")
    own, ids = heads(64 * PATCHES // 2, VIT_HEADS, VIT_WIDTH), ((1, 64 * PATCHES // 2), jnp.int32)
    temporaries("h100:1", attend, own, own, own, ids)
