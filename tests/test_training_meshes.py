"""Meshes of a run: chosen, refused, and that every shape computes what one device computes."""

from __future__ import annotations

import re
from functools import cache

import jax
import numpy as np
import pytest
from jaxprs import equations
from quick_compile import AS_IN_A_RUN
from training_cases import KEY, batch_for, random_state, single_mesh, small_config

from stts_jax.attention import api as attention_api
from stts_jax.budget import row_budget
from stts_jax.config import ConfigError
from stts_jax.parallel.mesh import BATCH_AXES, on_mesh
from stts_jax.parallel.parameters import count_parameters, named_parameters
from stts_jax.training import run_mesh as run_mesh_module
from stts_jax.training.run_mesh import mesh_shape, run_mesh
from stts_jax.training.step import abstract_state, init_state, make_train_step

# Compiling a step for eight devices is what these tests cost, so it has few blocks; heads that
# share keys are cut up too.
MODEL = (
    "model.vit.layers=3",
    "model.vit.feature_layers=[-1]",
    "model.llm.heads=4",
    "model.llm.kv_heads=2",
)
STREAM, FIRST_FIT = "model.prune.layout=stream", "model.prune.layout=first_fit"
MESHES = (
    "fsdp=8",
    "data=2 fsdp=4",
    "data=4 tensor=2",
    "fsdp=4 context=2",
    "data=2 context=4",
    "fsdp=2 tensor=2 context=2",
)


def config_on(axes, *overrides):
    """The setup with the axes of a mesh, `data=2 fsdp=4` for example."""
    return small_config(*MODEL, *overrides, *(f"train.mesh.{axis}" for axis in axes.split()))


def compiled_step(config, mesh):
    """Returns the compiled step and a batch with rows of all kinds, one of them empty."""
    batch = batch_for(config, 3, mesh, empty_rows=1)
    step = make_train_step(config, row_budget(config.model, config.data), mesh)
    return step.lower(abstract_state(config, mesh), batch, KEY).compile(), batch


@cache
def step_on_one_device(packing):
    config, mesh = small_config(*MODEL, packing), single_mesh()
    step, batch = compiled_step(config, mesh)
    return jax.device_get(step(random_state(config, mesh), batch, KEY))


def step_on(axes, *overrides):
    """New state and metrics on a mesh."""
    config = config_on(axes, *overrides)
    mesh = run_mesh(config)
    step, batch = compiled_step(config, mesh)
    assert len(batch.images.addressable_shards) == 8
    return jax.device_get(step(random_state(config, mesh), batch, KEY))


def steps_on(axes):
    """Yields the cases of a mesh; the slow ones have no pair of axes that no quick one has."""
    quick = {
        "stream": ("fsdp=8", "data=4 tensor=2", "data=2 context=4", "fsdp=2 tensor=2 context=2"),
        "first_fit": ("data=2 fsdp=4", "fsdp=2 tensor=2 context=2"),
    }
    for name, layout in (("stream", STREAM), ("first_fit", FIRST_FIT)):
        marks = () if axes in quick[name] else pytest.mark.slow
        yield pytest.param(axes, layout, id=f"{name}-{axes}", marks=marks)


@pytest.mark.parametrize(
    ("axes", "packing"),
    [case for axes in MESHES for case in steps_on(axes)],
)
def test_a_mesh_gives_loss_gradients_and_update_of_one_device(axes, packing, report_error):
    check_same_update(step_on_one_device(packing), step_on(axes, packing), report_error)


@pytest.mark.parametrize(("axes", "parts"), [("fsdp=4 tensor=2", 2), ("tensor=2 context=4", 8)])
def test_parts_of_a_batch_one_after_the_other_give_its_update(axes, parts, report_error):
    """The rows are of all kinds, one is empty, so that the parts have different weights."""
    summed = step_on(axes, STREAM, f"train.accumulate={parts}")
    check_same_update(step_on_one_device(STREAM), summed, report_error)


def forward_on(config, mesh):
    """Returns hidden states and logits of the real tokens, and the scorer's scores."""
    budget, batch = row_budget(config.model, config.data), batch_for(config, 3, mesh, empty_rows=1)

    @jax.jit
    def forward(model, batch):
        with on_mesh(mesh):
            hidden, rows = model(batch, budget, key=KEY)
            return hidden, model.llm.logits(hidden), rows.vision.scores, rows.tokens.valid

    *arrays, valid = jax.device_get(forward(random_state(config, mesh).model, batch))
    hidden, logits, scores = arrays
    return {"hidden states": hidden[valid], "logits": logits[valid], "scores": scores}


@cache
def forward_on_one_device(packing):
    return forward_on(small_config(*MODEL, packing), single_mesh())


