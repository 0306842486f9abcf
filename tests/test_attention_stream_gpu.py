"""The GPU kernel of streams, interpreted: equal to plain attention, and little more work."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import (
    check,
    check_scores,
    check_segments,
    draw,
    every_selection,
    plain_attention,
)
from test_attention_backends import BFLOAT16, FLOAT32, WIDTH

from stts_jax.attention.gpu.stream import stream_attention
from stts_jax.attention.gpu.tiles import SIZE, tile_widths
from stts_jax.attention.requests import StreamRequest

# Longer than one block of queries, empty, and exactly a block of keys.
SEGMENTS = (150, 0, 64, 5)


@pytest.mark.parametrize(
    ("width", "tiles"),
    [
        (8, (16,)),
        (16, (16,)),
        (24, (32,)),
        (40, (32, 16)),
        (72, (64, 16)),
        (104, (64, 32, 16)),
        (128, (128,)),
    ],
)
def test_a_head_is_read_in_as_few_columns_as_tiles_can_have(width, tiles):
    assert tile_widths(width) == tiles


# ----------------------------------------------------------------------------------------- streams


def attend(**sizes):
    """The interpreted kernel for streams of segments of these sizes."""
    return lambda *x: stream_attention(StreamRequest(*x, **sizes), interpret=True)


def test_a_stream_in_the_kernel_equals_attention_within_segments(report_error):
    length = sum(SEGMENTS) + 20
    ids = np.concatenate([np.repeat(np.arange(4), SEGMENTS), np.full(20, -1)])
    full = np.repeat(np.arange(4), [100, 39, 0, 100])
    ids = jnp.asarray(np.stack([ids, np.full(length, -1), full]), jnp.int32)
    check_segments(attend(longest=150, segments=4), ids, report_error, FLOAT32)


def test_a_stream_in_the_kernel_in_bfloat16_stays_near_the_float32_form(report_error):
    shape, ids = (1, 130, 2, WIDTH), jnp.zeros((1, 130), jnp.int32)
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


def visited_scores(lengths: np.ndarray) -> int:
    """Scores that the kernel computes for segments of these lengths, of each head."""
    return int(((-(-lengths // SIZE) * SIZE) ** 2).sum())


@every_selection
def test_the_kernel_visits_at_most_half_more_scores_than_the_ideal(selection, report_error):
    check_scores(visited_scores, selection, "GPU kernel's scores", report_error)
