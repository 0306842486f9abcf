"""Makes the parts of a run, and trains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.buckets.address import path_of
from stts_jax.config import Config
from stts_jax.data.pipeline import training_batches
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.train_ratios import require_known_counts
from stts_jax.training.checkpointing.resume import (
    hold_run,
    resume_or_begin,
)
from stts_jax.training.checkpointing.save import Checkpoints
from stts_jax.training.clock import Clock
from stts_jax.training.distributed import Agreement
from stts_jax.training.flops import Throughput
from stts_jax.training.library_output import library_log
from stts_jax.training.loop import Evaluate, OnStep, RunResult, TrainingLoop
from stts_jax.training.nan_check import NanCheck
from stts_jax.training.plots import plot_training
from stts_jax.training.profile import Profile
from stts_jax.training.reporting import Reporter
from stts_jax.training.run_files import RunFiles
from stts_jax.training.run_mesh import run_mesh
from stts_jax.training.step import TrainState, TrainStep, init_state, make_train_step
from stts_jax.training.step_programs import StepPrograms
from stts_jax.training.stop import StopRequest
from stts_jax.training.teacher import open_teacher, require_teacher


@dataclass(frozen=True)
class RunParts:
    """The functions that make the parts of a run; tests hand in cheaper ones.

    Attributes:
      make_mesh: the devices that a setup is trained on, with the axes of its mesh.
      open_data: opens one part of the data stream, see `training_batches`.
      init_state: makes the state of a new run.
      make_step: makes the training step of a setup; a teacher is the last argument, if any.
      open_teacher: reads the model of `train.distill.teacher`, if that is a folder.
      plot: draws `loss.png` in the folder of a run.
    """

    make_mesh: Callable[[Config], Mesh] = run_mesh
    open_data: Callable[..., Any] = training_batches
    init_state: Callable[[Config, Mesh, jax.Array], TrainState] = init_state
    make_step: Callable[..., TrainStep] = make_train_step
    open_teacher: Callable[[Config, Mesh], VideoLanguageModel | None] = open_teacher
    plot: Callable[[Path], Any] = plot_training


def train(
    config: Config,
    output: Path,
    *,
    init_from: Path | None = None,
    base: Path | None = None,
    resume: bool = True,
    evaluate: Evaluate | None = None,
    data_dir: Path | None = None,
    on_step: OnStep | None = None,
    parts: RunParts | None = None,
) -> RunResult:
    """Trains to the end, or until SIGTERM or SIGINT, and writes all results to a folder.

    Every process of a run calls this; they stop at the same step, whichever gets the signal.

    Args:
      config: of the run.
      output: folder for `config.json`, `metrics.jsonl`, `loss.png` and `checkpoints`.
      init_from: folder of a run or checkpoint whose parameters to start from.
      base: folder of the model that adapters belong to, if it isn't where it was.
      resume: go on from the newest checkpoint in `output`, if any; otherwise they are deleted.
      evaluate: `(model, step) -> scores`, called every `train.evaluate_every` steps and at the
        end; `accuracy` among them is drawn, and the best by the first of `loop.BEST_BY` is kept. It
        runs in a thread, which is not waited for when a signal comes.
      data_dir: where the procedural set is or is to be made.
      on_step: called with step and metrics after each step, one step late.
      parts: replacements for the functions that the run is made of.

    Raises:
      ConfigError: for settings that don't go together.
      CheckpointError: see `checkpointing`.
      TrainingError: when the loss or a gradient is not finite, or a parameter before it is saved.
    """
    output, parts = path_of(output), parts or RunParts()
    require_known_counts(config)
    require_teacher(config)
    mesh = parts.make_mesh(config)
    with ExitStack() as stack:
        lock = stack.enter_context(hold_run(output))
        files = stack.enter_context(RunFiles(output))
        stack.enter_context(library_log(files.folder, jax.process_index()))
        state, progress, batches = resume_or_begin(
            config,
            output,
            mesh,
            stack,
            init_from=init_from,
            base=base,
            resume=resume,
            data_dir=data_dir,
            open_data=parts.open_data,
            init_state=parts.init_state,
        )
        teacher = parts.open_teacher(config, mesh)
        taught = {} if teacher is None else {"teacher": teacher}
        programs = StepPrograms.of(config, mesh, partial(parts.make_step, **taught))
        clock = Clock(progress.seconds)
        throughput = Throughput.of(config, list(mesh.devices.flat))
        reporter = Reporter(config, files, progress.step, clock, throughput, stack, parts.plot)
        profile = Profile(files.folder, config.train.profile)
        stack.callback(profile.close)
        checkpoints = stack.enter_context(
            Checkpoints(output, config.train.keep_checkpoints, config.data, config.train)
        )
        agreement, began_from = Agreement(), init_from and init_from.resolve()
        loop = TrainingLoop(
            config=config,
            output=output,
            batches=batches,
            state=state,
            step=progress.step,
            programs=programs,
            clock=clock,
            reporter=reporter,
            profile=profile,
            checkpoints=checkpoints,
            nan_check=NanCheck(config, output, mesh, checkpoints, began_from),
            agreement=agreement,
            stop=stack.enter_context(StopRequest(agreement)),
            is_ours=lock.is_held if lock is not None else lambda: True,
            evaluate=evaluate,
            on_step=on_step,
        )
        return loop.run()
