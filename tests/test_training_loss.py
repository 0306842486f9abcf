"""Only tokens that bear a loss get logits, and neither values nor gradients change by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stts_jax.training import token_loss as loss_module
from stts_jax.training.token_loss import token_loss

ROWS, LENGTH, WIDTH, WORDS = 3, 22, 5, 11
SUMS = ("cross_entropy", "z_loss", "weight", "correct")
Z_LOSS = 1e-2


def inputs(seed: int = 0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    labels = rng.integers(0, WORDS, (ROWS, LENGTH)).astype(np.int32)
    weights = rng.uniform(0.1, 2, (ROWS, LENGTH)).astype(np.float32)
    weights[rng.random(weights.shape) < 0.6] = 0
    weights[0, 3], weights[1] = -1, 0  # a negative weight counts as none; a row without any loss
    labels[weights == 0] = WORDS + 7  # as visual tokens have
    head = rng.normal(size=(WIDTH, WORDS)).astype(np.float32)
    return hidden, labels, weights, head


def plain_loss(hidden, labels, weights, head):
    """Logits of every token at once."""
    logits, weights = hidden @ head, jnp.maximum(weights, 0)
    partition = jax.nn.logsumexp(logits, axis=-1)
    known = jnp.minimum(labels, WORDS - 1)
    label = jnp.take_along_axis(logits, known[..., None], axis=-1)[..., 0]
    return {
        "cross_entropy": (weights * (partition - label)).sum(),
        "z_loss": Z_LOSS * (weights * partition**2).sum(),
        "weight": weights.sum(),
        "correct": (weights * (logits.argmax(-1) == labels)).sum(),
    }


def chunked_loss(hidden, labels, weights, head):
    return token_loss(hidden, labels, weights, lambda x: x @ head, Z_LOSS)


def compiled(function):
    """A function of its own each time: its size of chunk is the one of now."""
    return jax.jit(lambda *arguments: function(*arguments))


@pytest.fixture(params=(4, 22, 100), ids=lambda size: f"chunk{size}")
def chunk(request, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_sums_are_those_of_logits_of_every_token():
    found, expected = compiled(chunked_loss)(*inputs()), compiled(plain_loss)(*inputs())
    for name in SUMS:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, err_msg=name)


@pytest.mark.usefixtures("chunk")
def test_gradients_are_those_of_logits_of_every_token():
    def gradients(loss):
        def total(hidden, head):
            _, labels, weights, _ = inputs()
            sums = loss(hidden, labels, weights, head)
            return sums["cross_entropy"] + sums["z_loss"]

        hidden, _, _, head = inputs()
        return compiled(jax.grad(total, argnums=(0, 1)))(hidden, head)

    for found, expected in zip(gradients(chunked_loss), gradients(plain_loss), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_what_bears_no_loss_is_not_even_looked_at():
    hidden, labels, weights, head = inputs()
    hidden[weights <= 0] = np.nan

    def total(hidden):
        return chunked_loss(hidden, labels, weights, head)["cross_entropy"]

    value, gradient = compiled(jax.value_and_grad(total))(hidden)
    assert np.isfinite(value)
    assert (np.asarray(gradient)[weights <= 0] == 0).all()


@pytest.mark.parametrize("answers, chunks", [(0, 0), (1, 1), (4, 1), (5, 2), (22, 6)])
def test_chunks_without_a_loss_are_not_computed(answers, chunks, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", 4)
    hidden, labels, _, head = inputs()
    weights = np.zeros((ROWS, LENGTH), np.float32)
    weights[2, LENGTH - answers :] = 1
    computed = []

    def logits_of(x):
        jax.debug.callback(lambda: computed.append(1))
        return x @ head

    def loss(hidden):
        return token_loss(hidden, labels, weights, logits_of, Z_LOSS)

    jax.block_until_ready(compiled(loss)(hidden))
    jax.effects_barrier()
    assert len(computed) == chunks
