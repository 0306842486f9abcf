"""Greedy decoding: tokens a second of one prompt, and of eight of unequal length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.bench.model import MARKS, TEXT, bench_batch
from stts_jax.bench.race import Times, race, ratios, spread
from stts_jax.budget import Budget, video_budget
from stts_jax.config import Config
from stts_jax.model.generation import Sampling, generate
from stts_jax.model.video_language_model import VideoLanguageModel

PROMPTS = 8
# No token has this id, so no answer ends early.
NO_END = -1


class Decoding:
    """Answers to the rows of a batch, compiled for one token and for `tokens`."""

    def __init__(
        self,
        model: VideoLanguageModel,
        budget: Budget,
        batch: Mapping[str, np.ndarray],
        tokens: int,
    ) -> None:
        self._model, self._budget = model, budget
        self._batch = {name: jnp.asarray(array) for name, array in batch.items()}
        for count in (1, tokens):
            self.run(count)

    def run(self, count: int) -> None:
        """Prefill, then that many tokens in all."""
        answers = generate(
            self._model,
            self._batch,
            self._budget,
            max_new_tokens=count,
            end_token=NO_END,
            sampling=Sampling(),
            key=jax.random.key(0),
        )
        jax.block_until_ready(answers)


def unequal_sizes(budget: Budget, count: int) -> list[tuple[int, int]]:
    """Frames and tokens of text of each prompt, from all to half of both in even steps."""
    shares = np.linspace(1.0, 0.5, count)
    return [(max(1, round(share * budget.frames)), round(share * TEXT)) for share in shares]


def unequal_prompts(config: Config, budget: Budget, count: int) -> dict[str, np.ndarray]:
    """Rows of one budget with prompts of `unequal_sizes`."""
    rows = [
        bench_batch(config, budget, seed, frames=frames, text=text)
        for seed, (frames, text) in enumerate(unequal_sizes(budget, count))
    ]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def prompt_tokens(config: Config, budget: Budget, count: int) -> list[int]:
    """Tokens that the LLM reads of each of the unequal prompts."""
    return [
        video_budget(
            config.model, frames=frames, videos=1, text_tokens=text + MARKS * frames
        ).tokens
        for frames, text in unequal_sizes(budget, count)
    ]


def race_of_batches(
    model: VideoLanguageModel, config: Config, budget: Budget, *, tokens: int, rounds: int
) -> dict[str, Any]:
    """Tokens a second after the first token, of one prompt and of `PROMPTS`, taking turns."""
    batches = {1: bench_batch(config, budget), PROMPTS: unequal_prompts(config, budget, PROMPTS)}
    programs = {}
    for size, rows in batches.items():
        decoding = Decoding(model, budget, rows, tokens)
        for count in (1, tokens):
            programs[size, count] = lambda count=count, run=decoding.run: run(count)
    times = race(programs, rounds)
    steps = {size: _steps(times, size, tokens) for size in batches}
    more = [PROMPTS * ratio for ratio in ratios(steps[1], steps[PROMPTS])]
    return {
        "prompts": PROMPTS,
        "prompt_tokens": prompt_tokens(config, budget, PROMPTS),
        "tokens": tokens,
        "tokens_a_second": {
            size: size * (tokens - 1) / own.median() for size, own in steps.items()
        },
        "times_one_prompt": float(np.median(more)),
        "times_one_prompt_in_rounds": more,
        "required": 4.0,
    }


def decode_lines(rates: Mapping[str, Any]) -> str:
    """A sentence."""
    one, many = rates["tokens_a_second"].values()
    lengths = rates["prompt_tokens"]
    return (
        f"decoding: {one:.1f} tokens/s of one prompt, {many:.1f} of {rates['prompts']} of "
        f"{min(lengths)} to {max(lengths)} tokens: {rates['times_one_prompt']:.1f}x "
        f"{spread(rates['times_one_prompt_in_rounds'])} (wanted {rates['required']:.0f}x)"
    )


def _steps(times: Mapping[Any, Times], size: int, tokens: int) -> Times:
    """What the first token costs taken away, so that only steps are left."""
    return times[size, tokens].minus(times[size, 1])
