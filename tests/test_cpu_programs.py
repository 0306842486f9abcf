"""Programs that answer with bfloat16 parameters on a CPU: what they compute, and how small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stts_jax.inference.cpu_programs import CpuLinear, jit_to_answer
from stts_jax.layers.linear import Linear
from stts_jax.parallel.platform import compiler_options

HALF = jnp.bfloat16


def linear(dtype, bias=True):
    layer = Linear(48, 32, axes=(None, None), key=jax.random.key(0), bias=bias)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), layer)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (1, 1, 48), (2, 48), (2, 3, 48)])
def test_products_are_those_of_the_layer_it_replaces(shape, bias):
    x = jax.random.normal(jax.random.key(1), shape, HALF)
    plain = linear(HALF, bias)
    found, wanted = CpuLinear(plain)(x), plain(x)
    assert found.shape == wanted.shape and found.dtype == HALF
    # Rounded to 8 bits once; sums of another order may round to the neighbour.
    np.testing.assert_allclose(*(np.asarray(y, np.float32) for y in (found, wanted)), rtol=2**-7)


def test_float32_activations_are_computed_as_by_the_layer_it_replaces():
    x = jax.random.normal(jax.random.key(1), (2, 48))
    np.testing.assert_array_equal(CpuLinear(linear(HALF))(x), linear(HALF)(x))


def stacked(dtype):
    """Four layers of 256 x 256, and a function that runs them in a loop."""
    kernels = jnp.ones((4, 256, 256), dtype)

    def run(kernels, x):
        return jax.lax.scan(lambda x, k: (jnp.dot(x, k.astype(x.dtype)), None), x, kernels)[0]

    return kernels, run


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_narrow_parameters_are_not_copied_out_of_a_loop(dtype):
    kernels, run = stacked(dtype)
    x = jnp.ones((8, 256))
    program = jax.jit(run, compiler_options=compiler_options(kernels)).lower(kernels, x).compile()
    # A copy of all four would be 4 * 256 * 256 * 4 bytes.
    assert program.memory_analysis().temp_size_in_bytes < 2 * 256 * 256 * 4


def test_float32_parameters_are_compiled_as_elsewhere():
    assert compiler_options(stacked(jnp.float32)[0]) is None


@pytest.mark.parametrize(("dtype", "used"), [(jnp.float32, Linear), (HALF, CpuLinear)])
def test_programs_take_the_layers_of_their_parameters(dtype, used):
    found = []
    program = jit_to_answer(lambda model, x: found.append(type(model.layer)) or model.layer(x), ())
    model = nnx.Module()
    model.layer = linear(dtype)
    assert program(model, jnp.ones((2, 48), dtype)).shape == (2, 32)
    assert found == [used] and type(model.layer) is Linear


def test_other_platforms_have_no_options(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert compiler_options(stacked(HALF)[0]) is None
