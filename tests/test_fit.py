"""Fit before anyone pays: what is compiled, what is counted, and what the table says."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from types import SimpleNamespace

import jax
import pytest
from training_cases import random_state, small_config

from stts_jax.bench.full_size_folder import of_width
from stts_jax.budget import row_budget
from stts_jax.config import ConfigError, load_config
from stts_jax.fit import __main__ as command
from stts_jax.fit.hardware import GIB, Chip
from stts_jax.fit.memory import Memory, memory_of, memory_of_refusal
from stts_jax.fit.programs import LoweredProgram
from stts_jax.fit.report import analyse, as_dict
from stts_jax.fit.report_text import as_text
from stts_jax.fit.roofline import roofline
from stts_jax.fit.search import find_mesh, mesh_shapes, most_rows
from stts_jax.fit.setting import make_setting, parse_mesh, sized_config
from stts_jax.fit.topologies import Topology, get_topology
from stts_jax.parallel.memory import bytes_per_device
from stts_jax.parallel.mesh import make_mesh
from stts_jax.training.flops import (
    PartFlops,
    StepFlops,
)
from stts_jax.training.run_mesh import even_fsdp
from stts_jax.training.step import abstract_state, state_shardings

# This machine's eight CPU devices stand for chips, so that all but the compiler's target is true.
CPU = Chip("cpu", "cpu", flops=1e12, memory=GIB, memory_rate=1e11, link_rate=1e10)


# ------------------------------------------------------------------------------- what is compiled


@cache
def small_report(program: str):
    topology = Topology("cpu:8", jax.devices(), CPU)
    few = ("model.vit.layers=3", "model.vit.feature_layers=[-1]")
    config, mesh = small_config("model.llm.kv_heads=2", *few), {"data": 2, "fsdp": 2, "tensor": 2}
    return analyse(make_setting(config, topology, program=program, shape=mesh, rows_per_device=2))


@pytest.mark.parametrize("program", ["train", "prefill", "decode"])
def test_a_program_is_compiled_and_its_bytes_add_up(program):
    memory = small_report(program).memory
    assert memory.measured and memory.fits
    assert memory.total == sum(memory.by_kind.values()) > memory.by_kind["parameters"] > 0
    assert memory.left == CPU.memory - memory.total
    # The compiler counts the same bytes of arguments as their shapes and shardings do.
    assert memory.by_kind["padding"] == 0


def test_training_holds_two_moments_a_parameter():
    config = small_config("train.optimizer=adamw")
    state = abstract_state(config, make_mesh({"fsdp": 4, "tensor": 2}))
    parameters, optimizer = bytes_per_device(state.model), bytes_per_device(state.optimizer)
    assert optimizer == pytest.approx(2 * parameters, rel=1e-2)


def test_bytes_of_a_device_are_those_that_it_is_given():
    config, mesh = small_config(), make_mesh({"fsdp": 4, "tensor": 2})
    abstract = abstract_state(config, mesh)
    state = jax.device_put(random_state(config), state_shardings(abstract))
    first = jax.devices()[0]
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
        if shard.device == first
    )
    assert bytes_per_device(abstract) == held


def test_only_a_decoding_step_starts_with_a_cache():
    assert small_report("decode").memory.by_kind["cache"] > 0
    assert "cache" not in small_report("prefill").memory.by_kind


def test_the_report_is_plain_data_and_text():
    report = small_report("train")
    found = json.loads(json.dumps(as_dict(report)))
    assert found["fits"] and found["mesh"] == "data=2,fsdp=2,tensor=2" and found["rows"] == 8
    assert found["collectives"] and found["largest_arrays"]
    assert found["flops"]["model"] == report.flops.model
    text = as_text(report)
    for wanted in ("parameters", "optimizer", "FITS", "vit_after", "all-reduce", "at most"):
        assert wanted in text


# ---------------------------------------------------------------------------------- what is asked


def test_room_for_text_gives_the_papers_token_counts():
    two = row_budget_of("molmo2_4b", 64, 2)
    long = row_budget_of("molmo2_4b", 256, 1)
    assert (two.tokens, long.tokens) == (15_670, 25_307)
    assert row_budget_of("molmo2_4b_stts_50", 64, 2).tokens == 10_486


def row_budget_of(name, frames, videos):
    config = sized_config(name, frames, videos, [])
    return row_budget(config.model, config.data)


def test_overrides_have_the_last_word():
    config = sized_config("molmo2_4b_stts_50", 64, 2, ["data.row_text_tokens=4502"])
    assert row_budget(config.model, config.data).tokens == 9_686


@pytest.mark.parametrize("name", ["molmo2_4b", "molmo2_8b", "molmo2_o_7b"])
@pytest.mark.parametrize("devices", [8, 16, 256])
def test_default_mesh_cuts_both_widths_evenly(name, devices):
    model, fsdp = load_config(name).model, even_fsdp(load_config(name), devices)
    assert model.vit.width % fsdp == model.llm.width % fsdp == devices % fsdp == 0
    assert fsdp == min(devices, 128)


@pytest.mark.parametrize(
    "name, words",
    [
        ("v9:2x2", "v5e:16x16"),
        ("v5e", "v5e:16x16"),
        ("v5e:4x4x4", "chip and shape"),
        ("2*h100:8", "two slices"),
        ("h100:0", "chip and shape"),
        ("0*v5e:4x4", "chip and shape"),
        ("v5e:0x4", "chip and shape"),
    ],
)
def test_an_unknown_topology_is_named_with_those_there_are(name, words):
    with pytest.raises(ConfigError, match=f"'{re.escape(name)}'.*{words}"):
        get_topology(name)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("v5e:4x4", {"topology_name": "v5e:4x4", "num_slices": 1}),
        ("2*v6e:2x4", {"topology_name": "v6e:2x4", "num_slices": 2}),
        ("v5p:1x1x1", {"topology_name": "v5p:1x1x1", "chips_per_host_bounds": (1, 1, 1)}),
        ("v5e:2x1", {"topology_name": "v5e:2x1", "chips_per_host_bounds": (2, 1, 1)}),
    ],
)
def test_the_compiler_is_asked_for_slices_of_any_number_and_size(name, asked, monkeypatch):
    options = {}

    def describe(**given):
        options.update(given)
        return SimpleNamespace(devices=[SimpleNamespace(device_kind="TPU v5 lite")])

    monkeypatch.setattr("stts_jax.fit.topologies.find_spec", lambda _: True)
    monkeypatch.setattr("stts_jax.fit.topologies.topologies.get_topology_desc", describe)
    assert get_topology(name).name == name
    assert asked.items() <= options.items()
    assert ("chips_per_host_bounds" in options) == ("chips_per_host_bounds" in asked)


@pytest.mark.parametrize(
    ("name", "limit"), [("cpu:24GiB", 24 * GIB), ("cpu:1.5GB", 15 * 10**8), ("cpu:8G", 8 * GIB)]
)
def test_a_cpu_of_any_memory_is_a_topology_without_rates(name, limit):
    topology = get_topology(name)
    assert topology.chip.memory == limit and not topology.chip.has_rates
    assert [device.platform for device in topology.devices] == ["cpu"]


def test_this_machines_memory_is_what_a_run_would_find_free(monkeypatch):
    monkeypatch.setattr("stts_jax.fit.topologies.free_memory", lambda device: 5 * GIB)
    assert get_topology("cpu").chip.memory == 5 * GIB
    monkeypatch.setattr("stts_jax.fit.topologies.free_memory", lambda device: None)
    with pytest.raises(ConfigError, match="give it, as in cpu:24GiB"):
        get_topology("cpu")


@pytest.mark.parametrize(("size", "capability"), [(16, 8), (24, 8), (48, 8), (80, 9)])
def test_one_gpu_is_described_by_its_memory(size, capability, monkeypatch):
    asked = {}

    def describe(**given):
        asked.update(given)
        return SimpleNamespace(devices=[SimpleNamespace(device_kind="any")])

    monkeypatch.setattr("stts_jax.fit.topologies.find_spec", lambda _: True)
    monkeypatch.setattr("stts_jax.fit.topologies.topologies.get_topology_desc", describe)
    topology = get_topology(f"gpu:{size}GiB")
    assert f"major: {capability}" in asked["target_config"]
    assert topology.chip.memory == int(0.95 * size * GIB) and not topology.chip.has_rates


def test_a_report_has_the_estimate_by_hand_of_the_same_programs():
    for program in ("train", "prefill", "decode"):
        found = as_dict(small_report(program))
        assert found["estimate"]["parameters"] > 0
        total = sum(size for kind, size in found["estimate"].items() if kind != "total")
        assert found["estimate"]["total"] == total
    assert "gradients" in as_dict(small_report("train"))["estimate"]


def test_a_cpu_answers_without_float32_copies_of_bfloat16_parameters():
    topology = Topology("cpu:24GiB", jax.devices()[:1], Chip("cpu", "cpu", 0.0, GIB, 0.0, 0.0))
    config = sized_config("molmo2_4b", 8, None, ["model.compute_dtype=bfloat16"])
    config = dataclasses.replace(config, model=of_width(config.model, 0.125))
    memory = analyse(make_setting(config, topology, program="decode")).memory
    share = memory.by_kind["temporaries"] / memory.by_kind["parameters"]
    assert share < 0.5  # 1.67 with the copies


def test_without_peak_rates_there_is_no_time():
    topology = Topology("cpu:24GiB", jax.devices()[:1], Chip("cpu", "cpu", 0.0, GIB, 0.0, 0.0))
    config = small_config("model.vit.layers=3", "model.vit.feature_layers=[-1]")
    report = analyse(make_setting(config, topology, program="decode"))
    assert as_dict(report)["seconds"] is None
    assert "rates of 'cpu' aren't known" in as_text(report)


def test_a_missing_compiler_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("stts_jax.fit.topologies.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"libtpu.*pip install -e .\.\[tpu\]"):
        get_topology("v5e:2x2")


def test_bad_options_are_one_sentence(capsys):
    assert command.main(["--config", "tiny", "--topology", "v5e", "--mesh", "fsdp"]) == 2
    assert "--mesh is 'fsdp'; write axis=devices" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--frames is 0"):
        sized_config("tiny", 0, None, [])
    with pytest.raises(ConfigError, match="--rows-per-device is 0"):
        make_setting(load_config("tiny"), Topology("cpu:8", jax.devices(), CPU), rows_per_device=0)
    assert parse_mesh("data=2,fsdp=4") == {"data": 2, "fsdp": 4}


# ---------------------------------------------------------------------- what the compiler says


@pytest.mark.parametrize(
    "message, temporaries, limit",
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (27.84G) exceeds available HBM (15.75G).",
            27.84,
            15.75,
        ),
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exc", 18.5, 15.75),
    ],
)
def test_a_refusal_says_by_how_much(message, temporaries, limit):
    program = LoweredProgram(None, {"parameters": GIB, "batch": GIB})
    memory = memory_of_refusal(message, program, limit=1)
    assert not memory.fits
    assert memory.by_kind["temporaries"] / GIB == pytest.approx(temporaries)
    assert memory.left / GIB == pytest.approx(limit - temporaries - 2)


@pytest.mark.parametrize(("platform", "temporaries"), [("tpu", 50), ("gpu", 70)])
def test_temporaries_of_a_compiled_program_count_gaps_once(platform, temporaries):
    """A TPU's compiler reports 70 with the gaps between arrays added again; at its peak are 50."""

    class Compiled:
        def memory_analysis(self):
            return SimpleNamespace(
                argument_size_in_bytes=43,
                output_size_in_bytes=17,
                alias_size_in_bytes=10,
                temp_size_in_bytes=70,
                peak_memory_in_bytes=100,
                generated_code_size_in_bytes=3,
            )

    program = LoweredProgram(None, {"parameters": 40})
    memory = memory_of(Compiled(), program, dataclasses.replace(CPU, platform=platform))
    made = {"temporaries": temporaries, "outputs": 7, "program": 3, "padding": 3}
    assert memory.by_kind == {"parameters": 40} | made


