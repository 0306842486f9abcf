"""Questions about what was read before: only their text is prefilled, against the prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from stts_jax.config import IMAGE_STRUCTURE_TOKENS, LlmConfig
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import decode_to_end, first_state
from stts_jax.inference.likelihood import padded_answers, summed_likelihoods
from stts_jax.inference.prefill import Prefilled, with_answers
from stts_jax.inference.prefix import Prefix, fitted
from stts_jax.inference.sampling import Sampling
from stts_jax.layers.attention_mask import TokenTable, attention_mask
from stts_jax.layers.gather import static_nonzero, take_rows
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import mesh_of, on_mesh
from stts_jax.pytrees import register_pytree
from stts_jax.size_buckets import text_room


class QuestionError(ValueError):
    """A question that cannot be asked; the message is one sentence with the remedy."""


@register_pytree
@dataclass(frozen=True)
class Answered:
    """Answers, and all that was read and said.

    Attributes:
      tokens: (B, n) int32, the end token from the end of each answer on.
      cache: keys and values, with gaps.
      valid: (B, C) bool, False in the gaps.
      position: (B,) int32, rotary position of the token that comes next.
    """

    tokens: Int[Array, "B new_tokens"]
    cache: KeyValueCache
    valid: Bool[Array, "B C"]
    position: Int[Array, " B"]


def question_rows(questions: Sequence[Sequence[int]], config: LlmConfig) -> np.ndarray:
    """Returns (B, Q) int32 ids of the rows, padded with -1 to a size bucket.

    Args:
      questions: token ids of each row, at least one.
      config: of the LLM.

    Raises:
      QuestionError: if one is empty, or has an id that is no token of text.
    """
    visual = {config.special_token(name) for name in IMAGE_STRUCTURE_TOKENS}
    most = config.vocab_size + config.extra_vocab_size
    for ids in questions:
        if not len(ids):
            raise QuestionError("a question has no tokens; write one")
        wrong = [token for token in ids if token in visual or not 0 <= token < most]
        if wrong:
            raise QuestionError(
                f"a question holds token id {wrong[0]}, which is no text; text has ids below "
                f"{most} that stand for no image"
            )
    rows = np.full((len(questions), text_room(max(map(len, questions)))), -1, np.int32)
    for row, ids in zip(rows, questions, strict=True):
        row[: len(ids)] = ids
    return rows


@register_pytree
@dataclass(frozen=True)
class ReadQuestion:
    """Questions that were read after a prefix.

    Attributes:
      logits: (B, V) float32, of the first token of each answer.
      keys, values: (layers, B, Q, K, head_dim) of the questions alone.
      length: (B,) int32, tokens of each.
      tokens: of prefix and question, for the mask; (B, C + Q).
    """

    logits: Float[Array, "B vocab"]
    keys: Float[Array, "layers B Q K h"]
    values: Float[Array, "layers B Q K h"]
    length: Int[Array, " B"]
    tokens: TokenTable


def extend_prefix(
    model: VideoLanguageModel, prefix: Prefix, question: Int[Array, "B Q"]
) -> ReadQuestion:
    """Reads questions after a prefix.

    Args:
      model: the model.
      prefix: what was read before.
      question: (B, Q) int32, text, padded with -1.
    """
    valid, zeros = question >= 0, jnp.zeros_like(question)
    index = jnp.broadcast_to(jnp.arange(question.shape[1]), question.shape)
    own = TokenTable(
        index=prefix.capacity + index,
        valid=valid,
        visual=jnp.zeros_like(valid),
        frame=zeros,
        subsegment=zeros,
    )
    tokens = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), prefix.tokens(), own)
    mask = attention_mask(own, tokens, model.config.llm.bidirectional)
    embedded = model.llm.embed(question, model.dtype)
    hidden, keys, values = model.llm.extend(
        embedded, prefix.position[:, None] + index, mask, prefix.cache.keys, prefix.cache.values
    )
    length = valid.sum(1).astype(jnp.int32)
    last = jnp.maximum(length - 1, 0)[:, None, None]
    logits = model.llm.logits(jnp.take_along_axis(hidden, last, axis=1)[:, 0])
    return ReadQuestion(logits, keys, values, length, tokens)


def read_question(
    model: VideoLanguageModel, prefix: Prefix, question: Int[Array, "B Q"], new_tokens: int
) -> Prefilled:
    """Reads questions after a prefix, into a cache with room for answers.

    Args:
      model, prefix, question: see `extend_prefix`.
      new_tokens: cache indices for each answer.
    """
    read = extend_prefix(model, prefix, question)

    def joined(before: jax.Array, new: jax.Array) -> jax.Array:
        both = jnp.concatenate([before, new.astype(before.dtype)], axis=2)
        return jnp.pad(both, ((0, 0), (0, 0), (0, new_tokens), (0, 0), (0, 0)))

    last = prefix.capacity + jnp.maximum(read.length - 1, 0)[:, None]
    return Prefilled(
        logits=read.logits,
        cache=KeyValueCache(
            joined(prefix.cache.keys, read.keys), joined(prefix.cache.values, read.values)
        ),
        tokens=with_answers(read.tokens, last, new_tokens),
        position=prefix.position + read.length,
        cache_index=jnp.int32(prefix.capacity + question.shape[1]),
        empty=read.length == 0,
    )


def answer_questions(
    model: VideoLanguageModel,
    prefix: Prefix,
    questions: Int[np.ndarray, "B Q"],
    *,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    key: jax.Array,
) -> Answered:
    """Answers a question in every row of a prefix.

    Compiles once for the size buckets of prefix and questions, and a count of tokens.

    Args:
      model: that read the prefix.
      prefix: what was read before.
      questions: see `question_rows`.
      max_new_tokens, end_token, sampling, key: those of `generate`, whose answers these are.
    """
    mesh = mesh_of(model)
    return _answer(model, prefix, questions, max_new_tokens, end_token, sampling, mesh, key)


@partial(jit_to_answer, static_argnums=(3, 4, 5, 6))
def _answer(
    model: VideoLanguageModel,
    prefix: Prefix,
    questions: jax.Array,
    max_new_tokens: int,
    end_token: int,
    sampling: Sampling,
    mesh: Mesh | None,
    key: jax.Array,
) -> Answered:
    with on_mesh(mesh):
        read = read_question(model, prefix, questions, max_new_tokens)
        state = first_state(read, end_token, sampling, key)
        answers, last = decode_to_end(model, state, max_new_tokens, end_token, sampling)
        before_end = (answers != end_token).cumprod(1).sum(1)
        said = jnp.minimum(before_end, last.cache_index - read.cache_index)
        index = jnp.arange(max_new_tokens)
        valid = read.tokens.valid.at[:, -max_new_tokens:].set(index < said[:, None])
        return Answered(answers, last.cache.stacked(), valid, read.position + said)


def continued(answered: Answered) -> Prefix:
    """Returns the prefix of a further question: all that was read and said before it.

    It lacks the token that ended each answer; see `closing`.
    """
    return fitted(_joined(answered))


@jax.jit
def _joined(answered: Answered) -> Prefix:
    def close(x: jax.Array) -> jax.Array:
        return jax.vmap(lambda layer: take_rows(layer, index))(x)

    index, _ = static_nonzero(answered.valid, answered.valid.shape[1])
    length = answered.valid.sum(1).astype(jnp.int32)
    return Prefix(jax.tree.map(close, answered.cache), length, answered.position)


def closing(answer: Sequence[int], end_token: int) -> list[int]:
    """Returns the tokens of an answer that `continued` lacks, which begin the next question.

    Args:
      answer: a row of `Answered.tokens`.
      end_token: ends an answer.
    """
    return [end_token] if end_token in answer else [int(answer[-1]), end_token]


def likelihoods_after(
    model: VideoLanguageModel,
    prefix: Prefix,
    question: Int[np.ndarray, "1 Q"],
    answers: Sequence[Sequence[int]],
) -> np.ndarray:
    """Returns what `log_likelihoods` does, of answers to one question after a prefix.

    Args:
      model: that read the prefix.
      prefix: what was read before, one row.
      question: see `question_rows`.
      answers: lists of token ids, each with the token that ends it.
    """
    tokens, counts = padded_answers(answers)
    likelihoods = _likelihoods(model, prefix, question, tokens, counts, mesh_of(model))
    return np.asarray(jax.device_get(likelihoods))[: len(answers)]


@partial(jit_to_answer, static_argnums=(5,))
def _likelihoods(
    model: VideoLanguageModel,
    prefix: Prefix,
    question: jax.Array,
    answers: jax.Array,
    counts: jax.Array,
    mesh: Mesh | None,
) -> jax.Array:
    with on_mesh(mesh):
        read = read_question(model, prefix, question, answers.shape[1])
        return summed_likelihoods(model, read, answers, counts)
