"""Answering the questions of a split with a model."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import (
    Prompt,
    PromptBatches,
    batches_of_prompts,
    examples_of,
)
from stts_jax.data.questions import question_of
from stts_jax.data.synthetic import DEFAULT_FOLDER
from stts_jax.evaluation.metrics import (
    BY_TEXT,
    Agreement,
    Prediction,
    accuracy,
    accuracy_by_type,
    rules_by_type,
    text_score,
    text_score_by_type,
)
from stts_jax.inference.adaptive import generate_adaptive
from stts_jax.inference.decoding import generate
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.parallel.mesh import mesh_of, put_whole_batch, rows_for
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.parallel.processes import ALONE, Share
from stts_jax.terminal import progress_bar


@dataclass(frozen=True)
class Answers:
    """The answers of a model, and what they cost.

    Attributes:
      said: each prompt with its answer, in order.
      questions_per_s: after the last batch that compiled; 0, which is unknown, without another.
      unreadable: questions left out because their files could not be read.
    """

    said: list[tuple[Prompt, str]]
    questions_per_s: float
    unreadable: int


@dataclass(frozen=True)
class Evaluation:
    """Answers to the questions of a split, and what they cost.

    Attributes:
      predictions: in the order of the questions.
      visual_tokens: pooled visual tokens that the LLM sees with a question, on average.
      questions_per_s, unreadable: see `Answers`.
      agreement: with the model of whole weights, where that was compared.
    """

    predictions: list[Prediction]
    visual_tokens: float
    questions_per_s: float
    unreadable: int
    agreement: Agreement | None = None

    @cached_property
    def accuracy(self) -> float | None:
        """Share of right answers, 0 to 1; None if all questions want free texts."""
        return accuracy(self.predictions)

    @cached_property
    def by_type(self) -> dict[str, float]:
        """`accuracy` of each type of question."""
        return accuracy_by_type(self.predictions)

    @cached_property
    def text_score(self) -> float | None:
        """Mean ROUGE-L of free texts, 0 to 1; None if there are none."""
        return text_score(self.predictions)

    @cached_property
    def text_score_by_type(self) -> dict[str, float]:
        """`text_score` of each type of question."""
        return text_score_by_type(self.predictions)

    @cached_property
    def rules_by_type(self) -> dict[str, dict[str, int]]:
        """Counts the answers of each type that each rule scores."""
        return rules_by_type(self.predictions)

    def scores(self) -> dict[str, float]:
        """Returns `accuracy` and `ROUGE-L`, where there are such answers, in all and by type."""
        found = {"accuracy": self.accuracy, BY_TEXT: self.text_score}
        by_type = self.by_type | {f"{n} {BY_TEXT}": v for n, v in self.text_score_by_type.items()}
        found |= {name: value for name, value in by_type.items() if name not in found}
        return {name: value for name, value in found.items() if value is not None}

    def save(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write `metrics.json` (with the settings it was made with) and `predictions.jsonl`."""
        folder.mkdir(parents=True, exist_ok=True)
        metrics = {
            "accuracy": self.accuracy,
            "accuracy_by_type": self.by_type,
            "text_score": self.text_score,
            "text_score_by_type": self.text_score_by_type,
            "scored_by": self.rules_by_type,
            "questions": len(self.predictions),
            "unreadable": self.unreadable,
            "visual_tokens": self.visual_tokens,
            "questions_per_s": self.questions_per_s or None,
            "settings": settings,
        }
        if self.agreement is not None:
            metrics["agreement"] = dataclasses.asdict(self.agreement)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        lines = [
            json.dumps(
                {"video": p.video, **dataclasses.asdict(p.question), "prediction": p.answer}
                | {"scored_by": p.scored_by, "score": p.score, "correct": p.correct}
            )
            for p in self.predictions
        ]
        (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")


def read_questions(
    config: Config, split: str, data_dir: Path = DEFAULT_FOLDER, limit: int | None = None
) -> list[SourceExample]:
    """The examples of a split, or the first of them, each of which asks one thing.

    Raises:
      DatasetError: if something of it cannot be read, or is not one question with its answer.
      ConfigError: see `sources_of`.
    """
    examples = examples_of(config, split, data_dir, limit)
    for example in examples:
        question_of(example)
    return examples


def evaluate_split(
    model: VideoLanguageModel,
    config: Config,
    split: str,
    *,
    data_dir: Path = DEFAULT_FOLDER,
    limit: int | None = None,
    frames_scale: float = 1.0,
    text_only: bool = False,
    progress: bool = False,
    share: Share = ALONE,
) -> Evaluation:
    """Answer `train`, `validation` or `test`; see `read_questions` and `evaluate_questions`."""
    return evaluate_questions(
        model,
        config,
        read_questions(config, split, data_dir, limit),
        frames_scale=frames_scale,
        text_only=text_only,
        progress=progress,
        share=share,
    )


def evaluate_questions(
    model: VideoLanguageModel,
    config: Config,
    examples: Sequence[SourceExample],
    *,
    frames_scale: float = 1.0,
    text_only: bool = False,
    progress: bool = False,
    share: Share = ALONE,
) -> Evaluation:
    """Answer the questions of examples.

    The devices that hold the model share the rows of every batch. Where these are of several
    processes, all of them call this together. Where each process has a model of its own, `share`
    says which questions it answers; all of them get all answers.

    Args:
      model: as trained; its configuration decides what is pruned.
      config: the run's; only its data and evaluation parts are used beside the model's own.
      examples: one question each, see `read_questions`.
      frames_scale: times `data.max_frames` frames are taken.
      text_only: drop every visual token, to see what the text alone gives away.
      progress: whether to show a bar (on a terminal).
      share: of the questions, for this process.
    """
    batches = batches_of_questions(model, config, examples, frames_scale, share)
    answers = answer(model, config, batches, text_only=text_only, progress=progress)
    said = [(prompt.index, text, _labels(prompt)) for prompt, text in answers.said]
    visual = [0 if text_only else prompt.visual_tokens for prompt, _ in answers.said]
    parts = share.gather([said, answers.questions_per_s, answers.unreadable, visual])
    seen = [tokens for part in parts for tokens in part[3]]
    return Evaluation(
        predictions=[
            _prediction(examples[index], text, labels)
            for index, text, labels in sorted(
                itertools.chain.from_iterable(part[0] for part in parts), key=itemgetter(0)
            )
        ],
        visual_tokens=sum(seen) / len(seen) if seen else 0.0,
        questions_per_s=sum(part[1] for part in parts),
        unreadable=sum(part[2] for part in parts),
    )


def batches_of_questions(
    model: VideoLanguageModel,
    config: Config,
    examples: Sequence[SourceExample],
    frames_scale: float,
    share: Share,
) -> PromptBatches:
    """Returns the prompts of this process's questions; arguments as of `evaluate_questions`."""
    return batches_of_prompts(
        _with_model_of(config, model),
        share.of(examples),
        frames_scale=frames_scale,
        rows=rows_of_batch(config, len(share.of(examples)), mesh_of(model)),
    )


def rows_of_batch(config: Config, questions: int, mesh: Mesh | None) -> int:
    """Returns the rows of a batch: `eval.batch_rows`, or fewer where there are fewer questions.

    Args:
      config: of the run.
      questions: that there are to answer.
      mesh: whose devices share the rows evenly.
    """
    return rows_for(max(1, min(config.eval.batch_rows, questions)), mesh)


def answer(
    model: VideoLanguageModel,
    config: Config,
    batches: PromptBatches,
    *,
    text_only: bool = False,
    progress: bool = False,
) -> Answers:
    """Answer every prompt of `batches`; see `evaluate_questions`."""
    model = reconfigure(model, batches.model)
    answers: list[tuple[Prompt, str]] = []
    compiled, started, timed = None, 0.0, 0
    bar = progress_bar(batches, desc="answering", unit="batches", shown=progress)
    for number, (batch, prompts, budget) in enumerate(bar):
        if progress and compiled not in (None, budget):
            bar.write(
                f"compiling again for prompts with up to {budget.text} tokens of text, "
                f"{budget.frames} frames and {budget.visual} visual tokens",
                file=sys.stderr,
            )
        if text_only:  # a visual token that pools no patch is dropped
            no_patch = np.full_like(batch.token_pooling, -1)
            batch = dataclasses.replace(batch, token_pooling=no_patch)
        tokens, kept = answer_batch(model, config, batch, budget, batches.tokenizer.eos_id, number)
        if kept is not None:
            prompts = _with_visual_tokens(prompts, kept)
        # Rows beyond the prompts are padding.
        for prompt, row in zip(prompts, tokens, strict=False):
            answers.append((prompt, batches.tokenizer.decode(row.tolist())))
        if budget != compiled:
            compiled, started, timed = budget, time.perf_counter(), 0
        else:
            timed += len(prompts)
    elapsed = time.perf_counter() - started
    return Answers(
        said=answers,
        questions_per_s=timed / elapsed if timed else 0.0,
        unreadable=len(batches.bad.reasons),
    )


def answer_batch(
    model: VideoLanguageModel,
    config: Config,
    batch: Batch,
    budget: Budget,
    end_token: int,
    number: int = 0,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Answers the rows of a batch.

    Args:
      model: in the configuration that its program is compiled in.
      config: of the run; says how answers are chosen, and how long they are.
      batch: of prompts, NumPy arrays.
      budget: of a row.
      end_token: ends an answer.
      number: of the batch, for what is drawn at random.

    Returns:
      (B, new tokens) token ids, and (B,) visual tokens that a threshold left, None without one.
    """
    settings, mesh = config.eval, mesh_of(model)
    options: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "end_token": end_token,
        "sampling": Sampling(settings.temperature, settings.top_k, settings.top_p),
        "key": jax.random.fold_in(key_of_seed(config.train.seed), number),
    }
    placed = put_whole_batch(batch, mesh)
    if model.config.prune.threshold:
        tokens, kept = generate_adaptive(model, placed, budget, **options)
        return _fetched(tokens), _fetched(kept)
    return _fetched(generate(model, placed, budget, **options)), None


def _with_visual_tokens(prompts: Sequence[Prompt], kept: np.ndarray) -> list[Prompt]:
    """Returns prompts with the visual tokens that a threshold left of each."""
    counted = zip(prompts, kept.tolist(), strict=False)
    return [dataclasses.replace(prompt, visual_tokens=tokens) for prompt, tokens in counted]


def _prediction(source: SourceExample, text: str, labels: Sequence[str] | None) -> Prediction:
    seen = ", ".join(map(str, source.images)) if source.video is None else str(source.video)
    return Prediction(question_of(source), seen, text, None if labels is None else tuple(labels))


def _labels(prompt: Prompt) -> Sequence[str] | None:
    """Returns the option labels of a prompt: empty if there are none, None if unknown."""
    names, options = prompt.metadata.get("option_names"), prompt.metadata.get("options")
    if names is None:
        return () if "prompt" in prompt.source.annotations[0] else None
    return () if options is not None and list(names) == list(options) else list(names)


def _fetched(tokens: jax.Array) -> np.ndarray:
    """All rows, also those on devices of other processes."""
    if tokens.is_fully_addressable:
        return np.asarray(tokens)
    return np.asarray(multihost_utils.process_allgather(tokens, tiled=True))


def _with_model_of(config: Config, model: VideoLanguageModel) -> Config:
    """`config` for the model's own setup, which may prune another share than the run's."""
    data = dataclasses.replace(config.data, topk=None)
    return dataclasses.replace(config, model=model.config, data=data)
