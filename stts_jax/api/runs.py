"""Trains, evaluates and converts, as the commands of these names do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.opening import with_adapter
from convert.request import Request, carry_out
from stts_jax.api.errors import UsageError
from stts_jax.api.loading import folder_of, load, silence
from stts_jax.api.model import Model
from stts_jax.api.settings import Prune, Settings, asked_with, with_settings
from stts_jax.config import Config, ConfigError, load_config, replace
from stts_jax.data.synthetic import DEFAULT_FOLDER, SPLITS
from stts_jax.evaluation.runner import Evaluation, evaluate_questions, read_questions
from stts_jax.evaluation.while_training import evaluation
from stts_jax.host_memory import keep_freed_memory
from stts_jax.model.video_language_model import reconfigure
from stts_jax.parallel.compile_cache import keep_compiled_code
from stts_jax.terminal import to_stderr
from stts_jax.training.checkpointing.checkpoint_errors import writing
from stts_jax.training.checkpointing.run_tokenizer import with_checkpoint_tokenizer
from stts_jax.training.loop import OnStep, RunResult
from stts_jax.training.run import train as train_run

PathLike = str | os.PathLike[str]


def train(
    config: Config | PathLike,
    *,
    output: PathLike,
    settings: Settings = (),
    init_from: PathLike | None = None,
    adapter: PathLike | None = None,
    resume: bool = True,
    data_dir: PathLike = DEFAULT_FOLDER,
    on_step: OnStep | None = None,
) -> RunResult:
    """Trains, or fine-tunes with `init_from`, and writes a folder that `load` takes.

    >>> result = stts.train(config, output=folder / "run", settings={"train.steps": 1})
    >>> result.step
    1

    Args:
      config: of the run, or the name of a setup (`"tiny"`), or its .toml or .json file.
      output: folder for `config.json`, `metrics.jsonl`, `loss.png` and `checkpoints`.
      settings: changes by name, see `load`.
      init_from: folder of a model to start from, in any form that `load` takes.
      adapter: of that model, see `load`.
      resume: go on from the newest checkpoint in `output`; otherwise these are DELETED.
      data_dir: folder of the procedural set.
      on_step: called with step and metrics after each step.

    Raises:
      ConfigError, CheckpointError, TrainingError: as `train.py` says them.
      UsageError: if adapters are given without their model.
    """
    keep_compiled_code()
    keep_freed_memory()
    config = with_settings(_config(config), settings)
    if adapter is not None and init_from is None:
        raise UsageError("adapter is given without its model; name that with init_from")
    folder, base = Path(output), None
    start = None if init_from is None else folder_of(init_from)
    evaluate = None
    if config.train.evaluate_every:
        evaluate = evaluation(config, Path(data_dir))
    if start is not None:
        start, base = with_adapter(start, None if adapter is None else folder_of(adapter))
    config = with_checkpoint_tokenizer(config, folder, init_from=start, resume=resume)
    return train_run(
        config,
        folder,
        init_from=start,
        base=base,
        resume=resume,
        evaluate=evaluate,
        data_dir=Path(data_dir),
        on_step=on_step,
    )


def evaluate(
    model: Model | PathLike,
    split: PathLike = "test",
    *,
    prune: Prune = None,
    frames: int | None = None,
    limit: int | None = None,
    output: PathLike | None = None,
    data_dir: PathLike = DEFAULT_FOLDER,
    progress: bool = False,
) -> Evaluation:
    """Answers the questions of a split, and scores the answers.

    >>> found = stts.evaluate(model, limit=2, prune=0.5)
    >>> 0 <= found.accuracy <= 1
    True

    Args:
      model: that answers, or the address of one.
      split: `"test"`, `"validation"`, `"train"`, or a file of questions.
      prune: see `Model.ask`.
      frames: see `Model.ask`.
      limit: answer only the first questions.
      output: folder for `metrics.json`, `predictions.jsonl` and `config.json`, if any.
      data_dir: folder of the procedural set.
      progress: whether to show a bar.

    Raises:
      ConfigError, DatasetError: if the questions can't be read.
      UsageError: see `Model.ask`.
    """
    model = model if isinstance(model, Model) else load(model)
    config, split = asked_with(model.config, prune, frames), os.fspath(split)
    if split not in SPLITS:
        if not Path(split).is_file():
            raise ConfigError(
                f"split is '{split}'; use {', '.join(SPLITS)}, or the path of a file of questions"
            )
        config, split = replace(config, {"data.test": split}), "test"
    questions = read_questions(config, split, Path(data_dir), limit)
    found = evaluate_questions(
        reconfigure(model.module, config.model), config, questions, progress=progress
    )
    if output is not None:
        with writing(Path(output)):
            found.save(Path(output), {"split": split, "k": 100 * config.model.prune.topk})
            config.save(Path(output))
    return found


def convert(
    source: PathLike,
    target: PathLike,
    *,
    notice: Callable[[str], None] | None = to_stderr,
    **options: Any,
) -> Path:
    """Converts a PyTorch checkpoint, or takes one back; returns the new folder.

    >>> stts.convert(run, folder / "hugging_face", to="hf", notice=None).name
    'hugging_face'

    Args:
      source: folder of a checkpoint, in any form that `load` takes.
      target: a new folder.
      notice: takes a line of text; None for silence.
      options: those of `convert.request.Request`: `to` (`"orbax"`, `"hf"`, `"peft"`), `base`,
        `dtype`, `step`, `bidirectional`, `add_scorer`, `topk`.

    Raises:
      ConvertError: if it can't be converted.
      UsageError: if there is no such option.
    """
    known = {field.name for field in dataclasses.fields(Request)} - {"source", "target"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"convert has no option '{unknown[0]}'; use {', '.join(sorted(known))}")
    folder, new = folder_of(source), folder_of(target)
    carry_out(Request(folder, new, **options), notice or silence)
    return new


def _config(config: Config | PathLike) -> Config:
    return config if isinstance(config, Config) else load_config(os.fspath(config))