def test_another_failure_is_no_refusal():
    assert memory_of_refusal("INTERNAL: a defect", LoweredProgram(None, {}), 1) is None


def test_the_slowest_of_three_bounds_the_step():
    flops = StepFlops((PartFlops("llm", 6e12, 2e12, 8e12),))
    bound = roofline(flops, CPU, devices=8, moved=10**11, sent=5 * 10**9)
    assert (bound.compute, bound.memory, bound.links) == (2.0, 1.0, 0.5)
    assert (bound.seconds, bound.bound) == (2.0, "compute")


# ------------------------------------------------------------------------------------- the search


def linear_memory(tried, first, each, limit=100):
    def memory_of(rows):
        tried.append(rows)
        return Memory({"temporaries": first + each * rows}, limit, measured=True)

    return memory_of


@pytest.mark.parametrize("first, each", [(10, 7), (90, 5), (90, 20), (0, 1), (99, 1), (0, 49)])
def test_search_finds_the_most_rows_in_few_tries(first, each):
    tried = []
    expected = max((100 - first) // each, 0)
    assert most_rows(linear_memory(tried, first, each)) == expected
    assert len(tried) == len(set(tried)) <= 5
    # The answer and the count above it were both compiled.
    assert expected == 0 or {expected, expected + 1} <= set(tried)


def test_search_takes_the_first_mesh_that_holds_a_row():
    def memory_on(shape, rows):
        return Memory({"temporaries": 60 * rows // shape.get("tensor", 1)}, 40, measured=True)

    shapes = mesh_shapes(load_config("molmo2_4b"), 16)
    assert shapes[0] == {"data": 1, "fsdp": 16}
    assert find_mesh(shapes, memory_on) == ({"data": 1, "fsdp": 8, "tensor": 2}, 1)


def test_search_shares_rows_over_context_too_where_their_tokens_can_be():
    def memory_on(shape, rows):
        return Memory({"temporaries": 60 * rows // shape.get("context", 1)}, 40, measured=True)

    even = load_config("molmo2_4b", ["data.row_text_tokens=4502"])
    odd = load_config("molmo2_4b", ["data.row_text_tokens=4501"])
    assert row_budget(even.model, even.data).tokens % 2 == 0
    found = find_mesh(mesh_shapes(even, 16), memory_on)
    assert found == ({"data": 1, "fsdp": 8, "context": 2}, 1)
    assert not any("context" in shape for shape in mesh_shapes(odd, 16))


def test_a_search_in_vain_says_what_to_do():
    with pytest.raises(ConfigError, match=r"not even one row fits.*fsdp=16.*fewer frames"):
        find_mesh(
            mesh_shapes(load_config("molmo2_4b"), 16),
            lambda *_: Memory({"temporaries": 2}, 1, measured=True),
        )


@pytest.fixture
def pretended_compiler(monkeypatch):
    """Three rows fit on a part of the batch, with nothing compiled."""

    def pretend(setting, _):
        memory = Memory({"temporaries": 30 * setting.rows_per_device}, 100, measured=True)
        return dataclasses.replace(small_report("train"), setting=setting, memory=memory)

    monkeypatch.setattr(command, "get_topology", lambda _: Topology("cpu:8", jax.devices(), CPU))
    monkeypatch.setattr(command, "analyse_run", pretend)


@pytest.mark.usefixtures("pretended_compiler")
def test_the_command_writes_what_the_search_found(tmp_path, capsys):
    output = tmp_path / "new" / "fit.json"
    arguments = ["--config", "tiny", "--topology", "cpu:8", "--search", "--output", str(output)]
    assert command.main(arguments) == 0
    assert json.loads(output.read_text())["rows_per_device"] == 3
    printed = capsys.readouterr().out
    assert "3 rows per device: fits" in printed and "4 rows per device: does not fit" in printed


@pytest.mark.usefixtures("pretended_compiler")
def test_the_command_writes_to_a_bucket(bucket):
    output = bucket / "fits/fit.json"
    arguments = ["--config", "tiny", "--topology", "cpu:8", "--output", str(output)]
    assert command.main(arguments) == 0
    assert json.loads(output.read_text())["rows_per_device"] == 1


@pytest.mark.usefixtures("pretended_compiler")
def test_a_search_takes_rows_that_can_be_accumulated(capsys):
    arguments = ["--config", "tiny", "--topology", "cpu:8", "--search"]
    assert command.main([*arguments, "--set", "train.accumulate=2"]) == 0
    printed = capsys.readouterr().out
    assert "2 rows per device: fits" in printed and "4 rows per device: does not" in printed
    assert "3 rows" not in printed
    assert command.main([*arguments, "--set", "train.accumulate=4"]) == 2
    assert "not even 4 rows fit (train.accumulate)" in capsys.readouterr().err


@pytest.mark.usefixtures("pretended_compiler")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "train.accumulate=2"], r"data\.batch_rows is 8, .*make it a multiple of 16"),
        (["--mesh", "tensor=8"], r"train\.mesh\.tensor is 8, but model\.llm\.heads is 4"),
        (
            ["--mesh", "fsdp=4,context=2", "--set", "data.row_text_tokens=175"],
            r"train\.mesh\.context is 2, .*data\.row_text_tokens=176",
        ),
        (["--mesh", "fsdp=2,fsdp=4"], "--mesh is 'fsdp=2,fsdp=4', which names fsdp twice"),
        (["--prefill", "--videos", "2"], "--videos is 2, but --prefill is about a prompt with one"),
        (["--search", "--rows-per-device", "1"], "--rows-per-device is 1, but --search finds"),
        (["--output", "."], r"--output '\.' is a folder; name a file in it, as fit\.json"),
        (["--output", "/proc/no/fit.json"], r"folder '/proc/no' cannot be written"),
    ],
)
def test_what_no_run_could_do_is_one_sentence_before_compiling(options, message, capsys):
    assert command.main(["--config", "tiny", "--topology", "cpu:8", *options]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.usefixtures("pretended_compiler")
def test_the_exit_code_says_that_it_does_not_fit(capsys):
    arguments = ["--config", "tiny", "--topology", "cpu:8", "--rows-per-device", "4"]
    assert command.main(arguments) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


@pytest.mark.usefixtures("pretended_compiler")
def test_the_exit_code_tells_a_crash_from_what_does_not_fit(capsys, monkeypatch):
    def crash(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no tiles")

    monkeypatch.setattr(command, "analyse_run", crash)
    assert command.main(["--config", "tiny", "--topology", "cpu:8"]) == 3
    assert "JaxRuntimeError: INTERNAL: no tiles" in capsys.readouterr().err
