"""The TPU kernel of streams, interpreted: it equals plain attention, and visits little else."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from test_attention import (
    check,
    check_scores,
    check_segments,
    draw,
    every_selection,
    plain_attention,
)

from stts_jax.attention.masks import segment_starts
from stts_jax.attention.requests import AttentionRequest, StreamRequest
from stts_jax.attention.tpu import stream as kernel_module
from stts_jax.attention.tpu.stream import (
    SEGMENTS_OF_PARTS,
    frame_attention,
    stream_attention,
    unsupported_frames,
    unsupported_windows,
)
from stts_jax.attention.tpu.stream_segment import FEWER_KEYS, KEYS, QUERIES, key_blocks
from stts_jax.attention.tpu.stream_windows import CHUNK, TILE, part_plan

WIDTH = 72
# Worst seen are printed with the tests; bfloat16 has 8 bits.
FLOAT32, BFLOAT16 = 2e-5, 6e-2
# Longer than a block, empty, a block as it is; several in one tile, and enough for two parts.
FEW = (150, 0, 128, 5)
MANY = (3, 0, 2, 9, 40, 1, 131, 7, 0, 0, 31, 16, 32, 5, 4, 3, 2, 1, 70)


def stream_ids(lengths: tuple[int, ...], padding: int) -> jnp.ndarray:
    """(1, S): segments of these lengths, then padding."""
    ids = np.concatenate([np.repeat(np.arange(len(lengths)), lengths), np.full(padding, -1)])
    return jnp.asarray(ids, jnp.int32)[None]


def attend(interpret=True, **sizes):
    """The interpreted kernel for streams of segments of these sizes."""
    return lambda *x: stream_attention(StreamRequest(*x, **sizes), interpret=interpret)


def kernel_scores(lengths: np.ndarray) -> int:
    """Scores that the kernel computes for contiguous segments of these lengths, of each head."""
    starts = np.cumsum(lengths) - lengths
    rows = np.where(lengths > 0, starts % TILE + lengths, 0)
    many, fewer = key_blocks(rows)
    queries, keys = -(-rows // QUERIES) * QUERIES, many * KEYS + fewer * FEWER_KEYS
    return int((queries * keys).sum())


@pytest.mark.parametrize(
    ("lengths", "padding"),
    [(FEW, 21), (MANY, 9), ((20, 20), 200), ((3, 215, 30), 8)],
    ids=["few", "many", "padded", "blocks of both heights"],
)
def test_a_stream_in_the_kernel_equals_attention_within_segments(lengths, padding, report_error):
    # A second row, of padding only.
    ids = stream_ids(lengths, padding)
    ids = jnp.concatenate([ids, jnp.full_like(ids, -1)])
    check_segments(attend(longest=215, segments=len(lengths)), ids, report_error, FLOAT32)


def test_no_copy_meets_what_is_still_read_or_written(report_error, capfd):
    """Copies end only when they are awaited, and memory is NaN until written."""
    lengths = (*MANY[:6], 33, *MANY[7:])
    strict = pltpu.InterpretParams(
        detect_races=True, dma_execution_mode="on_wait", uninitialized_memory="nan"
    )
    kernel = attend(strict, longest=100, segments=len(lengths))
    check_segments(kernel, stream_ids(lengths, 9), report_error, FLOAT32, heads=1)
    assert "RACE DETECTED" not in capfd.readouterr().out


def test_a_stream_in_bfloat16_stays_near_the_float32_form(report_error):
    shape, ids = (1, 130, 2, WIDTH), stream_ids((130,), 0)
    arrays, (weights,) = draw(9, shape, shape, shape, dtype=jnp.bfloat16), draw(10, shape)
    check(
        lambda *x: attend(longest=130, segments=1)(*x, ids),
        plain_attention,
        arrays,
        weights,
        report_error,
        BFLOAT16,
        BFLOAT16,
    )


def test_whole_frames_with_a_bias_equal_the_plain_form(report_error):
    """Frames that end within a tile; the bias has a gradient too."""
    shape = (2, 3, 130, 2, WIDTH)
    arrays, (bias, weights) = draw(11, shape, shape, shape), draw(12, shape[:3], shape)
    check(
        lambda q, k, v, b: frame_attention(AttentionRequest(q, k, v, key_bias=b), interpret=True),
        lambda q, k, v, b: plain_attention(q, k, v, None, b),
        [*arrays, bias],
        weights,
        report_error,
        FLOAT32,
        FLOAT32,
    )


@pytest.mark.parametrize("seed", range(20))
def test_two_parts_write_every_row_once_and_know_all_its_segments(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 40, SEGMENTS_OF_PARTS) * rng.integers(0, 2, SEGMENTS_OF_PARTS)
    ids = stream_ids(tuple(lengths), int(-lengths.sum() % TILE) + TILE)
    starts = segment_starts(ids, SEGMENTS_OF_PARTS)
    (upper, lower) = np.asarray(part_plan(starts, ids.shape[1], 2))[0]
    assert (upper[2], lower[3]) == (0, ids.shape[1]) and upper[3] == lower[2]
    assert lower[2] % TILE == 0
    for first, after, low, high in (upper, lower):
        own = np.asarray(ids)[0, low:high]
        own = own[own >= 0]
        assert ((own >= first) & (own < after)).all()


@every_selection
def test_the_kernel_makes_at_most_half_more_scores_than_the_ideal(selection, report_error):
    check_scores(kernel_scores, selection, "kernel's scores", report_error)


def test_blocks_of_keys_hold_a_segment_and_stay_within_its_window():
    rows = np.arange(800)
    many, fewer = key_blocks(rows)
    assert min(many.min(), fewer.min()) == 0
    keys = many * KEYS + fewer * FEWER_KEYS
    assert (rows <= keys).all() and (keys <= -(-rows // CHUNK) * CHUNK).all()


def test_blocks_of_keys_of_all_but_the_shortest_segments_have_few_rows_too_many():
    rows = np.arange(161, 800)
    many, fewer = key_blocks(rows)
    assert (many * KEYS + fewer * FEWER_KEYS - rows < KEYS - FEWER_KEYS).all()


def test_the_kernel_refuses_segments_that_fill_a_chip(monkeypatch):
    assert unsupported_windows(16, WIDTH, 729, 2, biased=True) is None
    assert "take 48 MiB of VMEM, 44 are there" in unsupported_windows(16, WIDTH, 30 * 30, 2)
    assert "take 66 MiB of VMEM" in unsupported_windows(16, WIDTH, 729, 4)
    monkeypatch.setattr(kernel_module, "SMALL_CHIPS", ("cpu",))
    assert unsupported_windows(16, WIDTH, 729, 2) == "a cpu has too little VMEM for whole segments"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "4 tokens are fewer than its blocks of 128"),
        ({"mask_kind": "causal"}, "it is for full attention"),
        ({"segment_ids": jnp.zeros((1, 4), jnp.int32)}, "it is for full attention"),
        ({"query": jnp.zeros((1, 1, 1, 8))}, "1 queries and 4 keys"),
    ],
)
def test_the_kernel_of_frames_says_what_it_is_not_for(changes, reason):
    arrays = dict.fromkeys(("query", "key", "value"), jnp.zeros((1, 4, 1, 8)))
    assert reason in unsupported_frames(AttentionRequest(**(arrays | changes)))
