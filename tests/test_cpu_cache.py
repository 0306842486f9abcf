"""A CPU's key-value cache: its products are the plain ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_cases import worst

from stts_jax.inference.cpu_cache import LayerCache

# Worst seen: 1.2e-7.
CLOSE = 2e-6
ROWS, LENGTH, KEY_HEADS, GROUPS = 2, 5, 3, 2
# Of one part, and of two.
WIDTHS = pytest.mark.parametrize("width", [24, 128])


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@WIDTHS
def test_scores_are_products_of_queries_and_keys(width, report_error):
    keys = normal(0, ROWS, LENGTH, KEY_HEADS, width) * width**-0.5
    query = normal(1, ROWS, KEY_HEADS, GROUPS, width)
    found = jax.jit(lambda k, q: LayerCache.of(k, k).scores(q))(keys, query)
    error = worst(found, jnp.einsum("bkgd,bckd->bkgc", query, keys))
    report_error("scores", error, CLOSE)
    assert error <= CLOSE


@WIDTHS
def test_weighted_are_sums_of_values(width, report_error):
    values = normal(0, ROWS, LENGTH, KEY_HEADS, width)
    weights = jax.nn.softmax(normal(1, ROWS, KEY_HEADS, GROUPS, LENGTH))
    found = jax.jit(lambda v, w: LayerCache.of(v, v).weighted(w))(values, weights)
    error = worst(found, jnp.einsum("bkgc,bckd->bkgd", weights, values))
    report_error("sums of values", error, CLOSE)
    assert error <= CLOSE


@WIDTHS
def test_writing_a_token_equals_laying_it_out_with_the_rest(width):
    keys, values = (normal(seed, ROWS, LENGTH, KEY_HEADS, width) for seed in (0, 1))
    index = 3
    without = LayerCache.of(keys.at[:, index].set(0), values.at[:, index].set(0))
    one = LayerCache.of(keys[:, index : index + 1], values[:, index : index + 1])
    written = without.write(one, jnp.int32(index))
    assert without.length == LENGTH
    for found, wanted in zip(
        jax.tree.leaves(written), jax.tree.leaves(LayerCache.of(keys, values)), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
