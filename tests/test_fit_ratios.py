"""Fit of a run over ratios: its largest program decides, and means over steps are what it costs."""

from __future__ import annotations

import dataclasses
from functools import cache

import jax
import pytest
from training_cases import small_config

from stts_jax.config import replace
from stts_jax.fit.compiler import Outcome
from stts_jax.fit.hardware import GIB, Chip
from stts_jax.fit.memory import Memory
from stts_jax.fit.programs import LoweredProgram
from stts_jax.fit.ratios import PLANNED_PROGRAM, analyse_run, at_one_ratio
from stts_jax.fit.report import as_dict
from stts_jax.fit.report_text import as_text
from stts_jax.fit.setting import make_setting
from stts_jax.fit.topologies import Topology
from stts_jax.train_ratios import at_ratio, step_budget

CHIP = Chip("cpu", "cpu", flops=1e12, memory=4 * GIB, memory_rate=1e11, link_rate=1e10)
PROGRAM, OVER = 1000, ("model.prune.train_ratios=[0.5, 0.0]", "model.prune.topk=0.5")
OVER += ("model.prune.train_ratio_weights=[3, 1]", "model.vit.layers=3")


@pytest.fixture(autouse=True)
def nothing_is_traced(monkeypatch):
    program = LoweredProgram(None, {"parameters": 40, "optimizer": 80, "batch": 2})
    monkeypatch.setattr("stts_jax.fit.report.lower", lambda setting: program)


@cache
def setting_over(*more):
    config = small_config(*OVER, "model.vit.feature_layers=[-1]", *more)
    return make_setting(config, Topology("cpu:1", jax.devices()[:1], CHIP), shape={"data": 1})


def outcome_of(setting, program, *, planned=False):
    """What a compiler could say: a MiB for each token, and a program."""
    made = {"temporaries": setting.budget.tokens << 20} | ({} if planned else {"program": PROGRAM})
    memory = Memory(program.argument_bytes | made, setting.topology.chip.memory, measured=True)
    return Outcome(memory, None, planned=planned)


@cache
def report_over_ratios():
    return analyse_run(setting_over(), outcome_of)


def test_a_run_takes_what_its_largest_program_does_and_the_code_of_all():
    report = report_over_ratios()
    small, large = (report.by_ratio[ratio].memory for ratio in (0.5, 0.0))
    assert small.by_kind["temporaries"] < large.by_kind["temporaries"]
    assert report.memory.by_kind == large.by_kind | {"program": 2 * PROGRAM}
    assert report.estimate == report.by_ratio[0.0].estimate
    assert report.estimate.total > report.by_ratio[0.5].estimate.total


def test_the_code_of_programs_that_were_only_planned_is_counted_too():
    planned = analyse_run(setting_over(), lambda *asked: outcome_of(*asked, planned=True))
    assert planned.planned and planned.memory.by_kind["program"] == 2 * PLANNED_PROGRAM


def test_a_ratio_whose_program_is_refused_is_one_too_much():
    def refuse_whole_rows(setting, program):
        outcome = outcome_of(setting, program)
        if setting.config.model.prune.topk:
            return outcome
        # What a refusal names may be less than what another program takes.
        memory = Memory(program.argument_bytes | {"temporaries": 1}, CHIP.memory, measured=False)
        return dataclasses.replace(outcome, memory=memory, refusal="too large")

    report = analyse_run(setting_over(), refuse_whole_rows)
    assert not report.memory.fits and report.refusal == "too large"


def test_flops_and_time_are_means_over_the_draw():
    report = report_over_ratios()
    often, seldom = report.by_ratio[0.5], report.by_ratio[0.0]
    for part in ("model", "recompute"):
        mean = (3 * getattr(often.flops, part) + getattr(seldom.flops, part)) / 4
        assert getattr(report.flops, part) == pytest.approx(mean)
    assert report.time.compute == pytest.approx((3 * often.time.compute + seldom.time.compute) / 4)
    times = report.flops.model / often.flops.model
    assert times > 1.02 and f"{times:.2f} times the FLOPs of one at 50%" in as_text(report)
    assert [own["ratio"] for own in as_dict(report)["by_ratio"]] == [0.5, 0.0]


def test_the_program_of_a_ratio_is_the_one_that_a_run_over_several_has():
    setting = setting_over()
    for ratio in (0.0, 0.5):
        alone = at_one_ratio(setting, ratio)
        assert alone.budget == step_budget(setting.config, ratio)
        assert alone.config.model.prune.biases_keys
        several = {
            "model.prune.train_ratios": (0.5, 0.0),
            "model.prune.train_ratio_weights": (3, 1),
        }
        assert replace(alone.config, several) == at_ratio(setting.config, ratio)


def test_the_devices_of_a_row_share_its_tokens_at_each_ratio():
    config = small_config(*OVER, "data.row_text_tokens=41")
    two = Topology("cpu:2", jax.devices()[:2], CHIP)
    setting = make_setting(config, two, shape={"context": 2})
    assert [at_one_ratio(setting, ratio).budget.tokens % 2 for ratio in (0.0, 0.5)] == [0, 0]


def test_a_run_at_a_fixed_ratio_is_one_program():
    fixed = setting_over("model.prune.train_ratios=[]", "model.prune.train_ratio_weights=[]")
    assert analyse_run(fixed, outcome_of).by_ratio == {}