@pytest.mark.parametrize(
    ("axes", "packing"),
    [*((axes, STREAM) for axes in MESHES), ("fsdp=2 tensor=2 context=2", FIRST_FIT)],
)
def test_a_mesh_gives_every_logit_of_one_device(axes, packing, report_error):
    """A loss is a mean, in which what is wrong at one token may not show."""
    one = forward_on_one_device(packing)
    config = config_on(axes, packing)
    many = forward_on(config, run_mesh(config))
    assert len(one["logits"]) > 100
    for name, array in one.items():
        error = np.abs(array - many[name]).max() / np.abs(array).max()
        report_error(name, error, 1e-5)
        assert error < 1e-5, name


def check_same_update(expected, result, report_error):
    """States and metrics after one step."""
    (one, metrics), (many, metrics_many) = expected, result
    assert metrics.keys() == metrics_many.keys()
    for name, value in metrics.items():
        error = abs(float(value) - float(metrics_many[name])) / max(1.0, abs(float(value)))
        report_error(name.split("/")[0], error, 1e-5)
        assert error < 1e-5, name
    # Adam's first moments are a tenth of the clipped gradients.
    moments, moments_many = (named_parameters(state.optimizer) for state in (one, many))
    gradients = [name for name in moments if ".mu." in name]
    worst = max(10 * np.abs(moments[n] - moments_many[n]).max() for n in gradients)
    report_error("gradients", worst, 1e-5)
    assert worst < 1e-5 and len(gradients) > 50
    # Adam's first update is the gradient's sign, so only where it is clearly not 0.
    before = named_parameters(jax.device_get(random_state(small_config(*MODEL)).model))
    after, after_many = (named_parameters(state.model) for state in (one, many))
    moved = 0
    for name, array in after.items():
        gradient = next(10 * moments[n] for n in gradients if n.endswith(f".mu.{name}"))
        clear = np.abs(gradient) > 1e-4
        moved += int((array != before[name])[clear].sum())
        worst = np.abs(array - after_many[name])[clear].max(initial=0)
        report_error("updated parameters", worst, 1e-4)
        assert worst < 1e-4, name
    assert moved > 1000


def test_no_device_holds_activations_of_all_rows():
    """Neither forward nor backward: what has a row's tokens in it has one row only."""
    config = config_on("fsdp=8")
    budget, vit = row_budget(config.model, config.data), config.model.vit
    mesh = run_mesh(config)
    step = make_train_step(config, budget, mesh)
    lowered = step.lower(abstract_state(config, mesh), batch_for(config, 3, mesh), KEY)
    text = lowered.compile(AS_IN_A_RUN).as_text()
    tokens = (f"{budget.tokens},", f"{budget.patches},", f"{budget.frames},{vit.patches},")
    for count in tokens:
        assert re.search(rf"f32\[1,{count}\d", text), count
        assert not re.search(rf"f32\[8,{count}\d.*", text), count


def traced_step(axes, monkeypatch, *overrides):
    """Returns a step's jaxpr and budget, and the shapes of each device's attention."""
    config = config_on(axes, STREAM, *overrides)
    mesh, budget = run_mesh(config), row_budget(config.model, config.data)
    seen = set()

    def choose(backends, what, own, backend):
        seen.add((own.query.shape, own.key.shape))
        return chosen(backends, what, own, backend)

    chosen = attention_api.select_backend
    monkeypatch.setattr(attention_api, "select_backend", choose)
    step = make_train_step(config, budget, mesh)
    traced = step.trace(abstract_state(config, mesh), batch_for(config, 3, mesh), KEY)
    return config, budget, traced.jaxpr, seen


