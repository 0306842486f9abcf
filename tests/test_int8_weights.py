"""Weights of int8: how near they are, how they are read, and what a model computes with them."""

import dataclasses
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from model_cases import BUDGET, KEY, SMALL, rows, small_model, small_model_config
from reference_cases import worst
from training_cases import random_state, small_config

from stts_jax.config import load_config
from stts_jax.layers.int8_linear import Int8Linear, quantize
from stts_jax.layers.linear import Linear
from stts_jax.layers.replace_linears import replace_linears
from stts_jax.model.int8_weights import in_int8, scales_of, without_scales
from stts_jax.model.video_language_model import abstract_model, reconfigure, to_answer
from stts_jax.parallel.mesh import make_mesh, on_mesh, parameter_shardings
from stts_jax.parallel.parameters import named_parameters, stack
from stts_jax.training.checkpointing import parameter_loading, stored_arrays
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import load_to_answer, load_to_score, save_model


def make_linear(key, inputs=24, outputs=16):
    return Linear(inputs, outputs, axes=("embed", "mlp"), key=key)


def layer_of(kernel) -> Linear:
    layer = make_linear(KEY, *kernel.shape)
    layer.kernel[...] = jnp.asarray(kernel)
    return layer


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("axis", [-1, -2])
def test_rounding_errs_by_half_a_scale_at_most(seed, axis):
    rng = np.random.default_rng(seed)
    # Magnitudes from 1e-12 to 1e12, and a channel of zeros.
    weights = rng.standard_normal((3, 40, 30)) * 10 ** rng.uniform(-12, 12, (3, 40, 30))
    weights[0, :, 0] = weights[0, 0, :] = 0
    weights = weights.astype(np.float32)
    rounded, scale = quantize(jnp.asarray(weights), axis)
    scale = np.expand_dims(scale, axis)
    error = np.abs(np.asarray(rounded, np.float64) * scale - weights)
    assert (error <= scale * (0.5 + 1e-6)).all()
    assert np.abs(rounded).max() == 127


