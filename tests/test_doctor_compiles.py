"""The doctor's own programs, at its full sizes, compile for chips that aren't here."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from topologies_here import topology_or_skip

from stts_jax.doctor.attention_cases import attention_cases
from stts_jax.doctor.blocks import PASSES, function_of, llm_programs, vit_programs
from stts_jax.doctor.kernels import attending, reasons, with_gradients
from stts_jax.doctor.sizes import full_sizes
from stts_jax.fit.topologies import tracing_for
from stts_jax.parallel.mesh import make_mesh, on_mesh

pytestmark = [pytest.mark.slow, pytest.mark.compilers]
HALF = jnp.dtype("bfloat16")
# The kernels that each platform must have, by case.
OURS = {
    "tpu": {"stream_tpu", "splash", "flash_tpu"},
    "gpu": {"stream_gpu", "cudnn", "flash_gpu"},
}
TOPOLOGIES = [("v5e:2x2", "tpu"), ("h100:1", "gpu"), ("gpu:24GiB", "gpu")]


def compile_for(topology, function, *arguments):
    mesh = make_mesh(devices=topology.devices[:1])
    sharding = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
    )
    with on_mesh(mesh), jax.default_matmul_precision("default"):
        jax.jit(function).lower(*shapes).compile()


@pytest.mark.parametrize(("name", "platform"), TOPOLOGIES)
def test_every_kernel_of_the_doctor_compiles(name, platform):
    topology = topology_or_skip(name)
    found = set()
    with tracing_for(platform):
        for case in attention_cases(full_sizes(platform, None), HALF):
            arrays, ids = jax.eval_shape(case.arrays), case.ids()
            able = [b for b in case.backends() if reasons(case)[b.name] is None]
            found |= {backend.name for backend in able}
            for backend in (b for b in able if b.platform is not None or b is able[0]):
                attend = attending(case, backend)
                compile_for(topology, attend, arrays, ids)
                if case.backward:
                    function = partial(with_gradients, attend)
                    compile_for(topology, function, arrays, ids, arrays[0])
    assert found >= OURS[platform]


@pytest.mark.parametrize(("name", "platform"), TOPOLOGIES)
def test_every_block_of_the_doctor_compiles(name, platform):
    topology = topology_or_skip(name)
    vit_programs.cache_clear()
    llm_programs.cache_clear()
    with tracing_for(platform):
        sizes = full_sizes(platform, None)
        for program in (*vit_programs(sizes, HALF).values(), *llm_programs(sizes, HALF).values()):
            for mode in PASSES:
                compile_for(topology, function_of(program, mode), *program.arguments)
