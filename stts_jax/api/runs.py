"""Trains, evaluates and converts, as the commands of these names do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from convert.opening import with_adapter
from convert.request import TARGETS, Request, carry_out
from convert.stored_dtype import DTYPES
from stts_jax.api.errors import UsageError
from stts_jax.api.loading import folder_of, load, silence
from stts_jax.api.model import Model
from stts_jax.api.settings import Prune, Settings, asked_with, require_count, with_settings
from stts_jax.config import Bidirectional, Config, ConfigError, load_config, replace
from stts_jax.data.synthetic import DEFAULT_FOLDER, SPLITS
from stts_jax.evaluation.runner import Evaluation, evaluate_questions, read_questions
from stts_jax.evaluation.while_training import evaluation
from stts_jax.host_memory import keep_freed_memory
from stts_jax.model.video_language_model import reconfigure
from stts_jax.parallel.compile_cache import keep_compiled_code
from stts_jax.quoting import shorten
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

    >>> settings = {"train.steps": 50, "train.evaluate_every": 0}
    >>> result = stts.train(config, output=folder / "run", init_from=run, settings=settings)
    >>> result.step
    50
    >>> tuned = stts.load(folder / "run", notice=None)

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
    folder, base = folder_of(output), None
    start = None if init_from is None else folder_of(init_from)
    if start is not None:
        start, base = with_adapter(start, None if adapter is None else folder_of(adapter))
    config = with_checkpoint_tokenizer(config, folder, init_from=start, resume=resume)
    wanted = config.train.evaluate_every > 0
    evaluate = evaluation(config, Path(data_dir)) if wanted else None
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
    if limit is not None:
        require_count("limit", limit)
    folder = None if output is None else folder_of(output)
    file = folder_of(split)
    split = os.fspath(split)
    if split not in SPLITS and not file.is_file():
        raise ConfigError(
            f"split is '{split}'; use {', '.join(SPLITS)}, or the path of a file of questions"
        )
    model = model if isinstance(model, Model) else load(model)
    config = asked_with(model.config, prune, frames, checkpoint=model.checkpoint)
    if split not in SPLITS:
        config, split = replace(config, {"data.test": split}), "test"
    questions = read_questions(config, split, Path(data_dir), limit)
    found = evaluate_questions(
        reconfigure(model.module, config.model), config, questions, progress=progress
    )
    if folder is not None:
        with writing(folder):
            found.save(folder, {"split": split, "k": 100 * config.model.prune.topk})
            config.save(folder)
    return found


def convert(
    source: PathLike,
    target: PathLike,
    *,
    to: Literal["orbax", "hf", "peft"] = "orbax",
    base: PathLike | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    step: int | None = None,
    bidirectional: Bidirectional | None = None,
    add_scorer: bool = False,
    topk: float | None = None,
    notice: Callable[[str], None] | None = to_stderr,
) -> Path:
    """Converts a PyTorch checkpoint, or takes one back; returns the new folder.

    >>> stts.convert(run, folder / "hugging_face", to="hf", notice=None).name
    'hugging_face'

    Args:
      source: folder of a checkpoint, in any form that `load` takes.
      target: a new folder.
      to: `orbax`, a folder that `load` takes, `hf` for Hugging Face, or `peft` for adapters alone.
      base: folder of the model that adapters belong to, by default where it was in training.
      dtype: to store in, by default that of each tensor.
      step: of a folder of steps, by default the latest.
      bidirectional: which image tokens see each other, where the checkpoint doesn't say.
      add_scorer: give a model without a scorer a new one.
      topk: share of tokens to drop, where the checkpoint doesn't say.
      notice: takes a line of text; None for silence.

    Raises:
      ConvertError: if it can't be converted.
      UsageError: if an argument is none of those.
    """
    for name, value, known in (("to", to, TARGETS), ("dtype", dtype, (None, *DTYPES))):
        if value not in known:
            named = ", ".join(repr(each) for each in known if each)
            raise UsageError(f"{name} is {shorten(value)}; use one of {named}")
    request = Request(
        folder_of(source),
        folder_of(target),
        to=to,
        base=None if base is None else folder_of(base),
        dtype=dtype,
        step=step,
        bidirectional=bidirectional,
        add_scorer=add_scorer,
        topk=topk,
    )
    carry_out(request, notice or silence)
    return folder_of(target)


def _config(config: Config | PathLike) -> Config:
    if isinstance(config, Config):
        return config
    if not isinstance(config, str | os.PathLike):
        raise UsageError(f"config is {shorten(config)}; give a Config, a name, or a file")
    return load_config(os.fspath(config))
