"""The batch that the data pipeline hands to the model."""

from __future__ import annotations

import pickle

import jax
import numpy as np
import pytest
from model_cases import BUDGET, ROWS, SMALL, numpy_rows

from stts_jax.batch import Batch
from stts_jax.budget import batch_arrays


def test_a_batch_has_the_arrays_of_its_budget():
    arrays = numpy_rows().to_arrays()
    assert {k: (v.shape, v.dtype) for k, v in arrays.items()} == batch_arrays(BUDGET, SMALL, ROWS)


def test_a_batch_is_made_of_its_arrays_by_name():
    batch = numpy_rows()
    again = Batch.from_arrays({**batch.to_arrays(), "another": np.zeros(3)})
    jax.tree.map(np.testing.assert_array_equal, again, batch)


def test_an_array_that_is_missing_is_named():
    arrays = numpy_rows().to_arrays()
    del arrays["labels"]
    with pytest.raises(KeyError, match="labels"):
        Batch.from_arrays(arrays)


def test_a_compiled_function_takes_a_batch_and_returns_one():
    batch = numpy_rows()
    jax.tree.map(np.testing.assert_array_equal, jax.jit(lambda x: x)(batch), batch)


def test_a_batch_is_sent_between_processes():
    batch = numpy_rows()
    jax.tree.map(np.testing.assert_array_equal, pickle.loads(pickle.dumps(batch)), batch)
