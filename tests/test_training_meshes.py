"""Meshes of a run: chosen, refused, and that every shape computes what one device computes."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from training_cases import KEY, batch_for, fresh_state, single_mesh, small_config, train_step

from stts_jax.budget import row_budget
from stts_jax.config import ConfigError
from stts_jax.parallel.mesh import make_mesh
from stts_jax.parallel.parameters import count_parameters, named_parameters
from stts_jax.training import run_mesh as run_mesh_module
from stts_jax.training.run_mesh import mesh_shape, run_mesh
from stts_jax.training.step import abstract_state, init_state, make_train_step, state_shardings

SHAPES = [
    {"fsdp": 8},
    {"data": 4, "fsdp": 2},
    {"data": 2, "fsdp": 4},
    {"data": 4, "tensor": 2},
    {"fsdp": 4, "tensor": 2},
    {"data": 2, "fsdp": 2, "tensor": 2},
]
FIRST_FIT = "model.prune.packing=first_fit"
CASES = [
    *((shape, ()) for shape in SHAPES),
    (SHAPES[-1], (FIRST_FIT,)),
    *(pytest.param(shape, (FIRST_FIT,), marks=pytest.mark.slow) for shape in SHAPES[:-1]),
]


@pytest.mark.parametrize(("shape", "overrides"), CASES, ids=str)
def test_a_mesh_gives_loss_gradients_and_update_of_one_device(shape, overrides, report_error):
    config, mesh = small_config(*overrides), make_mesh(shape)
    budget = row_budget(config.model, config.data)
    one, metrics = train_step(*overrides)(
        fresh_state(*overrides), batch_for(config, 3, empty_rows=1), KEY
    )
    spread = jax.device_put(fresh_state(*overrides), state_shardings(abstract_state(config, mesh)))
    many, metrics_many = make_train_step(config, budget, mesh)(
        spread, batch_for(config, 3, mesh, empty_rows=1), KEY
    )
    metrics, metrics_many = jax.device_get((metrics, metrics_many))
    for name, value in metrics.items():
        error = abs(float(value) - float(metrics_many[name])) / max(1.0, abs(float(value)))
        report_error(name.split("/")[0], error, 1e-5)
        assert error < 1e-5, name
    # Adam's first moments are a tenth of the clipped gradients.
    moments, moments_many = (jax.device_get(named_parameters(s.optimizer)) for s in (one, many))
    gradients = [name for name in moments if ".mu." in name]
    worst = max(10 * np.abs(moments[n] - moments_many[n]).max() for n in gradients)
    report_error("gradients", worst, 1e-5)
    assert worst < 1e-5 and len(gradients) > 50
    # Adam's first update is the gradient's sign, so only where it is clearly not 0.
    before = named_parameters(fresh_state(*overrides).model)
    after, after_many = (jax.device_get(named_parameters(s.model)) for s in (one, many))
    moved = 0
    for name, array in after.items():
        gradient = next(10 * moments[n] for n in gradients if n.endswith(f".mu.{name}"))
        clear = np.abs(gradient) > 1e-4
        moved += int((array != before[name])[clear].sum())
        worst = np.abs(array - after_many[name])[clear].max(initial=0)
        report_error("updated parameters", worst, 1e-4)
        assert worst < 1e-4, name
    assert moved > 1000


def test_parameters_and_moments_are_born_cut_up():
    config, mesh = small_config(), make_mesh({"fsdp": 4, "tensor": 2})
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.mesh.data=3"], r"train\.mesh is \{data = 3, .*\}, which is 3 devices, but there"),
        (["train.mesh.data=2", "train.mesh.fsdp=2"], r"which is 4 devices, but there are 8"),
        (["train.mesh.tensor=8"], r"train\.mesh\.tensor is 8, but model\.llm\.heads is 2"),
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
    mesh = run_mesh(small_config("train.mesh.fsdp=2", "train.mesh.tensor=2"))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2, "context": 1}
    assert single_mesh().size == 1


@pytest.mark.parametrize(("memory", "axis"), [(None, "data"), (10**12, "data"), (10**5, "fsdp")])
def test_a_model_that_answers_is_cut_up_only_where_it_fills_a_device(memory, axis, monkeypatch):
    monkeypatch.setattr(run_mesh_module, "device_memory", lambda _: memory)
    assert run_mesh_module.answering_mesh(small_config()).shape[axis] == 8
