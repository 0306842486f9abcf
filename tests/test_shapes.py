"""Shapes in annotations hold in tests, and are not looked at outside of them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from model_cases import numpy_rows

from stts_jax.pruning import at_visual_tokens, to_windows

UNCHECKED = """
import sys, stts_jax.pruning, stts_jax.batch
assert "beartype" not in sys.modules
stts_jax.batch.TextRows(*[None] * 5)
"""


def test_an_argument_of_another_rank_is_refused():
    with pytest.raises(TypeCheckError, match="to_windows"):
        to_windows(jnp.zeros(9), 3)


def test_arguments_whose_rows_differ_are_refused():
    with pytest.raises(TypeCheckError, match="at_visual_tokens"):
        at_visual_tokens(jnp.zeros((2, 3, 4)), jnp.zeros((1, 5), bool))


def test_a_batch_whose_rows_differ_is_refused():
    batch = numpy_rows()
    with pytest.raises(TypeCheckError, match="num_images"):
        dataclasses.replace(batch, num_images=batch.num_images[1:])


def test_text_of_another_type_is_refused():
    text = numpy_rows().text
    with pytest.raises(TypeCheckError, match="input_ids"):
        dataclasses.replace(text, input_ids=text.input_ids.astype(np.float32))


def test_nothing_is_checked_outside_of_tests():
    subprocess.run([sys.executable, "-c", UNCHECKED], check=True)
