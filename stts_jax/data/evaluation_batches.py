"""Batches of prompts to answer, one question a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_jax.batch import Batch
from stts_jax.budget import Budget, MultimodalType, video_budget
from stts_jax.config import Config, ConfigError, DataConfig, ModelConfig
from stts_jax.config.limits import MAXIMA
from stts_jax.data.bad_examples import READING_ERRORS, BadExamples, Unreadable
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.example_chain import ExampleArrays, ExampleChain, example_rng
from stts_jax.data.packing.batch_memory import require_batch_fits
from stts_jax.data.packing.rows import example_sizes, pack_row, stack_rows
from stts_jax.data.sources.configured import sources_of
from stts_jax.data.synthetic import DEFAULT_FOLDER
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.size_buckets import TEXT_STEP, at_bucket, text_room, with_counts


@dataclass(frozen=True)
class Prompt:
    """One question, as the model is asked it.

    Attributes:
      index: its number in the set.
      source: what is looked at and asked.
      text: of the question, as it was worded.
      metadata: what its metric needs.
      visual_tokens: pooled visual tokens that the LLM sees with it.
    """

    index: int
    source: SourceExample
    text: str
    metadata: dict[str, Any]
    visual_tokens: int


@dataclass
class PromptBatches:
    """Iterates over (batch, its prompts, its budget); may be iterated again.

    The rows of a batch are the prompts in order; the last batch is filled up with empty rows, so
    the number of prompts is the number of rows that count. Questions about unreadable videos are
    left out and accounted for in `bad`. A budget only grows from batch to batch, in steps, so that
    few are compiled for; `model` too is one of few, whatever the ratio.

    Attributes:
      examples: one question each.
      budget: that rows have so far.
      chain: makes the prompts.
      bad: account of what could not be read.
    """

    examples: Sequence[tuple[int, SourceExample]]
    budget: Budget
    chain: ExampleChain
    bad: BadExamples
    rows: int

    def __len__(self) -> int:
        """Batches, if everything can be read."""
        return -(-len(self.examples) // self.rows)

    @property
    def model(self) -> ModelConfig:
        """The configuration that the answering model is compiled in, see `size_buckets`."""
        return at_bucket(self.chain.model)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer to decode answers with."""
        return self.chain.tokenizer

    def __iter__(self) -> Iterator[tuple[Batch, list[Prompt], Budget]]:
        prompts = self._prompts()
        model = self.chain.model
        while chunk := list(itertools.islice(prompts, self.rows)):
            batch, self.budget = batch_of([a for a, _ in chunk], self.budget, model, self.rows)
            yield batch, [prompt for _, prompt in chunk], self.budget

    def _prompts(self) -> Iterator[tuple[ExampleArrays, Prompt]]:
        for index, source in self.examples:
            name = source.names[0] if source.names else f"question {index}"
            try:
                prepared = self.chain.prompt(source, index)
            except READING_ERRORS as error:
                self.bad.add(Unreadable(name, str(error)))
                continue
            self.bad.see(name)
            wording = prepared.messages[-1]
            text = wording if isinstance(wording, str) else wording[-1]
            visual = example_sizes(prepared.arrays, self.chain.model)["visual"]
            yield prepared.arrays, Prompt(index, source, text, prepared.metadata, visual)


def batch_of(
    prompts: Sequence[ExampleArrays], budget: Budget, model: ModelConfig, rows: int
) -> tuple[Batch, Budget]:
    """Returns a batch of prompts, one a row, and its budget, grown where they need more.

    Args:
      prompts: their arrays, at most `rows`; the other rows are empty.
      budget: of a row, one that is compiled for already.
      model: sizes and ratio.
      rows: of the batch.
    """
    for arrays in prompts:
        budget = grown(budget, example_sizes(arrays, model))
    packed = [pack_row([arrays], budget, model) for arrays in prompts]
    packed += [pack_row([], budget, model)] * (rows - len(packed))
    return with_counts(stack_rows(packed), model), budget


