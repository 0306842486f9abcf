"""Runs over several ratios: their programs, their log, and that they resume exactly."""

import dataclasses
import json
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import (
    FakeBatches,
    batch_for,
    fresh_state,
    random_state,
    single_mesh,
    small_config,
    small_parts,
    train,
)

from stts_jax.config import ConfigError, replace
from stts_jax.data.pipeline import training_batches
from stts_jax.data.synthetic import ensure_synthetic
from stts_jax.data.text.tokenizer import TINY_FILE
from stts_jax.parallel.mesh import make_mesh
from stts_jax.train_ratios import RatioDraw, at_ratio, step_budget
from stts_jax.training import teacher as teacher_module
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import save_model
from stts_jax.training.log import read_metrics
from stts_jax.training.run_memory import memory_to_train
from stts_jax.training.step import abstract_state, make_train_step
from stts_jax.training.step_programs import StepProgram, StepPrograms
from stts_jax.training.stop import in_background

RATIOS = (0.0, 0.25, 0.5)
OVER_RATIOS = (f"model.prune.train_ratios={list(RATIOS)}", "train.steps=8")


class ToyStep:
    """A step that compiles nothing, of which each ratio leaves a trace in all that follows."""

    def __init__(self, config, *_):
        self.ratio = config.model.prune.topk

    def lower(self, *_):
        return self

    def compile(self):
        pass

    def __call__(self, state, batch, key):
        assert state.model.config.prune.topk == self.ratio
        first, *others = jax.tree.leaves(state.model)
        seen = np.asarray(batch.images).mean() + int(state.step)
        first = jax.device_put(np.asarray(first) * 0.9 + 0.01 * seen + self.ratio, first.sharding)
        model = jax.tree.unflatten(jax.tree.structure(state.model), [first, *others])
        names = ("z_loss", "auxiliary_loss", "accuracy", "total_loss", "tokens")
        metrics = dict.fromkeys((*names, "learning_rate/llm", "gradient_norm/llm"), 1.0)
        metrics |= {"loss": np.asarray(first).mean(), "kept": 1 - self.ratio}
        new = dataclasses.replace(state, model=model, step=state.step + 1)
        return new, jax.tree.map(jnp.float32, metrics)


def toy_parts(**changes):
    return small_parts(
        init_state=lambda config, mesh, key: random_state(config, mesh),
        make_step=ToyStep,
        **changes,
    )


def records(output, name):
    return {r["step"]: r[name] for r in read_metrics(output / "metrics.jsonl") if name in r}


def test_a_run_over_ratios_resumes_bit_for_bit_and_counts_its_programs(tmp_path, capsys):
    config = small_config(*OVER_RATIOS)
    draw = RatioDraw.of(config)
    whole = train(config, tmp_path / "whole", parts=toy_parts())
    drawn = {step + 1: draw.ratio_of(step) for step in range(8)}
    assert records(tmp_path / "whole", "ratio") == drawn
    kept = records(tmp_path / "whole", "kept")
    assert {step: 1 - share for step, share in kept.items()} == pytest.approx(drawn)
    assert whole.programs == len(set(drawn.values())) > 1
    output = capsys.readouterr().out
    assert f"training steps that were compiled: {whole.programs}" in output
    assert f"compiling the training step at {100 * draw.ratio_of(0):g} % (1 of 3)" in output
    state, most = abstract_state(config, single_mesh()), (at_ratio(config, 0), single_mesh())
    assert str(memory_to_train(state, *most, step_budget(config, 0))) in output

    train(small_config(*OVER_RATIOS, "train.steps=4"), tmp_path / "parts", parts=toy_parts())
    train(config, tmp_path / "parts", parts=toy_parts())
    assert records(tmp_path / "parts", "loss") == records(tmp_path / "whole", "loss")
    with pytest.raises(CheckpointError, match=r"another model, with model\.prune\.train_ratios="):
        train(small_config(), tmp_path / "parts", parts=toy_parts())


def test_data_that_begin_again_begin_at_the_step_of_the_run(tmp_path):
    began = []

    class Batches(FakeBatches):
        def __init__(self, config, *, first_step, **options):
            super().__init__(config, **options)
            began.append(first_step)

    for overrides in (["train.steps=4"], ["data.seed=5"]):
        config = small_config(*OVER_RATIOS, *overrides)
        train(config, tmp_path, parts=toy_parts(open_data=Batches))
    assert began == [0, 4]


