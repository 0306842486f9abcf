"""Requests for the engine's benchmark: random videos and questions, and when they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stts_jax.batch import Batch
from stts_jax.bench.model import MARKS, bench_batch
from stts_jax.budget import Budget, video_budget
from stts_jax.config import Config
from stts_jax.inference.engine.requests import MediaRow, Request
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.size_buckets import at_bucket, with_counts

# Tokens of questions and of answers; a server sees many short ones.
QUESTION_TOKENS = (8, 20, 60)
ANSWER_TOKENS = (8, 24, 64)


@dataclass(frozen=True)
class Arrival:
    """A request that arrives.

    Attributes:
      at: seconds after the start.
      number: of the question, in the list of all.
      new_tokens: of the answer.
      cancel_after: seconds until it is cancelled; None for never.
      malformed: whether it is one that must be refused.
    """

    at: float
    number: int
    new_tokens: int
    cancel_after: float | None = None
    malformed: bool = False


def media_rows(config: Config, frames: int, count: int) -> list[MediaRow]:
    """Returns videos of noise, half of them shorter, all in one budget.

    Args:
      config: of the model.
      frames: of the longest.
      count: of videos.
    """
    model = at_bucket(config.model)
    budget = video_budget(model, frames=frames, videos=1, text_tokens=1 + MARKS * frames)
    return [
        MediaRow(_row(config, budget, seed, frames if seed % 2 else frames - 1), budget, model)
        for seed in range(count)
    ]


def _row(config: Config, budget: Budget, seed: int, frames: int) -> Batch:
    """Returns a row of BOS and one video."""
    whole = replace(budget, tokens_before=budget.tokens_before + 64, tokens=budget.tokens + 64)
    batch = bench_batch(config, whole, seed, frames=frames, text=64)
    length = frames * (config.model.tokens_per_frame + MARKS)
    start = 64 - 32 - 1  # a word before the frames stands for BOS
    cut = slice(start, start + 1 + length)

    def part(array: np.ndarray) -> np.ndarray:
        fill = 0 if array.dtype == np.float32 else -1
        row = np.full((1, budget.tokens_before), fill, array.dtype)
        row[:, : 1 + length] = array[:, cut]
        return row

    text = replace(batch.text, **{name: part(array) for name, array in vars(batch.text).items()})
    text.position_ids[:, : 1 + length] -= start
    text.labels[:], text.subsegment_ids[:] = 0, np.where(text.input_ids >= 0, 0, -1)
    return with_counts(replace(batch, text=text), config.model)


def questions(config: Config, media: Sequence[MediaRow], count: int) -> list[Request]:
    """Returns questions about videos in turn, of mixed lengths, with the longest of answers."""
    rng = np.random.default_rng(1)
    lengths = rng.choice(QUESTION_TOKENS, count)
    return [
        Request(
            tuple(rng.integers(1, config.model.llm.vocab_size, length).tolist()),
            media[number % len(media)],
            max_new_tokens=ANSWER_TOKENS[-1],
        )
        for number, length in enumerate(lengths)
    ]


def arrivals(
    count: int,
    rate: float,
    questions: int,
    *,
    cancelled: float = 0.0,
    malformed: float = 0.0,
    seed: int = 0,
) -> list[Arrival]:
    """Returns requests that come at random, some questions much more often than others.

    Args:
      count: of requests.
      rate: requests a second on average; infinite for all at once.
      questions: that there are.
      cancelled, malformed: shares of all.
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    gaps = np.zeros(count) if np.isinf(rate) else rng.exponential(1 / rate, count)
    numbers = np.minimum(rng.zipf(1.3, count) - 1, questions - 1)
    fates = rng.random(count)
    return [
        Arrival(
            at=float(at),
            number=int(number),
            new_tokens=int(rng.choice(ANSWER_TOKENS)),
            cancel_after=float(rng.exponential(0.2)) if fate < cancelled else None,
            malformed=bool(cancelled <= fate < cancelled + malformed),
        )
        for at, number, fate in zip(np.cumsum(gaps), numbers, fates, strict=True)
    ]


def malformed(request: Request, kind: int, settings: EngineSettings) -> Request:
    """Returns a request that must be refused, of one of several kinds."""
    media = request.media
    assert media is not None
    pixels = replace(media, batch=replace(media.batch, images=media.batch.images[:, :1]))
    return (
        replace(request, question=()),
        replace(request, question=(-5,)),
        replace(request, question=(1,) * (settings.question_tokens + 1)),
        replace(request, max_new_tokens=settings.max_new_tokens + 1),
        replace(request, media=pixels),
    )[kind % 5]
