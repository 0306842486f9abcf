"""Compares a model of int8 weights with the one that it was made of, on answers of the latter."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from stts_jax.config import Config
from stts_jax.data.datasets.base import SourceExample
from stts_jax.evaluation.metrics import Agreement
from stts_jax.evaluation.runner import batches_of_questions
from stts_jax.inference.agreement import token_agreement
from stts_jax.inference.decoding import decoding_keys, generate
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.parallel.mesh import mesh_of, put_whole_batch
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.parallel.processes import ALONE, Share
from stts_jax.terminal import progress_bar


def agreement_on(
    reference: VideoLanguageModel,
    model: VideoLanguageModel,
    config: Config,
    examples: Sequence[SourceExample],
    *,
    frames_scale: float = 1.0,
    progress: bool = False,
    share: Share = ALONE,
) -> Agreement:
    """Compares two models on the questions of a split, each with all of its own parts.

    The answers are those that the reference finds most probable, token by token; both models read
    them. Where they agree on every token, they answer alike.

    Args:
      reference: the model with whole weights.
      model: the same with int8 weights.
      config: the run's, see `evaluate_questions`.
      examples: one question each.
      frames_scale: times `data.max_frames` frames are taken.
      progress: whether to show a bar (on a terminal).
      share: of the questions, for this process; all processes get the whole.
    """
    batches = batches_of_questions(model, config, examples, frames_scale, share)
    # One program serves all ratios of a size bucket.
    reference, model = (reconfigure(each, batches.model) for each in (reference, model))
    key, mesh = key_of_seed(config.train.seed), mesh_of(model)
    totals = np.zeros(5)
    bar = progress_bar(batches, desc="comparing weights", unit="batches", shown=progress)
    for number, (batch, prompts, budget) in enumerate(bar):
        arrays, own_key = put_whole_batch(batch, mesh), jax.random.fold_in(key, number)
        answers = generate(
            reference,
            arrays,
            budget,
            max_new_tokens=config.eval.max_new_tokens,
            end_token=batches.tokenizer.eos_id,
            sampling=Sampling(),
            key=own_key,
        )
        read_key, *_ = decoding_keys(own_key)
        found = (answers, *token_agreement(reference, model, arrays, budget, answers, read_key))
        rows = [array[: len(prompts)] for array in jax.device_get(found)]
        totals += _totals(batches.tokenizer.eos_id, *rows)
    return _agreement(np.sum(share.gather(totals.tolist()), axis=0))


def _totals(end: int, answers: np.ndarray, same: np.ndarray, divergence: np.ndarray) -> list[float]:
    """Returns the sums of `Agreement`, over answers with the token that ends each."""
    ended = np.cumsum(answers == end, axis=1)
    counts = (ended == 0) | ((answers == end) & (ended == 1))
    return [
        len(answers),
        (same | ~counts).all(1).sum(),
        counts.sum(),
        (same & counts).sum(),
        divergence[counts].sum(dtype=np.float64),
    ]


def _agreement(totals: np.ndarray) -> Agreement:
    answers, same_answers, tokens, same_tokens, divergence = totals
    return Agreement(
        answers=int(answers),
        same_answers=float(same_answers / max(answers, 1)),
        tokens=int(tokens),
        same_tokens=float(same_tokens / max(tokens, 1)),
        kl=float(divergence / max(tokens, 1)),
    )
