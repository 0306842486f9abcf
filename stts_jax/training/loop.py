"""The training loop: batches in, checkpoints, metrics and pictures out."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.config import Config
from stts_jax.data.pipeline import TrainingBatches, training_batches
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import make_mesh, require_even_rows, shard_batch
from stts_jax.training.checkpoint import (
    CHECKPOINTS,
    CheckpointError,
    checkpoint_steps,
    config_of,
    differing_keys,
    initialize_from,
    require_writable,
)
from stts_jax.training.log import Clock, Console, MetricsLog, Window
from stts_jax.training.plots import plot_training
from stts_jax.training.run_checkpoints import Checkpoints, Progress, restore_latest
from stts_jax.training.step import TrainState, abstract_state, init_state, make_train_step
from stts_jax.training.stop import StopRequest

Evaluate = Callable[[VideoLanguageModel, int], Mapping[str, float]]
OnStep = Callable[[int, Mapping[str, float]], None]

# Settings that may differ from those of the run that is resumed.
_FREE_MODEL_KEYS = ("model.compute_dtype", "model.remat")
_FREE_DATA_KEYS = ("data.validation", "data.test", "data.cache_frames", "data.max_bad_share")


class TrainingError(RuntimeError):
    """Training that can't go on; the message names the step."""


def train(
    config: Config,
    output: Path,
    *,
    init_from: Path | None = None,
    resume: bool = True,
    evaluate: Evaluate | None = None,
    data_dir: Path | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train to the end, or until SIGTERM, and leave everything in a folder.

    Args:
      config: of the run.
      output: folder for `config.json`, `metrics.jsonl`, `loss.png` and `checkpoints`.
      init_from: folder of a run or checkpoint whose parameters to start from.
      resume: go on from the newest checkpoint in `output`, if any; otherwise they are deleted.
      evaluate: `(model, step) -> scores`, called every `train.evaluate_every` steps and at the
        end; `accuracy` among them is drawn.
      data_dir: where the procedural set is or is to be made.
      on_step: called with step and metrics after each step, one step late.

    Returns:
      `step`, `stopped` (by SIGTERM), `steps_per_s` (without the first steps, evaluating and
      saving; None for short runs), `seconds`, `metrics` of the last step, `evaluation` (the last
      one, empty if none).

    Raises:
      ConfigError: for settings that don't go together.
      CheckpointError: see `checkpoint`.
      TrainingError: when the loss or a gradient is not finite.
    """
    output, mesh = Path(output), make_mesh()
    require_even_rows(config.data.batch_rows, mesh)
    require_writable(output)
    with ExitStack() as stack:
        folder = {} if data_dir is None else {"folder": Path(data_dir)}
        batches = stack.enter_context(
            training_batches(
                config,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                **folder,
            )
        )
        state, progress = _start(config, output, mesh, batches, init_from, resume)
        config.save(output)
        loop = _Loop(config, output, mesh, batches, state, progress, evaluate, on_step, stack)
        return loop.run()


class _Loop:
    """One run in one process; see `train`."""

    def __init__(
        self,
        config: Config,
        output: Path,
        mesh: Mesh,
        batches: TrainingBatches,
        state: TrainState,
        progress: Progress,
        evaluate: Evaluate | None,
        on_step: OnStep | None,
        stack: ExitStack,
    ) -> None:
        self.config, self.output, self.mesh = config.train, output, mesh
        self.batches, self.state, self.step = batches, state, progress.step
        self.evaluate, self.on_step = evaluate, on_step
        self.train_step = make_train_step(config, batches.budget, mesh)
        self.key = jax.random.key(config.train.seed)
        self.first = jax.process_index() == 0
        self.clock = Clock(progress.seconds)
        self.window = Window()
        self.console = Console(self.step, self.config.steps, enabled=self.first)
        stack.callback(self.console.close)
        self.log = MetricsLog(output, self.step)
        stack.callback(self.log.close)
        self.checkpoints = stack.enter_context(Checkpoints(output, self.config.keep_checkpoints))
        self.stop = stack.enter_context(StopRequest())
        # Dispatched but not looked at: (step, metrics on the devices, seconds waited for data).
        self.pending: tuple[int, dict[str, jax.Array], float] | None = None
        self.saved_step = self.evaluated_step = self.step
        self.metrics: dict[str, float] = {}
        self.evaluation: dict[str, float] = {}
        self.reported_at = self.clock.seconds

    def run(self) -> dict[str, Any]:
        """All steps that are left."""
        while self.step < self.config.steps and not self.stop.requested:
            self._dispatch()
            if self._due(self.config.save_every):
                self._save()
            if self._due(self.config.evaluate_every) and not self.stop.requested:
                self._evaluate()
        self._report()
        if self.saved_step != self.step:
            self._save()
        self.checkpoints.wait()
        if self.stop.requested:
            self.console.line(f"stopped at step {self.step} by SIGTERM; the checkpoint is saved")
        elif self.evaluated_step != self.step and self.config.evaluate_every:
            self._evaluate()
        self._plot()
        return {
            "step": self.step,
            "stopped": self.stop.requested,
            "steps_per_s": self.clock.steps_per_second,
            "seconds": self.clock.seconds,
            "metrics": self.metrics,
            "evaluation": self.evaluation,
        }

    def _dispatch(self) -> None:
        """Start the next step, then look at the one before: the devices never wait for us."""
        start = time.perf_counter()
        batch = next(self.batches)
        waited = time.perf_counter() - start
        self.state, metrics = self.train_step(self.state, shard_batch(batch, self.mesh), self.key)
        self.step += 1
        self._report()
        self.pending = (self.step, metrics, waited)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _report(self) -> None:
        """Fetch and write the metrics of the step that was dispatched last, if any."""
        if self.pending is None:
            return
        step, on_devices, waited = self.pending
        self.pending = None
        metrics = {name: value.item() for name, value in jax.device_get(on_devices).items()}
        _require_finite(step, metrics)
        self.metrics = {**metrics, "data_wait": waited}
        self.clock.step_done()
        before, self.reported_at = self.reported_at, self.clock.seconds
        self.window.add(self.metrics, before, self.reported_at)
        if self.first:
            self.log.write({"step": step, **self.metrics, "seconds": self.reported_at})
        self.console.advance(metrics["loss"])
        every = self.config.log_every
        if every and step % every == 0:
            line = self.window.line(step, self.config.steps, self.clock.steps_per_second)
            self.console.line(line)
        if self.on_step is not None:
            self.on_step(step, self.metrics)

    def _save(self) -> None:
        self._report()  # so that nothing that isn't finite is saved
        with self.clock.paused():
            data = self.batches.get_state()
            self.checkpoints.save(self.state, self.step, self.clock.seconds, data)
        self.saved_step = self.step

    def _evaluate(self) -> None:
        self._report()
        if self.evaluate is None:
            return
        with self.clock.paused():
            self.evaluation = dict(self.evaluate(self.state.model, self.step))
            self.evaluated_step = self.step
            if self.first:
                self.log.write({"step": self.step, "evaluation": self.evaluation})
            scores = " | ".join(f"{name} {value:.3f}" for name, value in self.evaluation.items())
            self.console.line(f"step {self.step}/{self.config.steps} evaluated | {scores}")
            self._plot()

    def _plot(self) -> None:
        if self.first:
            plot_training(self.output)


def _require_finite(step: int, metrics: Mapping[str, float]) -> None:
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise TrainingError(
            f"training stopped at step {step}: {', '.join(bad)}; lower the learning rates or look "
            "at that batch, the last checkpoint is from before"
        )


def _start(
    config: Config,
    output: Path,
    mesh: Mesh,
    batches: TrainingBatches,
    init_from: Path | None,
    resume: bool,
) -> tuple[TrainState, Progress]:
    """The state to go on from: a checkpoint of this run, of another one, or a fresh one."""
    if checkpoint_steps(output) and resume:
        return _resume(config, output, mesh, batches, init_from)
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    state = init_state(config, mesh, jax.random.key(config.train.seed))
    if init_from is not None:
        state = dataclasses.replace(state, model=initialize_from(state.model, init_from, _notice))
        _notice(f"starting from the parameters in '{init_from}'")
    return state, Progress(step=0, seconds=0.0, data=[])


def _resume(
    config: Config,
    output: Path,
    mesh: Mesh,
    batches: TrainingBatches,
    init_from: Path | None,
) -> tuple[TrainState, Progress]:
    saved = config_of(output)
    other_model = _differing(config.model, saved.model, "model", _FREE_MODEL_KEYS)
    if other_model:
        raise CheckpointError(
            f"'{output}' holds a run of another model, with {', '.join(other_model)}; set them "
            "alike, choose another --output, or replace that run with --no-resume"
        )
    restored = restore_latest(output, abstract_state(config, mesh))
    assert restored is not None
    state, progress = restored
    _notice(f"resuming '{output}' at step {progress.step}")
    if init_from is not None:
        _notice(f"'{init_from}' isn't read, as the run has already started from it")
    other_data = _differing(config.data, saved.data, "data", _FREE_DATA_KEYS)
    if other_data or len(progress.data) != jax.process_count():
        reason = ", ".join(other_data) or "another number of processes"
        _notice(f"the data start anew, as the settings changed: {reason}")
    else:
        batches.set_state(progress.data[jax.process_index()])
    return state, progress


def _differing(ours: Any, theirs: Any, path: str, free: tuple[str, ...]) -> list[str]:
    found = differing_keys(ours, theirs, path)
    return [text for text in found if not text.startswith(tuple(f"{key}=" for key in free))]


def _notice(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
