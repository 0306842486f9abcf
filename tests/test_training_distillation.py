"""The KL to a teacher: its value, the share of its gradient, and rows as the unit of its weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stts_jax.batch import TextRows
from stts_jax.config import DistillConfig
from stts_jax.training.distillation import (
    Answers,
    Distilled,
    distilled_token_loss,
    divergences,
    logged,
    row_weights,
)
from stts_jax.training.token_loss import answers_first, token_loss

ROWS, LENGTH, LONGER, WIDTH, WORDS = 3, 12, 17, 5, 11
SHARE = DistillConfig(teacher="self", share=0.25)


def head(seed):
    return np.random.default_rng(seed).normal(size=(WIDTH, WORDS)).astype(np.float32)


def inputs(seed=0):
    """Hidden states of a model and of a teacher, whose rows have more tokens, of like answers."""
    rng = np.random.default_rng(seed)
    answers = [4, 0, 6]
    weights, longer = np.zeros((ROWS, LENGTH), np.float32), np.zeros((ROWS, LONGER), np.float32)
    for row, count in enumerate(answers):
        own = rng.uniform(0.5, 2, count)
        weights[row, np.sort(rng.choice(LENGTH, count, replace=False))] = own
        longer[row, np.sort(rng.choice(LONGER, count, replace=False))] = own
    hidden = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    theirs = rng.normal(size=(ROWS, LONGER, WIDTH)).astype(np.float32)
    labels = rng.integers(0, WORDS, (ROWS, LENGTH)).astype(np.int32)
    return hidden, labels, weights, theirs, longer


def rows_of(labels, weights):
    return TextRows(labels, labels, weights, labels, labels)


def sums(hidden, labels, weights, theirs, longer):
    _, first = answers_first(longer, theirs, length=LENGTH)
    answers = Answers(first, lambda x: x @ head(2))
    text = rows_of(labels, weights)
    return distilled_token_loss(hidden, text, lambda x: x @ head(1), 1e-2, answers)


def plain_kl(hidden, weights, theirs, longer):
    """Returns the weighted KL of each row, token by token."""
    found = []
    for row in range(ROWS):
        own, other = hidden[row][weights[row] > 0], theirs[row][longer[row] > 0]
        p, q = jax.nn.softmax(own @ head(1)), jax.nn.softmax(other @ head(2))
        found.append((weights[row][weights[row] > 0] @ (q * jnp.log(q / p)).sum(-1)).item())
    return found


def test_each_token_of_an_answer_is_compared_with_the_teachers():
    hidden, _, weights, theirs, longer = inputs()
    np.testing.assert_allclose(
        sums(*inputs())["kl"], plain_kl(hidden, weights, theirs, longer), rtol=1e-5
    )


def test_the_other_sums_are_those_without_a_teacher():
    hidden, labels, weights, _, _ = inputs()
    plain = token_loss(hidden, labels, weights, lambda x: x @ head(1), 1e-2)
    found = sums(*inputs())
    for name, value in plain.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_the_norms_are_those_of_the_gradients_by_the_logits():
    rng = np.random.default_rng(0)
    logits, theirs = rng.normal(size=(2, ROWS, LENGTH, WORDS)).astype(np.float32)
    _, labels, weights, _, _ = inputs()

    def kl(logits):
        return divergences(logits, theirs, labels, weights)["kl"].sum()

    def cross_entropy(logits):
        label = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
        return -(weights * label[..., 0]).sum()

    found = divergences(logits, theirs, labels, weights)
    for name, loss in (("kl_square", kl), ("cross_entropy_square", cross_entropy)):
        squares = jnp.square(jax.grad(loss)(logits)).sum((1, 2))
        np.testing.assert_allclose(found[name], squares, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_weighted_gradient_has_the_share_that_is_asked_for():
    distilled = Distilled.of(sums(*inputs()), SHARE)
    norms = np.sqrt([distilled.kl_square, distilled.cross_entropy_square])
    np.testing.assert_allclose(distilled.weight[::2] * norms[0, ::2], 0.25 * norms[1, ::2], 1e-5)
    metrics = logged(distilled.metrics(jnp.float32(3)))
    assert metrics["distill/share"] == pytest.approx(0.25, rel=1e-5)
    assert metrics["distill/kl"] == pytest.approx(distilled.kl.sum().item() / 3)
    assert metrics["distill/weight"] * distilled.kl.sum() == pytest.approx(
        distilled.loss.item(), rel=1e-5
    )


def test_the_weight_has_no_gradient_of_its_own():
    hidden, *others = inputs()

    def loss(hidden):
        return Distilled.of(sums(hidden, *others), SHARE).loss

    def weighted(hidden, weight):
        return (weight * sums(hidden, *others)["kl"]).sum()

    weight = Distilled.of(sums(hidden, *others), SHARE).weight
    np.testing.assert_allclose(jax.grad(loss)(hidden), jax.grad(weighted)(hidden, weight), 1e-5)


def test_a_row_is_weighted_alike_in_any_part_of_a_batch():
    whole = Distilled.of(sums(*inputs()), SHARE)
    for row in range(ROWS):
        repeated = [np.repeat(x[row : row + 1], ROWS, axis=0) for x in inputs()]
        assert Distilled.of(sums(*repeated), SHARE).weight[0] == pytest.approx(
            whole.weight[row].item(), rel=1e-5
        )


def test_a_kl_without_a_gradient_has_a_bounded_weight():
    found = row_weights(jnp.array([0.0, 1e-20]), jnp.array([1.0, 1.0]), share=0.1, largest=7.0)
    assert found.tolist() == [7.0, 7.0]


def test_a_step_without_its_teacher_logs_zeros():
    metrics = logged(Distilled.of({}, SHARE).metrics(jnp.float32(2)))
    names = {"distill/kl", "distill/weight", "distill/share"}
    assert {name: float(value) for name, value in metrics.items()} == dict.fromkeys(names, 0.0)
