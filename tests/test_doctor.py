"""The doctor checks every kernel of a device, and what breaks costs its own check alone."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from functools import cache

import jax.numpy as jnp
import pytest

from stts_jax.attention import dispatch
from stts_jax.doctor import __main__ as command
from stts_jax.doctor import supervisor, worker
from stts_jax.doctor.attention_cases import attention_cases
from stts_jax.doctor.checks import all_checks
from stts_jax.doctor.drawn import drawn_patches, packed_tokens
from stts_jax.doctor.kernels import LIMITS, compare
from stts_jax.doctor.machine import machine
from stts_jax.doctor.reference import distance
from stts_jax.doctor.report import as_dict, as_text, failures
from stts_jax.doctor.results import Check, Outcome, without_folders
from stts_jax.doctor.sizes import quick_sizes
from stts_jax.doctor.supervisor import Found, supervise

FLOAT32 = jnp.dtype("float32")
KINDS = {"backend", "kernel", "rate", "block"}


def small_sizes():
    """Even smaller than `--quick`: frames of 36 patches, whose streams compile quickly on a CPU."""
    sizes = quick_sizes()
    vit = dataclasses.replace(sizes.model.vit, image_size=84, positions=36)
    return dataclasses.replace(sizes, model=dataclasses.replace(sizes.model, vit=vit))


@cache
def events():
    """What the process that computes says of all checks."""
    said = [{"event": "devices", "devices": [], "sizes": small_sizes().as_dict()}]
    worker.run_checks(all_checks(small_sizes()), said.append, seconds=600)
    return said


def results():
    return [event["result"] for event in events() if event["event"] == "result"]


def case_named(name):
    return next(c for c in attention_cases(small_sizes(), FLOAT32) if name in c.name)


def test_every_check_of_this_machine_is_well():
    assert [(r["name"], r["error"]) for r in results() if r["status"] != "ok"] == []
    assert {result["kind"] for result in results()} == KINDS
    names = [result["name"] for result in results()]
    assert len(names) == len(set(names))


def test_every_case_says_which_backend_it_takes_and_why_no_other():
    found = {r["case"]: r for r in results() if r["kind"] == "backend"}
    assert len(found) == 7
    stream = found["ViT, a stream with 50% dropped"]
    assert stream["taken"] == "dense" and stream["could_too"] == ["neighbours"]
    assert "it needs a TPU" in stream["refused"]["stream_tpu"]
    assert found["LLM, a step of decoding"]["taken"] == "xla"


def test_errors_are_within_their_limits_and_reported(report_error):
    for result in results():
        if result["kind"] == "kernel":
            for name, error in result["errors"].items():
                limits = LIMITS["float32"]
                limit = limits.forward if name.startswith("o") else limits.backward
                report_error(f"doctor: {name[0]}", error["row"], limit)
                assert error["row"] <= limit


def test_a_block_of_fewer_tokens_has_fewer_flops_in_the_ideal():
    (vit,) = (r for r in results() if r["name"] == "block of the ViT, forward")
    ideals = {name: own["ideal"] for name, own in vit["programs"].items()}
    assert ideals["all frames"] == ideals["stream, 0% dropped"] == 1.0
    assert 1.9 < ideals["stream, 50% dropped"] < 4


def report_of(found):
    return as_dict(found, machine(), 1.0, quick=True)


def found_of(results):
    found = Found(planned=[{"name": r["name"], "kind": r["kind"]} for r in results])
    found.results = {result["name"]: result for result in results}
    return found


def test_the_report_is_plain_data_and_a_table():
    report = json.loads(json.dumps(report_of(found_of(results())), allow_nan=False))
    assert report["format"] == 1 and report["summary"] == {"ok": len(results())}
    assert report["machine"]["packages"]["jax"] and report["machine"]["cores"] > 0
    assert failures(report) == []
    text = as_text(report)
    for words in ("xla: LLM, causal with packing", "products in bfloat16", "share of ideal"):
        assert words in text


# -------------------------------------------------------------------------------- what is broken


def broken(monkeypatch, run):
    """Puts a backend that computes by `run` before all others."""
    backend = dispatch.Backend("broken", None, lambda request: None, run)
    monkeypatch.setattr(dispatch, "BACKENDS", (backend, *dispatch.BACKENDS))
    return backend


def test_a_kernel_that_misses_one_key_differs(monkeypatch):
    def misses_a_key(request):
        hidden = jnp.arange(request.key.shape[1]) == 40
        seen = dataclasses.replace(request, key_bias=jnp.where(hidden, -1e9, 0.0)[None])
        return dispatch.BACKENDS[-1].run(seen)

    case = case_named("LLM, causal with packing")
    outcome = compare(case, broken(monkeypatch, misses_a_key), small_sizes())
    assert "o is off by" in outcome.difference and "dk is off by" in outcome.difference


def test_a_kernel_that_is_not_finite_differs_and_the_report_stays_json(monkeypatch):
    case = case_named("LLM, a step of decoding")
    backend = broken(monkeypatch, lambda request: request.query * jnp.nan)
    check = Check("broken", "kernel", lambda: compare(case, backend, small_sizes()))
    result = worker.run_check(check).as_dict()
    assert result["status"] == "wrong" and result["errors"]["o alone"]["row"] is None
    assert json.dumps(result, allow_nan=False)
    assert "not finite" in as_text(report_of(found_of([result])))


def test_a_kernel_that_raises_is_one_line_and_the_rest_goes_on():
    def fail():
        raise RuntimeError("Mosaic refuses\nand says more")

    checks = [Check("a", "kernel", fail), Check("b", "rate", lambda: Outcome({}))]
    said = []
    worker.run_checks(checks, said.append, seconds=60)
    ends = [event["result"] for event in said if event["event"] == "result"]
    assert [(r["status"], r["error"]) for r in ends] == [
        ("failed", "RuntimeError: Mosaic refuses"),
        ("ok", ""),
    ]
    report = report_of(found_of(ends))
    assert failures(report) == ["FAILED a: RuntimeError: Mosaic refuses"]


def test_what_cannot_be_imported_is_a_check_that_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "stts_jax.doctor.attention_cases", None)
    checks = all_checks(small_sizes())
    assert checks[0].name == "attention"
    assert "stts_jax.doctor.attention_cases" in worker.run_check(checks[0]).error
    assert {check.kind for check in checks[1:-1]} == {"rate", "block"}
    assert checks[-1].name == "other attention"


def test_checks_for_which_no_time_is_left_are_reported():
    said = []
    worker.run_checks([Check("late", "rate", lambda: Outcome({}))], said.append, seconds=0)
    assert said[0]["result"]["status"] == "not run"
    report = report_of(found_of([said[0]["result"]]))
    assert "not run (1): late" in as_text(report) and failures(report) == []


def test_a_distance_is_of_the_worst_row_and_infinite_where_it_is_not_finite():
    exact = jnp.ones((100, 4))
    assert distance(exact.at[3].add(0.1), exact).row == pytest.approx(0.1, rel=1e-4)
    assert distance(exact.at[3, 1].set(jnp.nan), exact).row == float("inf")


# ---------------------------------------------------------------------------------- its processes

# Speaks as `worker` does, of three checks.
WORKER = """
import argparse, json, os, signal, sys, time
parser = argparse.ArgumentParser()
for name in ("--events", "--seconds", "--finished"):
    parser.add_argument(name)
