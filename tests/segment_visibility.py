"""Compares subsegment ids by which tokens attend to which, the only thing they are for."""

from __future__ import annotations

import numpy as np

from stts_jax.budget import EXAMPLE_SUBSEGMENT_INCREMENT


def visibility(segments: np.ndarray) -> np.ndarray:
    """Returns (L, L) bool: whether token q may attend to token k.

    Source: docs/reference.md#fusion-and-mask.

    A query sees a key whose id is not below its own: an earlier one, or, where tokens attend both
    ways, one of its own example.
    """
    ids, order = np.asarray(segments), np.arange(len(segments))
    earlier = order[None, :] <= order[:, None]
    same_example = (
        ids[:, None] // EXAMPLE_SUBSEGMENT_INCREMENT == ids[None, :] // EXAMPLE_SUBSEGMENT_INCREMENT
    )
    return (ids[:, None] <= ids[None, :]) & (earlier | same_example)


def assert_same_visibility(found: np.ndarray, expected: np.ndarray) -> None:
    """Asserts that two rows of ids, without padding, let the same tokens attend to each other."""
    assert found.shape == expected.shape
    if not np.array_equal(found, expected):
        np.testing.assert_array_equal(visibility(found), visibility(expected))
