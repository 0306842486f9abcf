"""Greedy decoding: tokens a second of one prompt, and of eight of unequal length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.bench.race import Times, race
from stts_jax.budget import Budget
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


def unequal_prompts(batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The row of a batch several times, each with a few tokens less at its end."""
    rows = {name: np.repeat(array, count, axis=0) for name, array in batch.items()}
    for row in range(1, count):
        rows["input_ids"][row, -2 * row :] = -1
    return rows


def race_of_batches(
    model: VideoLanguageModel,
    budget: Budget,
    batch: Mapping[str, np.ndarray],
    *,
    tokens: int,
    rounds: int,
) -> dict[str, Any]:
    """Tokens a second after the first token, of one prompt and of `PROMPTS`, taking turns."""
    batches = {1: dict(batch), PROMPTS: unequal_prompts(batch, PROMPTS)}
    programs = {}
    for size, rows in batches.items():
        decoding = Decoding(model, budget, rows, tokens)
        for count in (1, tokens):
            programs[size, count] = lambda count=count, run=decoding.run: run(count)
    times = race(programs, rounds)
    rates = {size: size * (tokens - 1) / _steps(times, size, tokens).median() for size in batches}
    return {
        "prompts": PROMPTS,
        "tokens_a_second": rates,
        "times_one_prompt": rates[PROMPTS] / rates[1],
        "required": 4.0,
    }


def decode_lines(rates: Mapping[str, Any]) -> str:
    """A sentence."""
    one, many = rates["tokens_a_second"].values()
    return (
        f"decoding: {one:.1f} tokens/s of one prompt, {many:.1f} of {rates['prompts']} of unequal "
        f"length: {rates['times_one_prompt']:.1f}x (wanted {rates['required']:.0f}x)"
    )


def _steps(times: Mapping[Any, Times], size: int, tokens: int) -> Times:
    """What the first token costs taken away, so that only steps are left."""
    return times[size, tokens].minus(times[size, 1])
