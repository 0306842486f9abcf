"""Mesh, placement, and which rows a device holds."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from random_batches import random_batch
from training_cases import ALL_KINDS, KEY, small_config

from stts_jax.budget import row_budget
from stts_jax.config import ConfigError
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import (
    LOGICAL_AXES,
    MESH_AXES,
    make_mesh,
    on_mesh,
    parameter_shardings,
    partition_spec,
    replicated,
    require_even_rows,
    shard_batch,
    share_rows,
)
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.step import abstract_state, make_train_step


def abstract_model(config):
    return jax.eval_shape(lambda: VideoLanguageModel(config.model, key=jax.random.key(0)))


def test_default_mesh_has_all_devices_on_data():
    mesh = make_mesh()
    assert mesh.axis_names == MESH_AXES
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1, "context": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_mesh_that_cannot_be_made_is_refused():
    with pytest.raises(ConfigError, match="takes 6 devices but there are 8"):
        make_mesh({"data": 3, "fsdp": 2})
    with pytest.raises(ConfigError, match="mesh axis 'model' is unknown"):
        make_mesh({"model": 8})


def test_every_parameter_has_a_place():
    config = small_config()
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    specs = {
        name: sharding.spec
        for name, sharding in named_parameters(
            parameter_shardings(abstract_model(config), mesh)
        ).items()
    }
    assert specs["llm.embedding"] == P("tensor", "fsdp")
    assert specs["llm.extra_embedding"] == P(None, "fsdp")
    assert specs["llm.blocks.mlp.up.kernel"] == P(None, "fsdp", "tensor")
    assert specs["scorer.second.kernel"] == P("fsdp", "tensor")
    assert specs["scorer.last.kernel"] == P("tensor", None)
    assert specs["llm.final_norm.scale"] == P(None)
    assert set(LOGICAL_AXES.values()) - {None} <= set(MESH_AXES)


def test_an_axis_that_does_not_divide_stays_whole():
    mesh = make_mesh({"data": 2, "fsdp": 4})
    assert partition_spec(("embed", "mlp"), (3, 6, 8), mesh) == P(None, None, None)
    assert partition_spec(("embed", "mlp"), (3, 8, 8), mesh) == P(None, "fsdp", None)


def test_collisions_and_unknown_names_are_refused():
    mesh = make_mesh()
    with pytest.raises(ValueError, match=r"x\.kernel has two dimensions on mesh axis 'tensor'"):
        partition_spec(("mlp", "heads"), (8, 8), mesh, "x.kernel")
    with pytest.raises(ValueError, match="logical axis 'width' of x is unknown"):
        partition_spec(("width",), (8,), mesh, "x")


def test_rows_must_be_shared_evenly():
    require_even_rows(16, make_mesh())
    with pytest.raises(ConfigError, match=r"data\.batch_rows is 12, which 8 devices"):
        require_even_rows(12, make_mesh())


def test_rows_that_cannot_be_shared_evenly_are_left_alone():
    mesh = make_mesh({"data": 2, "fsdp": 4})

    def is_whole(rows):
        x = jax.device_put(np.zeros((rows, 3)), replicated(mesh))
        with on_mesh(mesh):
            return jax.jit(share_rows)(x).sharding.is_fully_replicated

    assert not is_whole(16)
    assert is_whole(12)


def test_no_device_holds_activations_of_all_rows():
    """Neither forward nor backward: what has a row's tokens in it has one row only."""
    config = small_config()
    budget, vit = row_budget(config.model, config.data), config.model.vit
    mesh = make_mesh({"fsdp": 8})
    batch = shard_batch(random_batch(config.model, budget, 8, seed=3, kinds=ALL_KINDS), mesh)
    step = make_train_step(config, budget, mesh)
    text = step.lower(abstract_state(config, mesh), batch, KEY).compile().as_text()
    tokens = (f"{budget.tokens},", f"{budget.patches},", f"{budget.frames},{vit.patches},")
    for count in tokens:
        assert re.search(rf"f32\[1,{count}\d", text), count
        assert not re.search(rf"f32\[8,{count}\d.*", text), count