@pytest.mark.parametrize("value", [0.0, 1e-44, 1e-38, 3e38])
def test_channels_of_the_smallest_and_largest_values_stay_finite(value):
    rounded, scale = quantize(jnp.full((4, 2), value, jnp.float32), -2)
    found = np.asarray(rounded, np.float32) * scale
    np.testing.assert_allclose(found, np.full((4, 2), value), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_multiplies_with_its_rounded_kernel_and_adds_its_bias(dtype):
    layer = make_linear(KEY)
    layer.bias[...] = jnp.arange(16.0)
    quantized = Int8Linear.of(layer)
    whole = layer_of(quantized.kernel[...].astype(jnp.float32) * quantized.scale[...])
    whole.bias = layer.bias
    x = jax.random.normal(KEY, (2, 5, 24), dtype)
    assert quantized(x).dtype == dtype
    close = {"float32": 1e-6, "bfloat16": 2e-2}[dtype]  # worst: 2e-7 and 6e-3
    assert worst(quantized(x), whole(x.astype(jnp.float32))) < close


def test_one_row_is_computed_as_two_on_a_tpu_with_the_same_result(monkeypatch):
    quantized, x = Int8Linear.of(make_linear(KEY)), jax.random.normal(KEY, (1, 1, 24))
    expected = quantized(x)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    padded = jax.make_jaxpr(quantized)(x)
    assert "f32[2,16] = dot_general" in str(padded)
    np.testing.assert_allclose(quantized(x), expected, rtol=1e-5)


def test_gradients_flow_to_the_input_as_through_the_rounded_kernel():
    quantized = Int8Linear.of(make_linear(KEY))
    wide = quantized.kernel[...].astype(jnp.float32) * quantized.scale[...]
    x = jax.random.normal(KEY, (5, 24))
    found = jax.jit(jax.grad(lambda x: jnp.sin(quantized(x)).sum()))(x)
    expected = jax.grad(lambda x: jnp.sin(x @ wide).sum())(x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Tower(nnx.Module):
    """Stacked layers."""

    def __init__(self, key: jax.Array) -> None:
        self.blocks = stack(partial(make_linear, inputs=8, outputs=8), key, 3)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, block: (jnp.tanh(block(y)), None), x, self.blocks)[0]


def test_stacked_layers_are_scanned_as_each_alone():
    tower = Tower(KEY)
    quantized = replace_linears(tower, lambda _, layer: Int8Linear.of(layer))
    x = expected = jnp.ones((2, 8))
    for layer in range(3):
        one = jax.tree.map(lambda leaf, layer=layer: leaf[layer], tower.blocks)
        expected = jnp.tanh(Int8Linear.of(one)(expected))
    np.testing.assert_allclose(quantized(x), expected, rtol=1e-5)


def test_a_scale_is_sharded_as_the_outputs_of_its_kernel():
    model = in_int8(abstract_model(small_config().model))
    mesh = make_mesh({"fsdp": 2, "tensor": 4})
    shardings = named_parameters(parameter_shardings(model, mesh))
    for name, (scale, axis) in scales_of(named_parameters(model)).items():
        spec = [*shardings[name].spec]
        del spec[axis]
        assert [*shardings[scale].spec] == spec, name


@pytest.mark.parametrize("tied", [True, False])
def test_weights_of_vit_and_llm_become_int8_and_nothing_else(tied):
    config = small_model_config(llm__tied_head=tied)
    before = named_parameters(to_answer(abstract_model(config), "compute"))
    after = named_parameters(to_answer(abstract_model(config), "int8"))
    changed = {name for name in before if after[name].dtype != before[name].dtype}
    kernels = {n for n in before if n.startswith(("vit.", "llm.")) and n.endswith(".kernel")}
    assert changed == kernels | {"llm.embedding"} | (set() if tied else {"llm.head"})
    assert all(after[name].dtype == "int8" for name in changed)
    assert without_scales(after).keys() == before.keys()


def test_the_4b_model_takes_half_the_bytes():
    config = dataclasses.replace(load_config("molmo2_4b").model, compute_dtype="bfloat16")

    def bytes_of(weights):
        leaves = jax.tree.leaves(to_answer(abstract_model(config), weights))
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)

    assert bytes_of("int8") < 0.52 * bytes_of("compute")


def dequantized(model):
    """The model in float32 whose weights are those that an int8 model stands for."""
    parameters = named_parameters(model)
    for name, (scale, axis) in scales_of(parameters).items():
        wide = parameters[name].astype(jnp.float32)
        parameters[name] = wide * jnp.expand_dims(parameters[scale], axis)
    whole = abstract_model(model.config)
    leaves = [parameters[name] for name in named_parameters(whole)]
    return jax.tree.unflatten(jax.tree.structure(whole), leaves)


def logits_of(model, mesh_axes: tuple[str, ...] = ()):
    mesh = make_mesh(dict.fromkeys(mesh_axes, 2), jax.devices()[: 2 ** len(mesh_axes)])
    model = jax.device_put(model, parameter_shardings(model, mesh))

    @jax.jit
    def run(model, batch):
        with on_mesh(mesh):
            return model.llm.logits(model(batch, BUDGET, key=KEY)[0])

    return np.asarray(run(model, rows()))


@cache
def logits_of_int8():
    return logits_of(in_int8(small_model()))


def test_a_model_computes_as_one_in_float32_with_the_rounded_weights():
    expected = logits_of(dequantized(in_int8(small_model())))
    assert worst(logits_of_int8(), expected) < 1e-4  # 1e-6