def test_a_run_at_a_fixed_ratio_has_one_program(tmp_path, capsys):
    config = small_config("train.steps=1", "train.save_every=0")
    result = train(config, tmp_path, parts=small_parts(make_step=ToyStep))
    assert result.programs == 1 and "ratio" not in result.metrics
    assert "training steps that were compiled" not in capsys.readouterr().out


# ----------------------------------------------------------------- compiling in the background


class SlowStep:
    """A step that is compiled when it is let go on."""

    def __init__(self, ratio, order, go_on, fails=False):
        self.ratio, self.order, self.go_on, self.fails = ratio, order, go_on, fails

    def lower(self, *_):
        return self

    def compile(self):
        self.go_on.wait(10)
        self.order.append((self.ratio, threading.current_thread() is threading.main_thread()))
        if self.fails:
            raise RuntimeError("out of memory")


def slow_programs(ahead, go_on, failing=None):
    order = []
    draw = RatioDraw(RATIOS, (1.0,) * 3, 0)
    steps = [SlowStep(ratio, order, go_on, ratio == failing) for ratio in RATIOS]
    programs = [StepProgram(step, step.ratio) for step in steps]
    return StepPrograms(programs, draw, ahead=ahead), draw.by_first_use(0, 100), order


def arguments():
    return fresh_state(), batch_for(small_config(), 0), jax.random.key(0)


def at(programs, ratio):
    return next(programs.at(step) for step in range(100) if programs.at(step).ratio == ratio)


def test_later_programs_are_compiled_in_the_background_by_their_first_use():
    go_on, lines = threading.Event(), []
    programs, expected, order = slow_programs(ahead=True, go_on=go_on)
    go_on.set()
    programs.compile(at(programs, expected[0]), *arguments())
    go_on.clear()
    programs.compile_ahead(range(100), *arguments(), lines.append)
    assert not at(programs, expected[1]).ready and programs.compiling  # the run goes on meanwhile
    go_on.set()
    programs.compile(at(programs, expected[2]), *arguments())  # waits
    assert not programs.compiling
    assert order == [(expected[0], True), (expected[1], False), (expected[2], False)]
    assert programs.compiled == 3 and len(lines) == 2
    assert f"at {100 * expected[1]:g} % (2 of 3) in the background: " in lines[0]


def test_a_program_that_fails_in_the_background_fails_its_step():
    go_on = threading.Event()
    go_on.set()
    programs, expected, _ = slow_programs(True, go_on, failing=RATIOS[2])
    assert expected[0] != RATIOS[2]
    programs.compile(at(programs, expected[0]), *arguments())
    programs.compile_ahead(range(100), *arguments(), lambda _: None)
    with pytest.raises(RuntimeError, match="out of memory"):
        programs.compile(at(programs, RATIOS[2]), *arguments())


def test_a_line_that_nobody_reads_fails_the_next_steps_and_none_of_them_waits_for_ever():
    def broken(line):
        raise BrokenPipeError(line)

    go_on = threading.Event()
    go_on.set()
    programs, expected, _ = slow_programs(ahead=True, go_on=go_on)
    programs.compile(at(programs, expected[0]), *arguments())
    programs.compile_ahead(range(100), *arguments(), broken)
    for ratio in expected[1:]:
        compiling = in_background(partial(programs.compile, at(programs, ratio), *arguments()))
        assert isinstance(compiling.exception(timeout=10), BrokenPipeError)


def test_a_cpu_compiles_nothing_in_the_background():
    go_on = threading.Event()
    go_on.set()
    programs, expected, order = slow_programs(ahead=False, go_on=go_on)
    programs.compile(at(programs, expected[0]), *arguments())
    programs.compile_ahead(range(100), *arguments(), lambda _: None)
    assert order == [(expected[0], True)]


# -------------------------------------------------------------------------------- the real step


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["stream", "first_fit"])
def test_a_step_of_each_ratio_trains_the_same_state(layout, tmp_path):
    """Scorer and bias are trained at every ratio, also where nothing is dropped."""
    overrides = (*OVER_RATIOS, f"model.prune.layout={layout}", "train.distill.teacher=self")
    config = small_config(*overrides, "train.accumulate=2", "train.steps=6")
    seen = {}

    def on_step(step, metrics):
        seen[metrics["ratio"]] = metrics

    parts = small_parts(
        init_state=lambda *_: fresh_state(*overrides),
        make_step=make_train_step,
        open_data=FakeBatches,
    )
    result = train(config, tmp_path, parts=parts, on_step=on_step)
    assert result.programs == len(seen) > 1
    for ratio, metrics in seen.items():
        assert (metrics["kept"] == 1) == (ratio == 0)
        assert metrics["auxiliary_loss"] > 0 and metrics["gradient_norm/scorer"] > 0
        assert (metrics["distill/kl"] > 0) == (ratio > 0)


