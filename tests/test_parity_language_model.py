"""The whole unpruned model equals recorded Molmo2: logits, losses, gradients, greedy answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from native_arrays import from_native, to_native
from reference_cases import (
    KEY,
    cases,
    exact_budget,
    load,
    recorded_batch,
    same_sizes,
    table,
    under,
    visual_features,
    weights,
    worst,
    worst_gradient,
)

from convert.names import name_table
from convert.reference_config import model_config
from stts_jax.batch import TEXT_FIELDS, VISUAL_FIELDS, Batch
from stts_jax.budget import Budget
from stts_jax.config import ModelConfig, replace
from stts_jax.inference.decoding import generate
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.training.token_loss import token_loss

# Worst seen: image features 1.0e-6, hidden states 1.6e-6, logits 1.5e-6, losses 3.4e-7, gradients
# 3.1e-6, their norms 9.1e-5 (relative to the largest value).
LOGITS = 2e-5
FEATURES = 2e-5
LOSS = 5e-6
GRADIENTS = 1e-4
MODES = {"None": "none", "image_tokens": "image_tokens", "within_image": "within_image"}
INPUTS = VISUAL_FIELDS + TEXT_FIELDS
RECORDED = cases("molmo2_*.npz")


def setup(path: Path, mode: str) -> tuple[VideoLanguageModel, Batch, Budget, ModelConfig]:
    case = load(path)
    config = replace(model_config(table(case)), {"llm.bidirectional": MODES[mode]})
    abstract = jax.eval_shape(lambda: VideoLanguageModel(config, key=KEY))
    model = from_native(abstract, weights("molmo2_native"), name_table(config))
    return model, recorded_batch(with_subsegments(case)), exact_budget(case, config), config


def with_subsegments(case: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The case, with subsegments also where its rows are no packed ones."""
    if case["packed"]:
        return case
    return {**case, "subsegment_ids": np.zeros_like(case["input_ids"])}


def loss(model: VideoLanguageModel, batch: Batch, budget: Budget) -> tuple[jax.Array, Any]:
    """The mean loss without the z-term, as its gradients are recorded, and all beside it."""
    hidden, rows = model(batch, budget, key=KEY)
    labels, weights = rows.text.labels, rows.text.loss_masks
    sums = token_loss(hidden, labels, weights, model.llm.logits, 1e-4)
    more = hidden, model.llm.logits(hidden), sums, rows
    return sums["cross_entropy"] / sums["weight"], more


forward = jax.jit(loss, static_argnums=2)
forward_and_gradients = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)


def padded_batch(path: Path, config: ModelConfig) -> tuple[Batch, Budget]:
    """The inputs of a case, of the same sizes as those of all cases with this configuration."""
    case = with_subsegments(load(path))
    others = [other for other in RECORDED if table(load(other)) == table(case)]
    return same_sizes(case, INPUTS, others, config)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_parity_logits_and_loss(path: Path, mode: str, worst_error: Any) -> None:
    case = load(path)
    model, _, _, config = setup(path, mode)
    batch, budget = padded_batch(path, config)
    if mode == "None":
        (_, more), gradients = forward_and_gradients(model, batch, budget)
    else:
        _, more = forward(model, batch, budget)
    hidden, logits, sums, rows = more
    # Padding is moved to the end of each row; nobody asks what the model says there.
    real = case["input_ids"] >= 0
    valid = np.asarray(rows.tokens.valid)
    assert (np.asarray(batch.text.input_ids) >= 0).sum(1).tolist() == valid.sum(1).tolist()
    name = f"{path.stem} {mode}"
    error = worst(np.asarray(logits)[valid], case[f"logits/{mode}"][real])
    worst_error.add(name, "logits", error, LOGITS)
    assert error <= LOGITS

    cross_entropy, z_loss, _, _, weight = case[f"loss/{mode}"]
    assert float(sums["weight"]) == pytest.approx(weight)
    for ours, theirs in ((sums["cross_entropy"], cross_entropy), (sums["z_loss"], z_loss)):
        error = abs(float(ours) / weight - theirs) / theirs
        worst_error.add(name, "loss", error, LOSS)
        assert error <= LOSS

    if mode != "None":
        return
    if "hidden_final" in case:
        error = worst(np.asarray(hidden)[valid], case["hidden_final"][real])
        worst_error.add(name, "hidden states", error, LOGITS)
        assert error <= LOGITS
    if "image_features" in case:
        features = visual_features(model, rows)
        error = worst(features, case["image_features"])
        worst_error.add(name, "image features", error, FEATURES)
        assert error <= FEATURES
    ours = to_native(gradients, name_table(config))
    norms = json.loads(str(case["grad_norms"])) if "grad_norms" in case else {}
    errors = worst_gradient(ours, under(case, "grad/"), norms)
    for what, error in zip(("gradients", "gradient norms"), errors, strict=True):
        worst_error.add(name, what, error, GRADIENTS)
        assert error <= GRADIENTS


ANSWERED = [(path, mode) for path in RECORDED for mode in MODES if f"generate/{mode}" in load(path)]


@pytest.mark.parametrize(
    ("path", "mode"), ANSWERED, ids=[f"{path.stem}-{mode}" for path, mode in ANSWERED]
)
def test_parity_greedy_answers(path: Path, mode: str) -> None:
    case = load(path)
    model, batch, budget, _ = setup(path, mode)
    expected = case[f"generate/{mode}"]
    answers = generate(
        model,
        batch,
        budget,
        max_new_tokens=expected.shape[-1],
        end_token=-2,  # the recorded answers run on to the last token
        sampling=Sampling(),
        key=KEY,
    )
    assert (np.asarray(answers) == expected.reshape(answers.shape)).all()
