"""What is read in the text of a compiled program: how often parts run, what devices send."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from stts_jax.fit.collectives import by_kind, collectives
from stts_jax.fit.cycles import estimates
from stts_jax.fit.hlo import array_bytes, parse_module
from stts_jax.parallel.mesh import make_mesh

PROGRAM = """\
HloModule jit_step

%body.1 (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)S(1)}) parameter(0)
  %x = f32[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%p), index=1
  %gather.1 = bf16[8,64]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={1}, metadata={op_name="jit(step)/llm/dot"}
  %norm = f32[8,16]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%f, metadata={op_name="jit(step)/llm/norm"}, backend_config={"window_config":{},"estimated_cycles":"100"}
  ROOT %t = (s32[], f32[8,16]) tuple(%p)
}

%cond.1 (p: (s32[], f32[8,16])) -> pred[] {
  %limit = s32[]{:T(128)} constant(36)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[8,16]) -> f32[8,16] {
  %w = (s32[], f32[8,16]) while(%a), condition=%cond.1, body=%body.1
  %copy.2 = f32[8,16]{1,0} copy(%a), backend_config={"estimated_cycles":"50"}
  %sum = f32[10]{0} all-reduce(%a), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %scatter = f32[4,16]{1,0} reduce-scatter(%a), channel_id=3, replica_groups=[4,2]<=[8], dimensions={0}
  %start = (f32[8,16]{1,0}, f32[64,16]{1,0}) all-gather-start(%a), channel_id=4, replica_groups=[1,8]<=[8]
  %done = f32[64,16]{1,0} all-gather-done(%start)
  %pair = ((f32[4,16]{1,0}, f32[8]{0}), (f32[2,16]{1,0}, f32[4]{0})) reduce-scatter-start(%a), channel_id=5, replica_groups=mesh['a'=2,'b'=4], device_ids=([2,4]T(1,0)) {'a'}
  ROOT %again = f32[10]{0} all-reduce(%a), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}
}
"""  # noqa: E501


def test_exchanges_in_a_loop_count_as_often_as_it_runs():
    module = parse_module(PROGRAM)
    assert module.runs["body.1"] == 36
    inside = next(c for c in collectives(module, 8) if c.runs > 1)
    assert (inside.kind, inside.devices, inside.source) == ("all-gather", 4, "jit(step)/llm/dot")
    assert inside.bytes_sent == 8 * 64 * 2 * 3 // 4


def test_bytes_sent_are_those_of_a_ring():
    totals = by_kind(collectives(parse_module(PROGRAM), 8))
    assert totals["all-reduce"] == {"runs": 1, "bytes": 2 * 40 * 3 // 4}  # written twice, one
    assert totals["reduce-scatter"] == {"runs": 2, "bytes": 4 * 16 * 4 + (2 * 16 + 4) * 4}
    assert totals["all-gather"]["bytes"] == 36 * 768 + 64 * 16 * 4 * 7 // 8


def test_a_compiler_s_cycles_in_a_loop_count_as_often_as_it_runs():
    in_loop, once = estimates(parse_module(PROGRAM))
    assert (in_loop.cycles, in_loop.runs, in_loop.source) == (3600, 36, "jit(step)/llm/norm")
    assert (once.cycles, once.runs) == (50, 1)
    assert in_loop.result.startswith("f32[8,16]")


def test_bytes_of_an_array_know_its_type():
    assert array_bytes("bf16[2,3]{1,0:T(8,128)(2,1)}") == 12
    assert array_bytes("(f32[4], pred[7], s32[])") == 16 + 7 + 4


def test_exchanges_of_a_program_that_is_known():
    """A sum over eight devices in each of five turns of a loop."""
    mesh = make_mesh({"fsdp": 8})
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))

    def turn(x, _):
        return x * (1 + x.sum()), None

    x = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=rows)
    program = jax.jit(lambda x: jax.lax.scan(turn, x, length=5)[0], out_shardings=rows)
    found = collectives(parse_module(program.lower(x).compile().as_text()), 8)
    assert [(c.kind, c.devices, c.runs, c.bytes_sent) for c in found] == [("all-reduce", 8, 5, 7)]
