"""First fit's bins in one of a few static sizes: which there are, and what each costs."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jaxprs import equations
from model_cases import SMALL
from reference_cases import worst

from stts_jax.layers.memory_efficient_switch import memory_efficient_switch
from stts_jax.model.vit import VisionTransformer
from stts_jax.pruning.first_fit import bin_bound, bin_sizes, first_fit_layout

# Worst seen: 3e-7.
GRADIENTS = 2e-6


@pytest.mark.parametrize(
    ("frames", "kept", "sizes"),
    [
        (64, 0.7, (48, 64)),
        (64, 0.5, (36, 48, 64)),
        (64, 0.3, (21, 29, 39)),
        (64, 1.0, (64,)),
        (16, 0.7, (12, 16)),
        (16, 0.5, (9, 12, 16)),
        (16, 0.3, (5, 7, 10)),
        (4, 0.3, (2, 3)),
    ],
)
def test_the_size_buckets_go_from_perfect_packing_to_the_bound(frames, kept, sizes):
    assert bin_sizes(1, frames, int(kept * frames * 729), 729) == sizes


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 24, 100])
def test_size_buckets_are_few_and_their_steps_are_small(frames):
    """It begins within a third of perfect packing, and no step is longer than two thirds."""
    for kept in range(1, frames * 9 + 1):
        sizes, fewest = bin_sizes(1, frames, kept, 9), -(-kept // 9)
        assert len(sizes) <= 4 and sizes[-1] == bin_bound(1, frames, kept, 9)
        assert fewest <= sizes[0] <= max(4 / 3 * fewest, fewest + 1)
        assert all(large <= max(5 / 3 * small, small + 1) for small, large in pairwise(sizes))


@pytest.mark.parametrize(
    ("frames", "used", "taken"), [((4, 4, 5, 5), 2, 2), ((4, 4, 4, 6), 3, 4), ((0, 0, 0, 0), 0, 2)]
)
def test_only_the_bins_that_are_used_are_run_up_to_the_next_size(frames, used, taken):
    """Bins of 9 patches; what is run says how many bins it got."""
    keep = np.arange(9) < np.array(frames)[:, None]
    layout = first_fit_layout(jnp.asarray(keep)[None], (2, 4))
    assert layout.used_bins == used
    x = layout.gather(jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 9, 2))))

    def step(block, x, bins):
        assert bins.source.shape[0] == x.shape[0]
        return x + block * x.shape[0]

    out = layout.apply_block(step, jnp.ones(()), x)
    np.testing.assert_array_equal(out[:taken], x[:taken] + taken)
    assert out.shape == x.shape and not out[taken:].any()


# ---------------------------------------------------------------------------------- its gradient

BUCKETS = (4, 6, 8)
PATCHES = 81
# Patches kept of each of 8 frames, by the bins that they take.
KEPT = {4: (40,) * 8, 6: (40,) * 4 + (60,) * 4, 8: (60,) * 8}


@cache
def transformer() -> VisionTransformer:
    """Of eight blocks, so that what blocks keep is most of the memory."""
    config = dataclasses.replace(SMALL.vit, layers=8, feature_layers=(-1,))
    return VisionTransformer(config, key=jax.random.key(0))


def x_of_frames() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (1, 8, PATCHES, 16))


@cache
def traced_gradient(sizes: tuple[int, ...], remat: bool) -> Any:
    """Of all blocks and of what enters them, for `(transformer, x, keep)`."""

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradient(vit: VisionTransformer, x: jax.Array, keep: jax.Array) -> jax.Array:
        layout = first_fit_layout(keep, sizes)
        out, _ = vit.run(layout.gather(x), 0, 8, layout, remat=remat)
        return (out**2).sum()

    return gradient.trace(transformer(), x_of_frames(), jnp.ones((1, 8, PATCHES), bool))


@cache
def compiled_gradient(sizes: tuple[int, ...], remat: bool) -> jax.stages.Compiled:
    return traced_gradient(sizes, remat).lower().compile()


@pytest.mark.parametrize("bins", BUCKETS)
@pytest.mark.parametrize("remat", [False, True])
def test_gradients_are_those_of_the_largest_size(bins, remat, report_error):
    keep = jnp.arange(PATCHES) < np.array(KEPT[bins])[:, None]
    assert first_fit_layout(keep[None], BUCKETS).used_bins == bins
    ours, theirs = (
        ravel_pytree(compiled_gradient(sizes, remat)(transformer(), x_of_frames(), keep[None]))[0]
        for sizes in (BUCKETS, BUCKETS[-1:])
    )
    error = worst(ours, theirs)
    report_error("gradients in bins", error, GRADIENTS)
    assert error <= GRADIENTS


@pytest.mark.parametrize("remat", [False, True])
def test_a_gradient_takes_little_more_memory_than_that_of_the_largest_size(remat):
    buckets, largest = (
        compiled_gradient(sizes, remat).memory_analysis().temp_size_in_bytes
        for sizes in (BUCKETS, BUCKETS[-1:])
    )
    assert buckets <= 1.2 * largest


@pytest.mark.parametrize("remat", [False, True])
def test_no_size_computes_anything_more_often_than_the_largest_alone(remat):
    buckets, largest = (
        sum(own.primitive.name == "dot_general" for own in equations(traced.jaxpr.jaxpr))
        for traced in (traced_gradient(sizes, remat) for sizes in (BUCKETS, BUCKETS[-1:]))
    )
    assert buckets == len(BUCKETS) * largest > 0


def test_branches_that_keep_different_arrays_have_the_gradients_of_a_plain_switch():
    """One keeps two arrays, one an input that the other doesn't, one a whole number, one none."""
    branches = (
        lambda w, n: (jnp.sin(w[:2] * n[0]) * jnp.cos(w[:2])).sum(),
        lambda w, n: (w**3).sum(),
        lambda w, n: w[n[1]] * 2.0,
        lambda w, n: w.sum(),
    )
    w, whole = jnp.arange(1.0, 5.0), jnp.array([2, 3])

    def gradient(way: Any, index: int) -> jax.Array:
        return jax.jit(jax.grad(lambda w: way(index, branches, w, whole)))(w)

    for index in range(len(branches)):
        np.testing.assert_allclose(
            gradient(memory_efficient_switch, index),
            gradient(jax.lax.switch, index),
            rtol=1e-6,
            err_msg=str(index),
        )