parser.add_argument("--quick", action="store_true")
options = parser.parse_args()
events = os.fdopen(int(options.events), "w")
def say(**event):
    print(json.dumps(event), file=events, flush=True)
say(event="devices", devices=[], sizes={})
names = ["first", "second", "third"]
say(event="plan", checks=[{"name": name, "kind": "kernel"} for name in names])
for name in names:
    if name in json.loads(options.finished):
        continue
    say(event="begin", name=name, kind="kernel")
    if name == "second":
        SECOND
    result = {"name": name, "kind": "kernel", "status": "ok", "error": "", "seconds": 0.0}
    say(event="result", result=result)
"""


def supervised(second, seconds=60.0):
    said = []
    script = [sys.executable, "-c", WORKER.replace("SECOND", second)]
    found = supervise(seconds, True, lambda _, event: said.append(event), script)
    return {name: (r["status"], r["error"]) for name, r in found.results.items()}


def test_a_crash_costs_its_own_check_alone():
    found = supervised("os.kill(os.getpid(), signal.SIGSEGV)")
    status, error = found.pop("second")
    assert status == "failed" and "signal 11 (SIGSEGV)" in error
    assert found == {"first": ("ok", ""), "third": ("ok", "")}


def test_a_process_that_exits_says_what_it_said_last():
    found = supervised("sys.exit('Check failed: an error of XLA')")
    assert "exit code 1; it said last: Check failed: an error of XLA" in found["second"][1]
    assert found["third"][0] == "ok"


def test_a_check_that_hangs_is_stopped(monkeypatch):
    monkeypatch.setattr(supervisor, "MOST_SECONDS_OF_A_CHECK", 1.5)
    found = supervised("time.sleep(60)", seconds=4.5)
    assert found["second"] == ("failed", "it was stopped: it said nothing for 2 s")
    assert found["third"][0] == "ok"


def test_when_the_time_is_up_the_rest_is_not_run(monkeypatch):
    monkeypatch.setattr(supervisor, "SPARE_SECONDS", 0.5)
    found = supervised("time.sleep(60)", seconds=1.0)
    assert found["second"] == ("not run", "it was stopped when the time was up")
    assert found["third"] == ("not run", "the time was up")


def test_a_process_that_cannot_start_is_a_failed_check():
    found = supervise(60.0, True, lambda *_: None, [sys.executable, "-c", "import absent_jax"])
    (result,) = found.results.values()
    assert result["status"] == "failed" and "No module named 'absent_jax'" in result["error"]


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("wrong", 1), ("failed", 1)])
def test_the_exit_code_says_whether_all_is_well(status, code, monkeypatch, tmp_path, capsys):
    result = {"name": "a", "kind": "rate", "status": status, "error": "x", "seconds": 0.0}
    monkeypatch.setattr(command, "supervise", lambda *_: found_of([result]))
    output = tmp_path / "new" / "doctor.json"
    assert command.main(["--output", str(output)]) == code
    assert json.loads(output.read_text())["summary"] == {status: 1}
    assert ("a: x" in capsys.readouterr().out) == bool(code)


def test_a_file_that_cannot_be_written_is_one_sentence_before_anything_runs(capsys, tmp_path):
    assert command.main(["--output", str(tmp_path)]) == 2
    assert f"--output '{tmp_path}' can't be written" in capsys.readouterr().err


def test_the_doctor_writes_its_report_to_a_bucket(bucket):
    file = command.parse(["--output", f"{bucket}/doctor.json"]).output
    assert command.unwritable(file) == "" and not file.exists()
    command.write(file, {"summary": {}})
    assert file.read_text() == '{\n "summary": {}\n}\n'
    other = command.parse(["--output", "gs://no-such-bucket/doctor.json"]).output
    assert command.unwritable(other) == (
        "--output 'gs://no-such-bucket/doctor.json' can't be written (No such file or directory); "
        "name another file"
    )


def test_it_needs_neither_videos_nor_pictures_nor_torch():
    program = (
        "import sys\n"
        "for name in ('av', 'PIL', 'torch', 'matplotlib', 'pyarrow', 'grain'):\n"
        "    sys.modules[name] = None\n"
        "import stts_jax.doctor.blocks, stts_jax.doctor.rates, stts_jax.doctor.kernels\n"
        "import stts_jax.doctor.__main__, stts_jax.doctor.worker\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -------------------------------------------------------------------------------- what is drawn


def test_frames_keep_unequally_many_patches_the_first_all_the_second_none():
    keep = drawn_patches(2, 8, 9, 3, 0.5)
    counts = keep.sum(-1)
    assert keep.sum() == 2 * 9 * round(0.5 * 8 * 9)
    assert (counts[:, 0] == 81).all() and (counts[:, 1] == 0).all()
    assert len(set(counts.ravel().tolist())) > 3


def test_packed_tokens_have_two_examples_two_answers_and_padding():
    table = packed_tokens(128, 40, 4)
    assert not bool(table.valid.all()) and bool(table.valid[0].all())
    assert len(set(table.subsegment[0].tolist())) == 6
    assert table.visual.sum(1).tolist() == [40, 40]


@pytest.mark.parametrize(
    ("said", "reported"),
    [
        ("no 'x' from 'a.b' (/home/ann/stts/a/b.py)", "no 'x' from 'a.b' (b.py)"),
        ("--xla_dump_to=/home/ann/dump --other=1", "--xla_dump_to=dump --other=1"),
        ("16 TFLOP/s, and/or https://a.b/c", "16 TFLOP/s, and/or https://a.b/c"),
    ],
)
def test_a_report_names_no_folders(said, reported):
    assert without_folders(said) == reported
