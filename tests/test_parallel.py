"""Mesh and placement; `test_training_meshes` shows that meshes compute what one device computes."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from training_cases import small_config

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
    shard_activations,
)
from stts_jax.parallel.parameters import named_parameters


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


@dataclass(frozen=True)
class Chip:
    """Stands for a device of one of several slices, which this machine has none of."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    process_index: int = 0


SLICES = [Chip(n, n // 4) for n in range(8)]


@pytest.mark.parametrize("shape", [{"data": 2, "fsdp": 4}, {"data": 4, "tensor": 2}])
def test_slices_are_joined_along_data(shape):
    mesh = make_mesh(shape, SLICES[::-1])
    halves = mesh.devices.reshape(2, 4)
    assert [{chip.slice_index for chip in half} for half in halves] == [{0}, {1}]


def test_where_data_cannot_join_slices_fsdp_does():
    chips = make_mesh({"fsdp": 4, "tensor": 2}, SLICES).devices[0, :, :, 0]
    assert all(len({chip.slice_index for chip in pair}) == 1 for pair in chips)


def test_a_mesh_that_no_axis_joins_is_refused():
    with pytest.raises(ConfigError, match=r"can't span 2 slices.*make data .* a multiple of 2"):
        make_mesh({"tensor": 8}, SLICES)


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
    with pytest.raises(ConfigError, match=r"8 devices .*evenly in 3 parts .* multiple of 24"):
        require_even_rows(16, make_mesh(), 3)


def test_rows_and_places_that_cannot_be_shared_evenly_stay_whole():
    mesh = make_mesh({"data": 2, "fsdp": 2, "context": 2})

    def part(shape):
        x = jax.device_put(np.zeros(shape), replicated(mesh))
        with on_mesh(mesh):
            return jax.jit(shard_activations)(x).addressable_shards[0].data.shape

    assert part((16, 6, 3)) == (4, 3, 3)
    assert part((16, 5, 3)) == (4, 5, 3)
    assert part((6, 6, 3)) == (6, 6, 3)
