"""Runs the training loop: steps, log, saves and evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax

from stts_jax.batch import Batch
from stts_jax.config import Config
from stts_jax.host_memory import give_back_much
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import shard_batch
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.terminal import doing
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.save import Checkpoints
from stts_jax.training.clock import Clock
from stts_jax.training.data_parts import DataParts
from stts_jax.training.distributed import Agreement
from stts_jax.training.nan_check import NanCheck, StartedStep
from stts_jax.training.profile import Profile
from stts_jax.training.reporting import Reporter
from stts_jax.training.step import TrainState
from stts_jax.training.step_programs import StepProgram, StepPrograms
from stts_jax.training.stop import Stopped, StopRequest

Evaluate = Callable[[VideoLanguageModel, int], Mapping[str, float]]
OnStep = Callable[[int, Mapping[str, float]], None]
# Scores that the best checkpoint is chosen by: the first of them that an evaluation gives.
BEST_BY = ("accuracy", "ROUGE-L")


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
      step: updates so far, over all resumptions.
      bad_examples: examples left out since this start.
      stopped: whether a signal ended it.
      stopped_by: name of the signal.
      left_running: whether a thread still reads data, evaluates or compiles, so that the program
        should end at once (`os._exit`): it would wait for it, or XLA would abort the process.
      steps_per_s: without the first steps, evaluating and saving; None for short runs.
      seconds: over all resumptions.
      buckets: seconds by bucket, see `Clock`.
      metrics: of the last step, empty if this process did none.
      evaluation: scores of the last one, empty if none.
      programs: training steps that were compiled since this start: one, or one for each ratio.
    """

    step: int
    bad_examples: int
    stopped: bool
    stopped_by: str | None
    left_running: bool
    steps_per_s: float | None
    seconds: float
    buckets: dict[str, float]
    metrics: dict[str, float]
    evaluation: dict[str, float]
    programs: int = 1