def grown(budget: Budget, sizes: dict[str, int]) -> Budget:
    """Returns the budget, grown where a row of these sizes needs more; text in steps."""
    visual_before = max(budget.visual_before, sizes["visual_before"])
    visual = max(budget.visual, sizes["visual"])
    text = max(budget.text, sizes["tokens_before"] - sizes["visual_before"])
    text = text_room(text)
    return Budget(
        frames=max(budget.frames, sizes["frames"]),
        examples=1,
        patches=max(budget.patches, sizes["patches"]),
        visual=visual,
        visual_before=visual_before,
        tokens=visual + text,
        tokens_before=visual_before + text,
    )


def budget_alone(
    prompt: ExampleArrays, config: Config, model: ModelConfig, frames_scale: float = 1.0
) -> Budget:
    """Returns the budget of a prompt that is asked alone, one of few.

    That of a video has all frames, whatever its length. Pictures have sizes in steps, so that few
    are compiled for, and text has room for no more than a frame.

    Args:
      prompt: its arrays.
      config: of the run.
      model: sizes and ratio.
      frames_scale: times `data.max_frames` frames are taken.
    """
    sizes = example_sizes(prompt, model)
    if int(prompt["multimodal_type"][0]) == MultimodalType.VIDEO:
        return grown(least_budget(config, frames_scale), sizes)
    frames = 1 << max(0, sizes["frames"] - 1).bit_length()
    visual = text_room(sizes["visual"])
    room = Budget(frames, 1, frames * model.vit.patches, visual, visual, visual, visual)
    return grown(room, sizes)


def scaled_frames(data: DataConfig, frames_scale: float) -> int:
    """Frames of a video, at most: `data.max_frames` times a factor.

    Raises:
      ConfigError: if that is more than any setup may take.
    """
    frames, most = max(1, round(data.max_frames * frames_scale)), MAXIMA["data"]["max_frames"]
    if frames > most:
        raise ConfigError(
            f"--frames {frames_scale:g}x of data.max_frames={data.max_frames} are {frames} frames; "
            f"take at most {most}"
        )
    return frames


def least_budget(config: Config, frames_scale: float = 1.0) -> Budget:
    """Returns the budget of a question with little text about a video that has all frames."""
    frames = scaled_frames(config.data, frames_scale)
    return video_budget(at_bucket(config.model), frames=frames, videos=1, text_tokens=TEXT_STEP)


def examples_of(
    config: Config, split: str, folder: Path = DEFAULT_FOLDER, limit: int | None = None
) -> list[SourceExample]:
    """The examples of a split in order, or the first of them, one question each.

    Files that are looked at are not read; see `sources_of` for what is.
    """
    drawn = [
        (source, index)
        for source in sources_of(config, split, folder, questions=1)
        for index in range(len(source))
    ]
    return [
        source.get(index, example_rng(source.number(index), 0)) for source, index in drawn[:limit]
    ]


def batches_of_prompts(
    config: Config,
    examples: Iterable[tuple[int, SourceExample]],
    *,
    frames_scale: float = 1.0,
    rows: int | None = None,
    budget: Budget | None = None,
) -> PromptBatches:
    """Prompts in order, one question a row.

    Args:
      config: model and data of the run.
      examples: one question each, with its number in the set.
      frames_scale: times `data.max_frames` frames are taken at most (test-time scaling); the
        highest sampling rate stays `data.fps`.
      rows: of a batch, `eval.batch_rows` by default.
      budget: to start with, one that is compiled for already; by default that of a video of all
        frames and little text.
    """
    asked = list(examples)
    frames = scaled_frames(config.data, frames_scale)
    smallest = least_budget(config, frames_scale)
    rows = rows or config.eval.batch_rows
    require_batch_fits(smallest, config.model, rows, "lower eval.batch_rows or --frames")
    return PromptBatches(
        asked,
        budget or smallest,
        chain_of(config, max_frames=frames),
        BadExamples(len(asked), config.data.max_bad_share),
        rows,
    )
