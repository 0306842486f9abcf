"""Dense layers of a model are replaced by name, in a copy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stts_jax.layers.linear import Linear
from stts_jax.layers.mlp import GeluMlp
from stts_jax.layers.replace_linears import replace_linears
from stts_jax.parallel.parameters import stack


class Doubled(nnx.Module):
    """A layer whose outputs are doubled."""

    def __init__(self, layer: Linear) -> None:
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        return 2 * self.layer(x)


class Tower(nnx.Module):
    """Stacked MLPs."""

    def __init__(self, key: jax.Array) -> None:
        self.blocks = stack(lambda k: GeluMlp(4, 8, key=k), key, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, block: (block(y), None), x, self.blocks)[0]


def doubled_down(name: str, layer: Linear) -> nnx.Module:
    return Doubled(layer) if name.endswith("down") else layer


def test_every_layer_is_offered_by_its_dotted_name():
    names = []
    replace_linears(Tower(jax.random.key(0)), lambda name, layer: names.append(name) or layer)
    assert sorted(names) == ["blocks.down", "blocks.up"]


def test_a_replacement_is_called_inside_of_a_scan():
    tower = Tower(jax.random.key(0))
    x = jnp.ones((2, 4))
    expected = x
    for layer in range(3):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], tower.blocks)
        expected = 2 * block(expected)
    np.testing.assert_allclose(replace_linears(tower, doubled_down)(x), expected, rtol=1e-6)


def test_the_model_itself_is_not_changed():
    tower = Tower(jax.random.key(0))
    before = jax.tree.structure(tower)
    replace_linears(tower, doubled_down)
    assert jax.tree.structure(tower) == before


def test_abstract_models_are_replaced_alike():
    abstract = jax.eval_shape(Tower, jax.random.key(0))
    real = replace_linears(Tower(jax.random.key(0)), doubled_down)
    assert jax.tree.structure(replace_linears(abstract, doubled_down)) == jax.tree.structure(real)