@dataclass
class TrainingLoop:
    """One run in one process; see `run.train`.

    Attributes:
      state, step: of the run.
      is_ours: returns whether no other run has taken over the folder.
      pending: the step that was started and whose metrics were not fetched yet.
      reported: the last step whose metrics were fetched.
      saved_step, evaluated_step: the last step that was saved, or evaluated.
    """

    config: Config
    output: Path
    batches: DataParts
    state: TrainState
    step: int
    programs: StepPrograms
    clock: Clock
    reporter: Reporter
    profile: Profile
    checkpoints: Checkpoints
    nan_check: NanCheck
    agreement: Agreement
    stop: StopRequest
    is_ours: Callable[[], bool]
    evaluate: Evaluate | None
    on_step: OnStep | None
    pending: StartedStep | None = None
    reported: StartedStep | None = None
    stopped: bool = False
    left_running: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = key_of_seed(self.config.train.seed)
        self.saved_step = self.step
        self.evaluated_step = self.reporter.last_evaluated()

    def run(self) -> RunResult:
        """Makes the remaining steps."""
        settings = self.config.train
        if self.step and self._due(settings.evaluate_every):
            self._evaluate()  # the run was stopped during this evaluation
        while self.step < settings.steps:
            if not self._dispatch():
                self.stopped = True
                break
            if self._due(settings.save_every):
                self._save()
            if self._due(settings.evaluate_every):
                self._evaluate()
        self._report()
        if self.saved_step != self.step:
            self._save()
        with self.clock.spending("save"):
            self.checkpoints.wait()
        if not self.stopped and settings.evaluate_every:
            self._evaluate()
            self.stopped = self.left_running
        return self._end()

    def _end(self) -> RunResult:
        """Reports and returns the result of the run."""
        if self.programs.several:
            self.reporter.line(f"training steps that were compiled: {self.programs.compiled}")
        if self.stopped:
            what = "the checkpoint is saved" if self.step else "there is nothing to save yet"
            self.reporter.line(f"stopped at step {self.step} by {self.stop.reason}; {what}")
        bad = self.batches.bad_examples
        if bad:
            self.reporter.line(f"bad examples that were left out: {bad}; warnings above name them")
        self.reporter.time(self.step)
        self.reporter.plot()
        return RunResult(
            step=self.step,
            bad_examples=bad,
            stopped=self.stopped,
            stopped_by=self.stop.reason if self.stopped else None,
            left_running=self.left_running or self.programs.compiling,
            steps_per_s=self.clock.steps_per_second,
            seconds=self.clock.seconds,
            buckets=self.clock.buckets,
            metrics=self.metrics,
            evaluation=self.evaluation,
            programs=self.programs.compiled,
        )

    def _dispatch(self) -> bool:
        """Starts the next step, then fetches the metrics of the one before: devices never wait.

        Returns:
          False if the processes agree to stop instead.
        """
        batch = states = None
        before = self.clock.buckets["data"]
        try:
            with self.clock.spending("data"):
                batch, states = self.stop.unless_stopped(lambda: next(self.batches))
            placed = shard_batch(batch, self.nan_check.mesh)
            program = self.programs.at(self.step)
            self._compile(program, placed)
        except Stopped:
            self.left_running = True
        if self.stop.agreed_before(self.step + 1):
            return False
        assert batch is not None and states is not None
        waited = self.clock.buckets["data"] - before
        started = time.perf_counter()
        with self.profile.step(self.step + 1):
            self.state, metrics = program(self.state, placed, self.key)
        self.step += 1
        self.batches.state = states
        self._report(ahead=time.perf_counter() - started)
        ratio = program.ratio if self.programs.several else None
        self.pending = StartedStep(self.step, metrics, waited, batch, ratio)
        return True

    def _compile(self, program: StepProgram, batch: Batch) -> None:
        """Compiles a program before its first step, so that a signal leaves the state intact."""
        if program.ready:
            return
        arguments = self.state, batch, self.key
        compiling = doing(self.programs.title(program), self.reporter.line)
        with self.clock.spending("compile"), compiling:
            self.stop.unless_stopped(lambda: self.programs.compile(program, *arguments))
        left = range(self.step, self.config.train.steps)
        self.programs.compile_ahead(left, *arguments, self.reporter.line)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _report(self, ahead: float = 0.0) -> None:
        """Fetches and writes the metrics of the step that was dispatched last, if any.

        Args:
          ahead: seconds that the next step has taken already.
        """
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        step = pending.step
        metrics = {name: v.item() for name, v in jax.device_get(pending.metrics).items()}
        self.nan_check.check_metrics(pending, metrics)
        self.reported = pending
        self.profile.step_done(step)
        self.metrics = {**metrics, "data_wait": pending.waited}
        if pending.ratio is not None:
            self.metrics["ratio"] = pending.ratio
        self.clock.step_done()
        self.reporter.step(step, self.metrics, self.batches.account, ahead)
        if self.on_step is not None:
            self.on_step(step, self.metrics)

    def _save(self) -> None:
        self._report()  # raises if the loss is not finite, so that the state is not saved
        if not self.is_ours():
            raise CheckpointError(
                f"another run took over '{self.output}' while this one was not heard of for "
                "minutes; nothing more is written there, let that one go on"
            )
        with self.clock.spending("save"):
            self.nan_check.check_state(self.state, self.reported, self.metrics)
            self.reporter.copy()  # the records up to a checkpoint, before it counts
            self.checkpoints.save(self.state, self.step, self.clock.buckets, self.batches.state)
        self.saved_step = self.step

    def _evaluate(self) -> None:
        """Evaluates the state unless that was done; saves it before, if that was not done."""
        self._report()
        if self.evaluate is None or self.evaluated_step == self.step:
            return
        # Processes that stop in an evaluation have collectives under way, and can't save after it.
        unsaved = self.saved_step != self.step
        if unsaved and (self.config.train.save_every or not self.agreement.alone):
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
        better = better_score(scores, self.checkpoints.best)
        if self.config.train.keep_best and better is not None and self.saved_step == self.step:
            name, score = better
            with self.clock.spending("save"):
                self.checkpoints.mark_best(self.step, score, name)


def better_score(
    scores: Mapping[str, float], best: Mapping[str, float] | None
) -> tuple[str, float] | None:
    """Returns the name and value of the score that beats the best so far, None if it doesn't.

    Args:
      scores: of an evaluation; the first of `BEST_BY` among them is compared.
      best: scores of the best evaluation so far; one by another name doesn't count.
    """
    name = next((name for name in BEST_BY if name in scores), None)
    if name is None:
        return None
    # A NaN beats no score.
    is_better = best is None or name not in best or scores[name] > best[name]
    return (name, scores[name]) if is_better else None
