"""Low-rank adapters around dense layers: they begin as nothing, and merge into their base."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stts_jax.layers.linear import Linear
from stts_jax.layers.lora import LoraLinear, merged_kernel, with_dropout_keys
from stts_jax.layers.mlp import GeluMlp
from stts_jax.layers.replace_linears import replace_linears
from stts_jax.parallel.parameters import named_parameters, replace_parameters, stack

SCALE = 2.0
X = jax.random.normal(jax.random.key(7), (2, 3, 4))


def with_adapters(model, dropout=0.0):
    def wrap(name, layer):
        return LoraLinear(layer, rank=2, scale=SCALE, dropout=dropout, key=jax.random.key(3))

    return replace_linears(model, wrap)


def blocks():
    return stack(lambda key: GeluMlp(4, 8, key=key), jax.random.key(0), 3)


def run(model, x=X):
    return jax.lax.scan(jax.checkpoint(lambda y, block: (block(y), None)), x, model)[0]


def trained(model):
    """Adapters that add something."""
    named = named_parameters(model)
    changed = {
        name: jax.random.normal(jax.random.key(n), leaf.shape)
        for n, (name, leaf) in enumerate(named.items())
        if name.endswith("lora_b")
    }
    return replace_parameters(model, changed)


def merged(model, of):
    named = named_parameters(model)
    kernels = {
        f"{layer}.kernel": merged_kernel(
            named[f"{layer}.base.kernel"],
            named[f"{layer}.lora_a"],
            named[f"{layer}.lora_b"],
            SCALE,
            jnp.float32,
        )
        for layer in ("up", "down")
    }
    return replace_parameters(of, kernels)


def test_a_new_adapter_leaves_its_layer_as_it_is():
    np.testing.assert_array_equal(run(with_adapters(blocks())), run(blocks()))


def test_the_first_factor_begins_as_in_peft():
    a = with_adapters(blocks()).up.lora_a[...]
    assert a.shape == (3, 4, 2)
    assert 0.25 < np.abs(a).max() <= 0.5  # uniform up to 1 / sqrt(4)
    assert not np.allclose(a[0], a[1])


def test_merged_adapters_are_applied_adapters(report_error):
    adapted = trained(with_adapters(blocks()))
    applied, whole = run(adapted), run(merged(adapted, blocks()))
    assert np.abs(applied - run(blocks())).max() > 0.1
    error = np.abs(applied - whole).max() / np.abs(whole).max()
    report_error("merged and applied", error, 1e-5)
    assert error < 1e-5


def test_gradients_are_those_of_the_merged_kernels(report_error):
    """By the chain rule: dA = s dW B^T and dB = s A^T dW."""
    adapted = trained(with_adapters(blocks()))
    loss = lambda model: jnp.sum(jnp.sin(run(model)))  # noqa: E731
    own = named_parameters(jax.grad(loss)(adapted))
    of_kernel = named_parameters(jax.grad(loss)(merged(adapted, blocks())))
    named = named_parameters(adapted)
    for layer in ("up", "down"):
        kernel = of_kernel[f"{layer}.kernel"]
        a, b = named[f"{layer}.lora_a"], named[f"{layer}.lora_b"]
        for name, wanted in (
            ("lora_a", SCALE * kernel @ b.swapaxes(1, 2)),
            ("lora_b", SCALE * a.swapaxes(1, 2) @ kernel),
        ):
            error = np.abs(own[f"{layer}.{name}"] - wanted).max() / np.abs(wanted).max()
            report_error("gradient of a factor", error, 1e-4)
            assert error < 1e-4


def test_an_adapter_is_sharded_as_its_kernel_is():
    layer = Linear(4, 8, axes=("embed", "mlp"), key=jax.random.key(0))
    adapted = LoraLinear(layer, rank=2, scale=1.0, dropout=0.0, key=jax.random.key(1))
    assert adapted.lora_a.logical_axes == ("embed", None)
    assert adapted.lora_b.logical_axes == (None, "mlp")


def test_abstract_models_are_adapted_alike():
    shapes = jax.eval_shape(lambda: with_adapters(blocks()))
    assert jax.tree.structure(shapes) == jax.tree.structure(with_adapters(blocks()))


def test_dropout_is_on_where_keys_are_given():
    adapted = trained(with_adapters(blocks(), dropout=0.5))
    dropped = with_dropout_keys(adapted, jax.random.key(1))
    assert not np.allclose(run(dropped), run(adapted))
    np.testing.assert_array_equal(run(dropped), run(with_dropout_keys(adapted, jax.random.key(1))))
    assert not np.allclose(run(dropped), run(with_dropout_keys(adapted, jax.random.key(2))))
    assert adapted.up.dropout_key is None


def test_dropout_keeps_the_mean(report_error):
    layer = Linear(4, 8, axes=("embed", "mlp"), key=jax.random.key(0))
    adapted = trained(LoraLinear(layer, rank=2, scale=1.0, dropout=0.25, key=jax.random.key(1)))
    x = jnp.ones((20_000, 4))
    mean = with_dropout_keys(_Holder(adapted), jax.random.key(5)).layer(x).mean(0)
    error = np.abs(mean - adapted(x[:1])[0]).max() / np.abs(adapted(x[:1])).max()
    report_error("mean under dropout", error, 0.02)
    assert error < 0.02


class _Holder(type(blocks())):
    def __init__(self, layer):
        self.layer = layer


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_merged_kernel_has_the_type_asked_for(dtype):
    kernel, a, b = jnp.ones((4, 8)), jnp.ones((4, 2)), jnp.ones((2, 8))
    found = merged_kernel(kernel, a, b, 0.5, dtype)
    assert found.dtype == dtype and (found == 2).all()
