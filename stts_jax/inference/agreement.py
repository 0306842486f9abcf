"""How two models differ on the same answers, token by token."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import next_logits
from stts_jax.inference.prefill import prefill
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import mesh_of, on_mesh

# Of each model: the logits of the next token, and its cache.
Carry = list[tuple[jax.Array, KeyValueCache]]


def token_agreement(
    reference: VideoLanguageModel,
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    answers: Int[Array, "B n"],
    key: jax.Array,
) -> tuple[Bool[Array, "B n"], Float[Array, "B n"]]:
    """Compares the distributions of each token of given answers; both models read the same.

    Args:
      reference: a model.
      model: another one, with the same tokens.
      batch: see `Batch`; prompts only.
      budget: static sizes.
      answers: (B, n) int32, the tokens that both read.
      key: for method `random`.

    Returns:
      whether both models' most probable token is the same; the KL divergence of the model's
      distribution from the reference's, in nats.
    """
    return _token_agreement(reference, model, batch, budget, answers, mesh_of(model), key)


@partial(jit_to_answer, static_argnums=(3, 5))
def _token_agreement(
    reference: VideoLanguageModel,
    model: VideoLanguageModel,
    batch: Batch,
    budget: Budget,
    answers: jax.Array,
    mesh: Mesh | None,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    models = reference, model
    with on_mesh(mesh):
        read = [prefill(each, batch, budget, answers.shape[1], key) for each in models]

        def step(carry: Carry, index: jax.Array) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
            logs = [jax.nn.log_softmax(logits) for logits, _ in carry]
            same = logs[0].argmax(-1) == logs[1].argmax(-1)
            divergence = (jnp.exp(logs[0]) * (logs[0] - logs[1])).sum(-1)
            after = [
                next_logits(
                    each,
                    cache,
                    own.tokens,
                    answers[:, index],
                    own.position + index,
                    own.cache_index + index,
                )
                for each, own, (_, cache) in zip(models, read, carry, strict=True)
            ]
            return after, (same, divergence)

        start = [(own.logits, own.cache) for own in read]
        _, (same, divergence) = jax.lax.scan(step, start, jnp.arange(answers.shape[1]))
    return same.T, divergence.T
