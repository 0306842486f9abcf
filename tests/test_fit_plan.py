"""`fit --plan`: a TPU's compiler is stopped once it has planned, here one that only pretends."""

from __future__ import annotations

import dataclasses
import sys
import time

import jax
import pytest
from topologies_here import topology_or_skip
from training_cases import small_config

from stts_jax.config import ConfigError
from stts_jax.fit import plan as planning
from stts_jax.fit.__main__ import compiler_of, parse
from stts_jax.fit.compiler import compile_wholly
from stts_jax.fit.hardware import GIB, Chip
from stts_jax.fit.plan import plan
from stts_jax.fit.programs import LoweredProgram, lower
from stts_jax.fit.setting import make_setting, parse_mesh, parseable_mesh, sized_config
from stts_jax.fit.topologies import Topology

TPU = Chip("pretended", "tpu", flops=1e12, memory=GIB, memory_rate=1e11, link_rate=1e10)
PROGRAM = LoweredProgram(None, {"parameters": 40, "batch": 2}, output_bytes=7)

# A compiler as `plan` sees it: it is given options, writes notes and says things.
COMPILER = """
import json, pathlib, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(options["--output"]).parent
assert json.loads(pathlib.Path(options["--config"]).read_text())["name"] == "small"
notes = folder / "17-TLP-hlo.txt"
def say(size):
    print(f"I1 heap_simulator.h:9] Primary algorithm finished with size: {size}", file=sys.stderr)
    sys.stderr.flush()
def note(text):
    with notes.open("a") as file:
        file.write(text)
HALF = (
    "HloModule jit_step\\n\\n"
    "%inner (a: f32[2]) -> f32[2] {\\n  ROOT %b = f32[2] add(%a, %a)\\n}\\n"
)
REST = (
    "\\nENTRY %main (a: f32[8]) -> f32[8] {\\n"
    "  ROOT %sum = f32[8] all-reduce(%a), replica_groups={{0,1}}, to_apply=%inner\\n}\\n"
)
"""


@pytest.fixture
def setting():
    topology = Topology("pretended:8", jax.devices(), TPU)
    return make_setting(small_config("name=small"), topology, shape={"fsdp": 8})


@pytest.fixture
def compiler(monkeypatch):
    """Lets `plan` start a Python program of these lines as its compiler."""

    def start(lines: str) -> None:
        monkeypatch.setattr(planning, "_COMMAND", (sys.executable, "-c", COMPILER + lines))

    return start


def test_a_plan_is_what_the_arrays_take_together_with_the_outputs(setting, compiler):
    compiler("say(500); say(300); note(HALF + REST); time.sleep(60)")
    start = time.monotonic()
    outcome = plan(setting, PROGRAM)
    assert time.monotonic() - start < 30  # and doesn't wait for the compiler's end
    assert outcome.planned and outcome.memory.fits
    made = {"temporaries": 300, "outputs": 7}
    assert outcome.memory.by_kind == PROGRAM.argument_bytes | made
    assert [i.opcode for i in outcome.module.computations["main"]] == ["all-reduce"]


def test_half_a_note_is_no_plan(setting, compiler):
    compiler("say(300); note(HALF); time.sleep(1); note(REST); time.sleep(60)")
    assert set(plan(setting, PROGRAM).module.computations) == {"inner", "main"}


def test_a_plan_that_takes_too_much_does_not_fit(setting, compiler):
    compiler(f"say({2 * GIB}); note(HALF + REST); time.sleep(60)")
    memory = plan(setting, PROGRAM).memory
    assert not memory.fits and memory.left == GIB - 2 * GIB - 49


def test_where_the_program_itself_may_decide_the_compiler_finishes(setting, compiler):
    report = {"memory": {"program": 9, "limit": 8, "measured": True}, "refusal": ""}
    compiler(
        f"say({GIB - 50}); note(HALF + REST); time.sleep(1);"
        f"pathlib.Path(options['--output']).write_text(json.dumps({report!r}))"
    )
    outcome = plan(setting, PROGRAM)
    assert not outcome.planned and not outcome.memory.fits
    assert set(outcome.module.computations) == {"inner", "main"}


def test_the_compiler_is_stopped_once_it_has_planned(setting, compiler, tmp_path):
    late = tmp_path / "late"
    compiler(
        f"say(1); note(HALF + REST); time.sleep(1.5); pathlib.Path({str(late)!r}).write_text('')"
    )
    plan(setting, PROGRAM)
    time.sleep(2)
    assert not late.exists()


@pytest.mark.parametrize("refusal", ["Ran out of memory on HBM", ""])
def test_where_nothing_was_planned_the_compilers_report_counts(setting, compiler, refusal):
    kinds = {"parameters": 40, "temporaries": 9}
    totals = {"total": 49, "limit": 50, "left": 1, "measured": not refusal}
    report = {"memory": kinds | totals, "refusal": refusal}
    compiler(f"pathlib.Path(options['--output']).write_text(json.dumps({report!r}))")
    outcome = plan(setting, PROGRAM)
    assert outcome.memory.by_kind == kinds and outcome.memory.limit == 50
    assert outcome.memory.fits == (not refusal) and outcome.refusal == refusal
    assert outcome.module is None and not outcome.planned


def test_a_compiler_that_breaks_down_has_the_last_word(setting, compiler):
    compiler("sys.exit('a defect')")
    with pytest.raises(RuntimeError, match="it said last: a defect"):
        plan(setting, PROGRAM)


def test_the_command_plans_on_request():
    asked = ["--config", "tiny", "--topology", "v5e:4x4"]
    assert compiler_of(parse([*asked, "--plan"])) is plan
    assert compiler_of(parse(asked)) is compile_wholly


def test_only_tpus_are_planned(setting):
    gpus = dataclasses.replace(TPU, platform="gpu")
    topology = dataclasses.replace(setting.topology, chip=gpus)
    with pytest.raises(ConfigError, match="--plan is for TPUs, and 'pretended:8' is none"):
        plan(dataclasses.replace(setting, topology=topology), PROGRAM)


def test_the_compiler_is_asked_for_the_same_mesh(setting):
    assert parse_mesh(parseable_mesh(setting.mesh)) == dict(setting.mesh.shape)


@pytest.mark.slow
@pytest.mark.compilers
def test_a_plan_is_that_of_the_whole_compilation():
    topology = topology_or_skip("v5e:4x4")
    config = sized_config("molmo2_4b_stts_50", 16, 1, [])
    setting = make_setting(config, topology, program="decode")
    program = lower(setting)
    planned, compiled = plan(setting, program), compile_wholly(setting, program)
    assert planned.module.runs == compiled.module.runs
    sizes = [outcome.memory.by_kind["temporaries"] for outcome in (planned, compiled)]
    # One is what the arrays' places take, the other what is filled at the peak: 32 KiB apart here.
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