def test_the_data_of_a_run_go_on_with_the_rows_of_the_next_step(tmp_path):
    folder = ensure_synthetic(tmp_path, videos=8, progress=False)
    room = ("data.row_text_tokens=150", "data.row_frames=8", "data.batch_rows=2")
    size = ("model.llm.vocab_size=512", f"data.train={folder}/train.jsonl")
    config = small_config(*OVER_RATIOS, *room, *size)
    with training_batches(config, first_step=3) as batches:
        next(batches)
        state = batches.get_state()
        expected = next(batches)
        assert 0 < batches.fill_rates.as_dict()["tokens"] <= 1
    assert state["step"] == 4 and state["stream"] is not None
    with training_batches(config) as batches:
        batches.set_state(state)
        jax.tree.map(np.testing.assert_array_equal, next(batches), expected)
        assert batches.get_state()["step"] == 5


def test_a_model_cannot_learn_from_itself_where_nothing_is_dropped(tmp_path):
    config = small_config("model.prune.topk=0.0", "train.distill.teacher=self")
    with pytest.raises(ConfigError, match="no step drops a token"):
        train(config, tmp_path)


@pytest.mark.slow
def test_a_frozen_teacher_is_the_same_on_any_mesh_and_in_parts_of_a_batch(tmp_path):
    unpruned = small_config("model.prune.method=none", "model.prune.topk=0.0")
    teacher = tmp_path / "teacher"
    save_model(random_state(unpruned, key=1).model, unpruned, teacher)
    distil = ("model.prune.train_ratios=[0.25, 0.5]", f"train.distill.teacher={teacher}")
    first, second = ("train.steps=2", "train.save_every=2"), ("train.steps=3",)
    meshes = {"single": single_mesh(), "sharded": make_mesh({"fsdp": 2}, jax.devices()[:2])}
    found = {}
    for name, mesh in meshes.items():
        parts = small_parts(
            make_mesh=lambda _, mesh=mesh: mesh,
            make_step=make_train_step,
            init_state=random_state,
        )
        accumulate = f"train.accumulate={1 if name == 'single' else 2}"
        run = train(small_config(*distil, *first, accumulate), tmp_path / name, parts=parts)
        found[name] = run.metrics
    for key in ("distill/kl", "distill/weight", "distill/share", "total_loss", "loss"):
        assert found["single"][key] == pytest.approx(found["sharded"][key], rel=2e-3), key
    assert 0 < found["single"]["distill/share"] <= 0.1001
    # On the mesh of the other run, the run goes on with the ratio that is next.
    config = small_config(*distil, *second)
    moved = small_parts(make_step=make_train_step, init_state=random_state)
    result = train(config, tmp_path / "sharded", parts=moved)
    assert result.step == 3
    assert result.metrics["ratio"] == RatioDraw.of(config).ratio_of(2)


def test_a_teacher_of_other_rows_is_refused(tmp_path, monkeypatch):
    other = small_config("model.llm.vocab_size=80")
    monkeypatch.setattr(teacher_module, "config_of", lambda _: other)
    with pytest.raises(ConfigError, match="vocab_size is 80, but that of the run is 64; choose"):
        train(small_config("train.distill.teacher=runs/other"), tmp_path / "run")


def test_a_teacher_of_other_tokens_is_refused(tmp_path, monkeypatch):
    config, table = small_config("model.llm.vocab_size=512"), json.loads(TINY_FILE.read_text())
    config = replace(config, {"train.distill.teacher": "runs/other"})
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    same.write_text(json.dumps(table))
    vocabulary = table["model"]["vocab"]
    vocabulary["t"], vocabulary["s"] = vocabulary["s"], vocabulary["t"]
    other.write_text(json.dumps(table))
    monkeypatch.setattr(teacher_module, "config_of", lambda _: config)
    monkeypatch.setattr(teacher_module, "tokenizer_of", lambda _: same)
    teacher_module.require_teacher(config)
    monkeypatch.setattr(teacher_module, "tokenizer_of", lambda _: other)
    with pytest.raises(ConfigError, match=r"other ids than 'tiny', the data\.tokenizer of the run"):
        teacher_module.require_teacher(config)


def test_a_teacher_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="gone"):
        train(small_config(f"train.distill.teacher={tmp_path / 'gone'}"), tmp_path / "run")