def test_sharded_weights_give_the_logits_of_one_device():
    found = logits_of(in_int8(small_model()), ("fsdp", "tensor"))
    assert worst(found, logits_of_int8()) < 1e-4  # 2e-6


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_logits_are_of_the_rounded_table_and_head(tied):
    llm = in_int8(small_model(small_model_config(llm__tied_head=tied))).llm
    whole = dequantized(in_int8(small_model(small_model_config(llm__tied_head=tied)))).llm
    ids = jnp.array([[0, 5, 63, 64, 70, -1]])
    np.testing.assert_array_equal(llm.embed(ids, jnp.float32), whole.embed(ids, jnp.float32))
    hidden = jax.random.normal(KEY, (2, 24))
    assert worst(llm.logits(hidden), whole.logits(hidden)) < 1e-5  # 3e-7


def test_another_ratio_keeps_int8_weights():
    model = in_int8(small_model())
    config = dataclasses.replace(SMALL, prune=dataclasses.replace(SMALL.prune, topk=0.3))
    found = reconfigure(model, config)
    assert found.config == config
    assert {n: leaf.dtype for n, leaf in named_parameters(found).items()} == {
        n: leaf.dtype for n, leaf in named_parameters(model).items()
    }


# Loading.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint in blocks of at most 256 bytes, and its model."""
    folder, patch = tmp_path_factory.mktemp("saved"), pytest.MonkeyPatch()
    patch.setattr(stored_arrays, "_BLOCK_BYTES", 256)
    config = small_config("model.llm.tied_head=false")
    model = random_state(config).model
    save_model(model, config, folder)
    patch.undo()
    return folder, model


@pytest.mark.parametrize("axes", [{"data": 8}, {"fsdp": 4, "tensor": 2}, {"fsdp": 2, "data": 4}])
def test_reading_in_int8_equals_quantising_what_was_read(saved, axes, monkeypatch):
    monkeypatch.setattr(parameter_loading, "_READ_BYTES", 512)
    folder, model = saved
    mesh = make_mesh(axes)
    loaded, _ = load_to_answer(folder, mesh=mesh, weights="int8")
    expected = in_int8(model)
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    shardings = named_parameters(parameter_shardings(expected, mesh))
    for name, array in named_parameters(loaded).items():
        assert array.sharding == shardings[name], name
        np.testing.assert_array_equal(array, named_parameters(expected)[name], name)


def test_each_byte_of_int8_is_announced_and_counted_once(saved, monkeypatch):
    totals, done, bar = [], [], parameter_loading.byte_bar

    class Counted:
        def __init__(self, what, total, **options):
            totals.append(total)
            self.bar = bar(what, total, **options)

        def __enter__(self):
            self.bar.__enter__()
            return done.append

        def __exit__(self, *error):
            return self.bar.__exit__(*error)

    monkeypatch.setattr(parameter_loading, "byte_bar", Counted)
    mesh = make_mesh({"data": 4, "fsdp": 2})
    model, _ = load_to_answer(saved[0], mesh=mesh, weights="int8")
    assert totals == [sum(done)] == [sum(leaf.nbytes for leaf in jax.tree.leaves(model))]


def test_only_the_vit_is_quantised_to_score(saved):
    encoder, _ = load_to_score(saved[0], weights="int8")
    parameters = named_parameters(encoder)
    assert parameters["vit.blocks.mlp.up.kernel"].dtype == "int8"
    scorer = [leaf.dtype for name, leaf in parameters.items() if name.startswith("scorer.")]
    assert scorer and "int8" not in scorer


def test_a_kernel_that_is_not_finite_is_named(tmp_path):
    config = small_config()
    model = random_state(config).model
    model.llm.blocks.mlp.up.kernel[...] = (
        model.llm.blocks.mlp.up.kernel[...].at[1, 2, 3].set(jnp.nan)
    )
    save_model(model, config, tmp_path)
    said = r"parameter 'llm\.blocks\.mlp\.up\.kernel' has values that are not finite.*int8"
    with pytest.raises(CheckpointError, match=said):
        load_to_answer(tmp_path, weights="int8")
