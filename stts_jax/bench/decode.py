"""Times greedy decoding: tokens/s of one prompt, and of eight of unequal length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.batch import Batch
from stts_jax.bench.model import MARKS, TEXT, bench_batch
from stts_jax.bench.race import race, ratios, spread
from stts_jax.budget import Budget, video_budget
from stts_jax.config import Config
from stts_jax.inference.decoding import decode, start_decoding
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel

PROMPTS = 8
# No token has this id, so no answer ends early.
NO_END = -1


class Steps:
    """Decoding steps of a batch after one prefill."""

    def __init__(
        self,
        model: VideoLanguageModel,
        budget: Budget,
        batch: Batch,
        tokens: int,
    ) -> None:
        rows = jax.tree.map(jnp.asarray, batch)
        self._model = model
        self._state = jax.jit(
            lambda model, rows: start_decoding(
                model, rows, budget, tokens, NO_END, Sampling(), jax.random.key(0)
            )
        )(model, rows)
        self._answers = jax.jit(
            lambda model, state: decode(model, state, tokens, NO_END, Sampling())
        )
        self.run()

    def run(self) -> None:
        """Decodes all tokens but the first, which the prefill chose."""
        jax.block_until_ready(self._answers(self._model, self._state))


def unequal_sizes(budget: Budget, count: int) -> list[tuple[int, int]]:
    """Returns frames and text tokens of each prompt, from all to half of both in even steps."""
    shares = np.linspace(1.0, 0.5, count)
    return [(max(1, round(share * budget.frames)), round(share * TEXT)) for share in shares]


def unequal_prompts(config: Config, budget: Budget, count: int) -> Batch:
    """Returns rows of one budget with prompts of `unequal_sizes`."""
    rows = [
        bench_batch(config, budget, seed, frames=frames, text=text)
        for seed, (frames, text) in enumerate(unequal_sizes(budget, count))
    ]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *rows)


def prompt_tokens(config: Config, budget: Budget, count: int) -> list[int]:
    """Returns the LLM's tokens of each of the unequal prompts."""
    return [
        video_budget(
            config.model, frames=frames, videos=1, text_tokens=text + MARKS * frames
        ).tokens
        for frames, text in unequal_sizes(budget, count)
    ]


def race_of_batches(
    model: VideoLanguageModel, config: Config, budget: Budget, *, tokens: int, rounds: int
) -> dict[str, Any]:
    """Measures tokens/s after the first token, of one prompt and of `PROMPTS` in turns."""
    batches = {1: bench_batch(config, budget), PROMPTS: unequal_prompts(config, budget, PROMPTS)}
    steps = {size: Steps(model, budget, rows, tokens) for size, rows in batches.items()}
    times = race({size: own.run for size, own in steps.items()}, rounds)
    more = [PROMPTS * ratio for ratio in ratios(times[1], times[PROMPTS])]
    return {
        "prompts": PROMPTS,
        "prompt_tokens": prompt_tokens(config, budget, PROMPTS),
        "tokens": tokens,
        "tokens_a_second": {
            size: size * (tokens - 1) / own.median() for size, own in times.items()
        },
        "times_one_prompt": float(np.median(more)),
        "times_one_prompt_in_rounds": more,
        "required": 4.0,
    }


def decode_lines(rates: Mapping[str, Any]) -> str:
    """Formats the result as a sentence."""
    one, many = rates["tokens_a_second"].values()
    lengths = rates["prompt_tokens"]
    return (
        f"decoding: {one:.1f} tokens/s of one prompt, {many:.1f} of {rates['prompts']} of "
        f"{min(lengths)} to {max(lengths)} tokens: {rates['times_one_prompt']:.1f}x "
        f"{spread(rates['times_one_prompt_in_rounds'])} (wanted {rates['required']:.0f}x)"
    )
