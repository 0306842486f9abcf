"""Layers as they are differentiated: what is kept, and what shape the products have.

That they compute the right thing is in `test_parity_*`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stts_jax.layers.linear import Linear
from stts_jax.layers.mlp import GeluMlp, SwiGluMlp
from stts_jax.layers.norms import LayerNorm, RmsNorm
from stts_jax.parallel.mesh import make_mesh, on_one_device

ROWS, LENGTH, WIDTH, HIDDEN = 2, 6, 4, 10


def linear():
    return Linear(WIDTH, HIDDEN, axes=("embed", "mlp"), key=jax.random.key(0))


def inputs():
    return jax.random.normal(jax.random.key(1), (ROWS, LENGTH, WIDTH))


def product_ranks(jaxpr):
    return [
        max(v.aval.ndim for v in e.invars) for e in jaxpr.eqns if e.primitive.name == "dot_general"
    ]


def loss_gradient():
    return jax.make_jaxpr(jax.grad(lambda layer, x: (layer(x) ** 2).sum()))


def test_on_one_device_all_products_are_of_matrices():
    assert set(product_ranks(loss_gradient()(linear(), inputs()))) == {2}


def test_on_several_devices_no_rows_are_merged_with_what_lies_elsewhere():
    mesh = make_mesh({"data": 4, "context": 2})
    with jax.set_mesh(mesh):
        assert set(product_ranks(loss_gradient()(linear(), inputs()))) == {3}


@pytest.mark.parametrize(("shape", "alone"), [({"data": 8}, False), ({"data": 1}, True)])
def test_a_mesh_of_one_device_is_one_device(shape, alone):
    with jax.set_mesh(make_mesh(shape, jax.devices()[: shape["data"]])):
        assert on_one_device() is alone


def test_without_a_mesh_there_is_one_device():
    assert on_one_device()


def test_a_linear_layer_is_a_product_and_a_sum():
    layer, x = linear(), inputs()
    want = np.einsum("bli,io->blo", x, layer.kernel[...]) + layer.bias[...]
    np.testing.assert_allclose(layer(x), want, atol=1e-6)


def arrays_kept(function, width):
    """For the backward pass, of as many places as the input and this width."""
    _, backward = jax.vjp(function, inputs())
    return sum(jnp.shape(x) == (ROWS, LENGTH, width) for x in jax.tree.leaves(backward))


@pytest.mark.parametrize("norm", [LayerNorm, RmsNorm])
def test_a_norm_keeps_only_what_enters_it(norm):
    layer = norm(WIDTH, 1e-6, key=jax.random.key(4))
    assert arrays_kept(lambda x: layer(x), WIDTH) == 1


@pytest.mark.parametrize(
    ("mlp", "kept"),
    [
        (GeluMlp(WIDTH, HIDDEN, key=jax.random.key(2)), 1),
        (SwiGluMlp(WIDTH, HIDDEN, WIDTH, key=jax.random.key(2)), 2),
    ],
    ids=["gelu", "swiglu"],
)
def test_of_the_hidden_layer_only_what_enters_the_activation_is_kept(mlp, kept):
    assert arrays_kept(lambda x: mlp(x), HIDDEN) == kept
