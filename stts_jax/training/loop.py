"""The training loop: batches in, checkpoints, metrics and pictures out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from stts_jax.config import Config
from stts_jax.host_memory import give_back_much
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.output_lock import OutputLock
from stts_jax.parallel.mesh import shard_batch
from stts_jax.progress import doing
from stts_jax.seeds import key_of_seed
from stts_jax.training.checkpoint import CHECKPOINTS, CheckpointError, checkpoint_steps
from stts_jax.training.clock import Clock
from stts_jax.training.data_parts import DataParts
from stts_jax.training.distributed import Agreement
from stts_jax.training.dump import fingerprint, write_dump
from stts_jax.training.finite import not_finite
from stts_jax.training.library_log import library_log
from stts_jax.training.profile import Profile
from stts_jax.training.reporting import Reporter
from stts_jax.training.run_checkpoints import Checkpoints, Progress
from stts_jax.training.run_mesh import run_mesh
from stts_jax.training.start import hold_run, start
from stts_jax.training.step import TrainState, make_train_step
from stts_jax.training.stop import Stopped, StopRequest
from stts_jax.training.utilization import Throughput

Evaluate = Callable[[VideoLanguageModel, int], Mapping[str, float]]
OnStep = Callable[[int, Mapping[str, float]], None]
# Scores that the best checkpoint is chosen by: the first of them that an evaluation gives.
BEST_BY = ("accuracy", "ROUGE-L")


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
    """Train to the end, or until SIGTERM or SIGINT, and leave everything in a folder.

    Every process of a run calls this; they stop at the same step, whichever gets the signal.

    Args:
      config: of the run.
      output: folder for `config.json`, `metrics.jsonl`, `loss.png` and `checkpoints`.
      init_from: folder of a run or checkpoint whose parameters to start from.
      resume: go on from the newest checkpoint in `output`, if any; otherwise they are deleted.
      evaluate: `(model, step) -> scores`, called every `train.evaluate_every` steps and at the
        end; `accuracy` among them is drawn, and the best by the first of `BEST_BY` is kept. It
        runs beside the main thread, and is left when a signal comes.
      data_dir: where the procedural set is or is to be made.
      on_step: called with step and metrics after each step, one step late.

    Returns:
      `step`, `bad_examples` (left out since this start), `stopped` (by a signal), `stopped_by` (its
      name), `left_running` (something that was waited for still runs, so the program should end
      without waiting for it), `steps_per_s` (without the first steps, evaluating and saving; None
      for short runs), `seconds`, `buckets` (see `Clock`), `metrics` of the last step, `evaluation`
      (the last one, empty if none).

    Raises:
      ConfigError: for settings that don't go together.
      CheckpointError: see `checkpoint`.
      TrainingError: when the loss or a gradient is not finite, or a parameter before it is saved.
    """
    output, mesh = Path(output), run_mesh(config)
    with ExitStack() as stack:
        lock = stack.enter_context(hold_run(output))
        stack.enter_context(library_log(output, jax.process_index()))
        state, progress, batches = start(
            config, output, mesh, stack, init_from=init_from, resume=resume, data_dir=data_dir
        )
        loop = _Loop(config, output, mesh, batches, state, progress, evaluate, on_step, stack)
        loop.init_from, loop.lock = init_from and init_from.resolve(), lock
        return loop.run()


@dataclass(frozen=True)
class _Pending:
    """A step that was started and not looked at: its metrics are still on the devices."""

    step: int
    metrics: dict[str, jax.Array]
    waited: float
    batch: dict[str, np.ndarray]


class _Loop:
    """One run in one process; see `train`."""

    init_from: Path | None = None
    lock: OutputLock | None = None

    def __init__(
        self,
        config: Config,
        output: Path,
        mesh: Mesh,
        batches: DataParts,
        state: TrainState,
        progress: Progress,
        evaluate: Evaluate | None,
        on_step: OnStep | None,
        stack: ExitStack,
    ) -> None:
        self.whole_config, self.config, self.output, self.mesh = config, config.train, output, mesh
        self.batches, self.state, self.step = batches, state, progress.step
        self.evaluate, self.on_step = evaluate, on_step
        self.train_step = make_train_step(config, batches.budget, mesh)
        self.compiled = not hasattr(self.train_step, "lower")
        self.key = key_of_seed(config.train.seed)
        self.clock = Clock(progress.seconds)
        throughput = Throughput.of(config, batches.budget, list(mesh.devices.flat))
        self.reporter = Reporter(config, output, self.step, self.clock, throughput, stack)
        self.profile = Profile(output, self.config.profile)
        stack.callback(self.profile.close)
        self.checkpoints = stack.enter_context(
            Checkpoints(output, self.config.keep_checkpoints, config.data, config.train)
        )
        self.agreement = Agreement()
        self.stop = stack.enter_context(StopRequest(self.agreement))
        self.pending: _Pending | None = None
        self.reported: _Pending | None = None
        self.saved_step = self.step
        self.evaluated_step = self.reporter.last_evaluated()
        self.stopped = self.left_running = False
        self.metrics: dict[str, float] = {}
        self.evaluation: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """All steps that are left."""
        if self.step and self._due(self.config.evaluate_every):
            self._evaluate()  # the run was stopped in the middle of it
        while self.step < self.config.steps:
            if not self._dispatch():
                self.stopped = True
                break
            if self._due(self.config.save_every):
                self._save()
            if self._due(self.config.evaluate_every):
                self._evaluate()
        self._report()
        if self.saved_step != self.step:
            self._save()
        with self.clock.spending("save"):
            self.checkpoints.wait()
        if not self.stopped and self.config.evaluate_every:
            self._evaluate()
            self.stopped = self.left_running
        if self.stopped:
            what = "the checkpoint is saved" if self.step else "there is nothing to save yet"
            self.reporter.line(f"stopped at step {self.step} by {self.stop.reason}; {what}")
        bad = self.batches.bad_examples
        if bad:
            self.reporter.line(f"bad examples that were left out: {bad}; warnings above name them")
        self.reporter.time(self.step)
        self.reporter.plot()
        return {
            "step": self.step,
            "bad_examples": bad,
            "stopped": self.stopped,
            "stopped_by": self.stop.reason if self.stopped else None,
            "left_running": self.left_running,
            "steps_per_s": self.clock.steps_per_second,
            "seconds": self.clock.seconds,
            "buckets": self.clock.buckets,
            "metrics": self.metrics,
            "evaluation": self.evaluation,
        }

    def _dispatch(self) -> bool:
        """Start the next step, then look at the one before: the devices never wait for us.

        Returns:
          False if the processes agree to stop instead.
        """
        batch = states = None
        before = self.clock.buckets["data"]
        try:
            with self.clock.spending("data"):
                batch, states = self.stop.unless_stopped(lambda: next(self.batches))
            placed = shard_batch(batch, self.mesh)
            self._compile(placed)
        except Stopped:
            self.left_running = True
        if self.stop.agreed_before(self.step + 1):
            return False
        assert batch is not None and states is not None
        waited = self.clock.buckets["data"] - before
        started = time.perf_counter()
        with self.profile.step(self.step + 1):
            self.state, metrics = self.train_step(self.state, placed, self.key)
        self.step += 1
        self.batches.state = states
        self._report(ahead=time.perf_counter() - started)
        self.pending = _Pending(self.step, metrics, waited, batch)
        return True

    def _compile(self, batch: Mapping[str, jax.Array]) -> None:
        """Before the first step; apart from it, so that it can be left with the state intact."""
        if self.compiled:
            return
        compiling = doing("compiling the training step", self.reporter.line)
        with self.clock.spending("compile"), compiling:
            lowered = self.train_step.lower
            self.stop.unless_stopped(lambda: lowered(self.state, batch, self.key).compile())
        self.compiled = True

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _report(self, ahead: float = 0.0) -> None:
        """Fetch and write the metrics of the step that was dispatched last, if any.

        Args:
          ahead: seconds that the next step has taken already.
        """
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        step = pending.step
        metrics = {name: v.item() for name, v in jax.device_get(pending.metrics).items()}
        self._require_finite(pending, metrics)
        self.reported = pending
        self.profile.step_done(step)
        self.metrics = {**metrics, "data_wait": pending.waited}
        self.clock.step_done()
        self.reporter.step(step, self.metrics, self.batches.account, ahead)
        if self.on_step is not None:
            self.on_step(step, self.metrics)

    def _save(self) -> None:
        self._report()  # so that nothing that isn't finite is saved
        if self.lock is not None and not self.lock.is_held():
            raise CheckpointError(
                f"another run took over '{self.output}' while this one was not heard of for "
                "minutes; nothing more is written there, let that one go on"
            )
        with self.clock.spending("save"):
            self._require_finite_state()
            self.checkpoints.save(self.state, self.step, self.clock.buckets, self.batches.state)
        self.saved_step = self.step

    def _evaluate(self) -> None:
        """Unless this step has been; what is not saved yet is saved before."""
        self._report()
        if self.evaluate is None or self.evaluated_step == self.step:
            return
        # Processes that leave an evaluation have collectives under way, and can't save after it.
        if self.saved_step != self.step and (self.config.save_every or not self.agreement.alone):
            self._save()
        evaluate, model = self.evaluate, self.state.model
        give_back_much()
        answering = doing(f"step {self.step}: answering the validation set", self.reporter.line)
        with self.clock.spending("eval"), answering:
            try:
                scores = self.stop.unless_stopped(lambda: dict(evaluate(model, self.step)))
            except Stopped:
                self.left_running = True
                return
        give_back_much()
        self.evaluation, self.evaluated_step = scores, self.step
        self._mark_best(scores)
        self.reporter.evaluation(self.step, scores)

    def _mark_best(self, scores: Mapping[str, float]) -> None:
        score = next((name for name in BEST_BY if name in scores), None)
        if not self.config.keep_best or score is None or self.saved_step != self.step:
            return
        best = self.checkpoints.best
        if best is None or score not in best or scores[score] > best[score]:
            with self.clock.spending("save"):
                self.checkpoints.mark_best(self.step, scores[score], score)

    def _require_finite(self, pending: _Pending, metrics: Mapping[str, float]) -> None:
        bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise self._astray(pending, metrics, ", ".join(bad))

    def _require_finite_state(self) -> None:
        bad = not_finite(self.state, self.mesh)
        if bad and self.reported is not None:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            what = f"its update left '{bad[0]}'{more} not finite"
            raise self._astray(self.reported, self.metrics, what)

    def _astray(self, pending: _Pending, metrics: Mapping[str, float], what: str) -> TrainingError:
        return TrainingError(
            f"training stopped at step {pending.step}, batch {fingerprint(pending.batch)}: {what}; "
            f"{self._dumped(pending, metrics)}, lower the learning rates or leave that batch out, "
            "the last checkpoint is from before"
        )

    def _dumped(self, pending: _Pending, metrics: Mapping[str, float]) -> str:
        """Leave a step behind to be looked into; how, or why it can't be."""
        try:
            folder = self._dump(pending, metrics)
        except (OSError, CheckpointError) as error:  # must not hide what is wrong with the step
            return f"nothing of it is kept to look into, as something failed: {error}"
        return f"look into it with `python -m stts_jax.training.replay {folder}`"

    def _dump(self, pending: _Pending, metrics: Mapping[str, float]) -> Path:
        self.checkpoints.wait()
        saved = [step for step in checkpoint_steps(self.output) if step < pending.step]
        newest = self.output.resolve() / CHECKPOINTS / str(saved[-1]) if saved else None
        return write_dump(
            self.output,
            self.whole_config,
            self.mesh,
            pending.step,
            pending.batch,
            metrics,
            newest,
            None if saved else self.init_from,
        )
