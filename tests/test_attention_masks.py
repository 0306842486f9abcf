"""An `IndexMask` answers alike for tokens and for blocks; the blocks that kernels visit."""

from __future__ import annotations

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from stts_jax.attention import IndexMask, MaskSpec, TokenMaskIds
from stts_jax.attention.gpu.flash import block_lists
from stts_jax.attention.tpu.flash import block_tables


def token_ids(length: int, seed: int) -> TokenMaskIds:
    """Runs of text and of frames of two examples, then padding."""
    rng = np.random.default_rng(seed)
    index = np.arange(length)
    visual = (index // 23) % 3 == 1
    second = index >= length // 2
    segment = second * 100000 + np.where(visual, 10000, rng.integers(0, 2, length))
    segment = np.where(index >= length - 40, -1, segment)
    ids = {"index": index, "group": np.where(visual, second, -1), "frame": index // 9}
    return TokenMaskIds(
        **{name: jnp.asarray(x, jnp.int32)[None] for name, x in ids.items()},
        segment=jnp.asarray(segment, jnp.int32)[None],
    )


def token_mask(length: int, **spec) -> IndexMask:
    ids = token_ids(length, 0)
    queries = dataclasses.replace(ids, segment=jnp.maximum(ids.segment, 0))
    keys = dataclasses.replace(ids, group=jnp.where(ids.group < 0, -2, ids.group))
    return IndexMask(queries, keys, MaskSpec(causal=True, segments="from", **spec))


# ------------------------------------------------------------------------------ tokens and blocks


@pytest.mark.parametrize("segments", [None, "same", "from"])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_are_answered_for_as_their_tokens_are(segments, seed):
    """Whatever the ids: `may_hold` covers `holds`, which covers `always_holds`."""
    rng = np.random.default_rng(seed)
    shape, size = (2, 24), 4
    runs = [jnp.asarray(np.repeat(rng.integers(-1, 3, (8, 6)), size, 1), jnp.int32) for _ in "qk"]
    names = ("index", "group", "frame", "segment")
    queries, keys = (
        TokenMaskIds(**{name: x[2 * n : 2 * n + 2] for n, name in enumerate(names)}) for x in runs
    )
    keys = dataclasses.replace(keys, group=jnp.where(keys.group < 0, -2, keys.group))
    noise = jnp.asarray(rng.integers(0, 2, shape) * rng.integers(0, 2, shape), jnp.int32)
    keys = dataclasses.replace(keys, index=keys.index + noise, frame=keys.frame - noise)
    left_out = []
    for causal, mutual, framed in itertools.product([False, True], repeat=3):
        if not causal and not mutual and segments is None:
            continue
        mask = IndexMask(queries, keys, MaskSpec(causal, mutual, framed, segments))
        pairs = np.asarray(mask.holds()).reshape(2, 6, size, 6, size)
        may, always = np.asarray(mask.may_hold(size)), np.asarray(mask.always_holds(size))
        assert (may >= pairs.any((2, 4))).all() and (always <= pairs.all((2, 4))).all()
        left_out.append(1 - may.mean())
    assert 0 < np.mean(left_out) < 1


def test_a_spec_that_compares_nothing_is_refused():
    with pytest.raises(ValueError, match="give no mask instead"):
        IndexMask(TokenMaskIds(), TokenMaskIds(), MaskSpec()).holds()


# --------------------------------------------------------------------------- the blocks of kernels


every_spec = pytest.mark.parametrize(
    "spec", [{}, {"mutual": True}, {"mutual": True, "framed": True}]
)


@every_spec
def test_no_block_with_a_visible_score_is_left_out(spec):
    mask, size = token_mask(480, **spec), 16
    seen = np.asarray(mask.holds())[0].reshape(30, size, 30, size).any((1, 3))
    needed = np.asarray(mask.may_hold(size))[0]
    assert (needed >= seen).all()
    assert needed.mean() < 0.75 and (spec or needed.sum() < 1.1 * seen.sum())


def test_blocks_that_are_left_out_are_not_fetched():
    tables = block_tables(token_mask(480), 16)
    needed, fetched = np.asarray(tables.needed[0]), np.asarray(tables.fetched[0])
    changes = (np.diff(fetched, axis=1) != 0).sum()
    assert changes <= needed.sum()
    assert (fetched[needed == 1] == np.nonzero(needed)[1]).all()


@every_spec
def test_blocks_without_a_mask_have_no_hidden_score(spec):
    mask, size = token_mask(480, **spec), 16
    pairs = np.asarray(mask.holds())[0].reshape(30, size, 30, size)
    always = np.asarray(mask.always_holds(size))[0]
    assert pairs.all((1, 3))[always].all()
    assert always.sum() > 0.5 * pairs.all((1, 3)).sum()


@pytest.mark.parametrize("of_keys", [False, True])
def test_a_list_has_the_needed_blocks_once_and_those_without_a_mask_first(of_keys):
    mask, size = token_mask(480, mutual=True), 16
    lists = block_lists(mask, size, of_keys=of_keys)
    needed, unmasked = (np.asarray(x(size))[0] for x in (mask.may_hold, mask.always_holds))
    if of_keys:
        needed, unmasked = needed.T, unmasked.T
    for block, order in enumerate(np.asarray(lists.order[0])):
        first, count = int(lists.unmasked[0, block]), int(lists.needed[0, block])
        assert sorted(order[:first]) == list(np.flatnonzero(unmasked[block]))
        assert sorted(order[:count]) == list(np.flatnonzero(needed[block]))
