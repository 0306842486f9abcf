"""FLOPs are counted from the sizes, as published and as the compiler counts them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import KEY, small_config

from stts_jax.budget import row_budget, video_budget
from stts_jax.config import load_config
from stts_jax.model.llm import LanguageModel
from stts_jax.training.flops import (
    decode_flops,
    forward_flops,
    llm_token_flops,
    prefill_flops,
    training_flops,
)

# TFLOPs of a forward pass at 64 and 384 frames with 500 text tokens: docs/reference.md#operations,
# by another count.
PUBLISHED = {(0.0, 64): (39.5, 1.0, 58.8), (0.5, 64): (23.5, 0.5, 27.3)} | {
    (0.0, 384): (237.0, 6.2, 809.5),
    (0.7, 384): (104.0, 1.85, 125.6),
}


@pytest.mark.parametrize("topk, frames", PUBLISHED)
def test_flops_of_the_forward_pass_are_the_published_ones(topk, frames):
    overrides = ["model.prune.method=scorer", f"model.prune.topk={topk}"] if topk else []
    model = load_config("molmo2_4b", overrides).model
    parts = forward_flops(model, video_budget(model, frames=frames, videos=1, text_tokens=500))
    vit = sum(parts.get(name, 0) for name in ("vit_before", "vit_after", "scorer"))
    found = np.array([vit, parts["connector"], parts["llm"]]) / 1e12
    np.testing.assert_allclose(found, PUBLISHED[topk, frames], rtol=0.03)


def test_flops_of_linear_layers_are_what_the_compiler_counts():
    """One block of each kind, so that no scan hides anything; the rest of the count is small."""
    config = small_config(
        "model.llm.layers=1",
        "model.llm.width=256",
        "model.llm.mlp_width=512",
        "model.llm.head_dim=64",
        "model.remat=none",
    )

    llm, length = config.model.llm, 8
    model = jax.eval_shape(lambda: LanguageModel(llm, key=KEY))
    arguments = (
        jax.ShapeDtypeStruct((1, length, llm.width), jnp.float32),
        jax.ShapeDtypeStruct((1, length), jnp.int32),
        jax.ShapeDtypeStruct((1, length, length), jnp.bool_),
    )
    compiled = jax.jit(lambda model, *x: model(*x)).lower(model, *arguments).compile()
    counted = compiled.cost_analysis()["flops"]
    assert counted == pytest.approx(length * llm_token_flops(config.model), rel=0.1)


def test_a_step_counts_backward_twice_and_what_is_made_again_apart():
    config = load_config("molmo2_8b_stts_50")  # its head is its own, and learns
    budget = row_budget(config.model, config.data)
    forward = forward_flops(config.model, budget)
    step = training_flops(config, budget, rows=3)
    assert step.model == pytest.approx(9 * sum(forward.values()))
    blocks = sum(forward[name] for name in ("vit_before", "vit_after", "llm"))
    assert step.recompute > 3 * blocks
    bare = training_flops(load_config("molmo2_8b_stts_50", ["model.remat=none"]), budget, 3)
    assert bare.model == step.model and bare.recompute < step.recompute - 3 * blocks * 0.99


def test_a_frozen_head_has_no_gradient_of_its_own():
    tied = load_config("molmo2_4b_stts_50")
    budget = row_budget(tied.model, tied.data)
    head = next(p for p in training_flops(tied, budget, 1).parts if p.name == "head")
    assert head.backward == head.forward


def test_what_is_frozen_has_gradients_of_its_inputs_alone():
    config = load_config("molmo2_4b_lora")
    budget = row_budget(config.model, config.data)
    parts = {part.name: part for part in training_flops(config, budget, 1).parts}
    found = {name: part.backward / part.forward for name, part in parts.items()}
    # Nothing that is trained comes before the scorer.
    assert found == {"vit_before": 0, "scorer": 2, "vit_after": 1, "connector": 1} | {
        "llm": 1,
        "head": 1,
    }
    assert parts["vit_before"].recompute == 0


def test_prefill_makes_one_position_of_logits_and_decoding_one_token():
    model = load_config("molmo2_4b").model
    budget = video_budget(model, frames=64, videos=1, text_tokens=500)
    head = 2 * model.llm.width * model.llm.vocab_size
    prefill = {part.name: part.forward for part in prefill_flops(model, budget, 2).parts}
    assert prefill["head"] == 2 * head
    one = decode_flops(model, cached=0, rows=1)
    assert one.model == pytest.approx(2 * 3.63e9 + head, rel=0.01)