def test_every_axis_cuts_up_what_is_computed(monkeypatch):
    four_heads = ("model.vit.heads=4", "model.vit.head_dim=4")
    config, budget, jaxpr, seen = traced_step("fsdp=2 tensor=2 context=2", monkeypatch, *four_heads)
    llm, vit = config.model.llm, config.model.vit
    rows, tokens = config.data.batch_rows // 2, budget.tokens
    # Of the LLM's attention a device has its rows, half of the queries and half of the heads;
    # all keys of its rows are sent to it.
    query = (rows, tokens // 2, llm.heads // 2, llm.head_dim)
    assert (query, (rows, tokens, llm.kv_heads // 2, llm.head_dim)) in seen
    # Of the ViT's before the prune, half of the frames.
    frames = (rows, budget.frames // 2, vit.patches, vit.heads // 2, vit.head_dim)
    assert (frames, frames) in seen
    # After it, half of the heads again: what is left of a row is attended to as a whole.
    stream = (rows, budget.patches, vit.heads // 4, vit.head_dim)
    assert (stream, stream) in seen
    # Between the blocks tokens stay cut up, so norms and MLPs have half of them too.
    constrained = {
        (equation.invars[0].aval.shape, equation.params["sharding"].spec)
        for equation in equations(jaxpr)
        if equation.primitive.name == "sharding_constraint"
    }
    cut = jax.sharding.PartitionSpec(BATCH_AXES, "context")
    assert ((2 * rows, tokens, llm.width), cut) in constrained
    # And hidden widths over `tensor`, as their kernels are.
    shapes = named_parameters(abstract_state(config, run_mesh(config)).model)
    spec = {name: tuple(leaf.sharding.spec) for name, leaf in shapes.items()}
    for part in ("llm", "vit"):
        assert spec[f"{part}.blocks.mlp.up.kernel"] == (None, "fsdp", "tensor")
        assert spec[f"{part}.blocks.mlp.down.kernel"] == (None, "tensor", "fsdp")


def test_parameters_and_moments_are_born_cut_up():
    config = config_on("fsdp=4 tensor=2")
    mesh = run_mesh(config)
    abstract = abstract_state(config, mesh)
    cut = {
        name: leaf
        for name, leaf in named_parameters(abstract.model).items()
        if any(leaf.sharding.spec)
    }
    assert len(cut) > 30
    make = jax.jit(lambda key: init_state(config, mesh, key))
    compiled = make.lower(KEY).compile()
    placed = jax.tree.leaves(compiled.output_shardings)
    for leaf, sharding in zip(jax.tree.leaves(abstract), placed, strict=True):
        assert sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
    text = compiled.as_text()
    # Nowhere on the way is one of the large parameters whole.
    for name in ("llm.embedding", "llm.blocks.mlp.up.kernel", "vit.blocks.mlp.up.kernel"):
        shape = ",".join(map(str, cut[name].shape))
        assert not re.search(rf"f32\[{shape}\]", text), name
    whole = 3 * 4 * count_parameters(abstract.model)
    part = compiled.memory_analysis().output_size_in_bytes
    assert part < whole / 4, (part, whole)


@pytest.mark.parametrize(
    ("overrides", "devices", "memory", "expected"),
    [
        ([], 8, None, (8, 1, 1)),
        (["train.mesh.fsdp=8"], 8, None, (1, 8, 1)),
        (["train.mesh.tensor=2"], 8, None, (4, 1, 2)),
        (["train.mesh.data=2", "train.mesh.tensor=2"], 8, None, (2, 2, 2)),
        ([], 8, 10**5, (1, 8, 1)),  # a state that fills the devices is cut up
        ([], 16, 10**5, (2, 8, 1)),  # evenly: widths are 16 and 24
        (["train.mesh.data=8"], 8, 10**5, (8, 1, 1)),
    ],
)
def test_the_mesh_is_as_said_or_chosen_by_memory(overrides, devices, memory, expected):
    shape = mesh_shape(small_config(*overrides), devices, memory)
    assert (shape["data"], shape["fsdp"], shape["tensor"]) == expected


@pytest.mark.parametrize(("slices", "expected"), [(1, (2, 8)), (2, (2, 8)), (4, (4, 4))])
def test_parameters_are_cut_up_within_a_slice(slices, expected):
    shape = mesh_shape(small_config(), 16, 10**5, slices)
    assert (shape["data"], shape["fsdp"]) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.mesh.data=3"], r"train\.mesh is \{data = 3, .*\}, which is 3 devices, but there"),
        (["train.mesh.data=2", "train.mesh.fsdp=2"], r"which is 4 devices, but there are 8"),
        (["train.mesh.tensor=8"], r"train\.mesh\.tensor is 8, but model\.llm\.heads is 2"),
        (
            ["train.mesh.context=2", "data.row_text_tokens=41"],
            r"train\.mesh\.context is 2, which can't share the \d+ tokens.*row_text_tokens=42",
        ),
        (["data.batch_rows=12"], r"data\.batch_rows is 12, which 8 devices"),
        (["train.mesh.tensor=0"], r"train\.mesh\.tensor is 0; use 1 or more"),
        (["train.mesh.data=-1"], r"train\.mesh\.data is -1; use 0"),
        (["train.mesh.pipe=2"], r"unknown setting 'train\.mesh\.pipe'"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        run_mesh(small_config(*overrides))


def test_the_mesh_of_a_run_has_the_axes_asked_for():
    mesh = run_mesh(config_on("fsdp=2 tensor=2"))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2, "context": 1}
    assert single_mesh().size == 1


@pytest.mark.parametrize(("memory", "axis"), [(None, "data"), (10**12, "data"), (10**5, "fsdp")])
def test_a_model_that_answers_is_cut_up_only_where_it_fills_a_device(memory, axis, monkeypatch):
    monkeypatch.setattr(run_mesh_module, "device_memory", lambda _: memory)
    assert run_mesh_module.answering_mesh(small_config()).shape[axis] == 8
