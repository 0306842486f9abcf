"""Layouts of a layer's keys and values: the sums of each are those of plain products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_cases import worst

from stts_jax.model import cache_layouts
from stts_jax.model.cache_layouts import InColumns, InRows, quickest_layout

# Worst seen: 1.2e-7.
CLOSE = 2e-6
ROWS, PLACES, KEY_HEADS, GROUPS = 2, 5, 3, 2
LAYOUTS = pytest.mark.parametrize("layout", [InRows, InColumns])
# Of one part, and of two.
WIDTHS = pytest.mark.parametrize("width", [24, 128])


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@LAYOUTS
@WIDTHS
def test_scores_are_products_of_queries_and_keys(layout, width, report_error):
    keys = normal(0, ROWS, PLACES, KEY_HEADS, width) * width**-0.5
    query = normal(1, ROWS, KEY_HEADS, GROUPS, width)
    found = jax.jit(lambda k, q: layout.of(k, k).scores(q))(keys, query)
    error = worst(found, jnp.einsum("bkgd,bckd->bkgc", query, keys))
    report_error("scores", error, CLOSE)
    assert error <= CLOSE


@LAYOUTS
@WIDTHS
def test_weighted_are_sums_of_values(layout, width, report_error):
    values = normal(0, ROWS, PLACES, KEY_HEADS, width)
    weights = jax.nn.softmax(normal(1, ROWS, KEY_HEADS, GROUPS, PLACES))
    found = jax.jit(lambda v, w: layout.of(v, v).weighted(w))(values, weights)
    error = worst(found, jnp.einsum("bkgc,bckd->bkgd", weights, values))
    report_error("sums of values", error, CLOSE)
    assert error <= CLOSE


@LAYOUTS
@WIDTHS
def test_what_is_written_at_a_place_is_as_if_laid_out_with_the_rest(layout, width):
    keys, values = (normal(seed, ROWS, PLACES, KEY_HEADS, width) for seed in (0, 1))
    place = 3
    without = layout.of(keys.at[:, place].set(0), values.at[:, place].set(0))
    one = layout.of(keys[:, place : place + 1], values[:, place : place + 1])
    written = without.write(one, jnp.int32(place))
    assert without.places == PLACES
    for found, wanted in zip(
        jax.tree.leaves(written), jax.tree.leaves(layout.of(keys, values)), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("wide", "layout"), [(True, InRows), (False, InColumns)])
def test_rows_are_for_cpus_with_avx512(wide, layout, monkeypatch):
    monkeypatch.setattr(cache_layouts, "has_avx512", lambda: wide)
    assert quickest_layout() is layout
