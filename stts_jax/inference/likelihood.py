"""Log-likelihoods of several answers to one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import next_logits
from stts_jax.inference.prefill import Prefilled, prefill
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import mesh_of, on_mesh

# Answers are padded to multiples of this, so that answers of similar length share a compilation.
ANSWER_STEP = 8


def log_likelihoods(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    answers: Sequence[Sequence[int]],
    key: jax.Array,
) -> np.ndarray:
    """Returns the (N,) logarithms of the probabilities of answers, the end included.

    The prompt is read once, and the answers are the rows of one batch.

    Args:
      model: the model.
      batch: see `Batch`; one row with one prompt.
      budget: static sizes.
      answers: N lists of token ids, each with the token that ends it.
      key: for method `random`.
    """
    tokens, counts = padded_answers(answers)
    likelihoods = _log_likelihoods(model, batch, budget, tokens, counts, mesh_of(model), key)
    return np.asarray(jax.device_get(likelihoods))[: len(answers)]


def padded_answers(answers: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of N answers, padded in rows and length, and which of them count."""
    rows = 1 << (len(answers) - 1).bit_length()
    longest = max(map(len, answers))
    tokens = np.zeros((rows, -(-longest // ANSWER_STEP) * ANSWER_STEP), np.int32)
    counts = np.zeros(tokens.shape, bool)
    for row, answer in enumerate(answers):
        tokens[row, : len(answer)], counts[row, : len(answer)] = answer, True
    return tokens, counts


@partial(jit_to_answer, static_argnums=(2, 5))
def _log_likelihoods(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    answers: jax.Array,
    counts: jax.Array,
    mesh: Mesh | None,
    key: jax.Array,
) -> jax.Array:
    with on_mesh(mesh):
        return _summed(model, batch, budget, answers, counts, key)


def _summed(
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    answers: jax.Array,
    counts: jax.Array,
    key: jax.Array,
) -> jax.Array:
    read = prefill(model, batch, budget, answers.shape[1], key)
    return summed_likelihoods(model, read, answers, counts)


def summed_likelihoods(
    model: VideoLanguageModel, read: Prefilled, answers: jax.Array, counts: jax.Array
) -> jax.Array:
    """Returns the (N,) log-likelihoods of N answers to one prompt that was read.

    Args:
      model: the model.
      read: one prompt, with room for the answers.
      answers: (N, n) int32.
      counts: (N, n) bool, the tokens that count.
    """
    rows, length = answers.shape
    cache = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=1), read.cache)  # (layers, B, ...)
    tokens, logits = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=0), (read.tokens, read.logits))

    def step(
        carry: tuple[jax.Array, jax.Array, KeyValueCache], index: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, KeyValueCache], None]:
        total, logits, cache = carry
        token = answers[:, index]
        log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
        gained = jnp.take_along_axis(log_probability, token[:, None], axis=1)[:, 0]
        total += jnp.where(counts[:, index], gained, 0.0)
        position = jnp.broadcast_to(read.position + index, (rows,))
        logits, cache = next_logits(model, cache, tokens, token, position, read.cache_index + index)
        return (total, logits, cache), None

    start = (jnp.zeros(rows, jnp.float32), logits, cache)
    return jax.lax.scan(step, start, jnp.arange(length))[0][0]
