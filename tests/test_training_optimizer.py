"""Groups, rates, clipping, freezing and decay."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_cases import small_config

from stts_jax.config import GroupConfig, TrainConfig
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing.settings_changes import schedule_lines
from stts_jax.training.optimizer import (
    FROZEN,
    GROUPS,
    group_metrics,
    group_of,
    groups_of,
    is_decayed,
    learning_rate,
    make_optimizer,
)

NAMES = {
    "llm.embedding": 5.0,
    "llm.final_norm.scale": 1.0,
    "llm.extra_embedding": 0.1,
    "vit.patch_embedding.bias": 0.01,
    "scorer.last.kernel": 7.0,
}


def arrays(scale=1.0):
    return {name: jnp.full((4,), scale * value) for name, value in NAMES.items()}


def train_config(**changes):
    groups = {group: GroupConfig(1e-2 * (i + 1), 10 * i) for i, group in enumerate(GROUPS)}
    return TrainConfig(**{"steps": 100, **groups, **changes})


def test_every_parameter_of_a_model_is_in_its_group():
    config = small_config("model.llm.tied_head=false")
    model = jax.eval_shape(lambda: VideoLanguageModel(config.model, key=jax.random.key(0)))
    groups = groups_of(named_parameters(model), config.train)
    assert groups.pop("llm.extra_embedding") == "connector"
    assert groups["llm.embedding"] == groups["llm.head"] == "llm"
    assert all(group == name.split(".")[0] for name, group in groups.items())
    assert set(groups.values()) == set(GROUPS)


def test_a_parameter_of_no_group_is_refused():
    with pytest.raises(ValueError, match=r"'memory\.kernel' is in none of the groups llm"):
        group_of("memory.kernel", train_config())


@pytest.mark.parametrize("group", GROUPS)
def test_rate_rises_linearly_then_falls_along_a_cosine(group):
    config = train_config()
    peak, warmup = getattr(config, group).learning_rate, getattr(config, group).warmup
    rates = [float(learning_rate(getattr(config, group), config, step)) for step in range(1, 101)]
    for step in range(1, warmup):
        assert rates[step - 1] == pytest.approx(peak * step / warmup, rel=1e-6)
    for step in (max(warmup, 1), 40, 77, 100):
        share = (step - warmup) / (100 - warmup)
        expected = peak * (0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2)
        assert rates[step - 1] == pytest.approx(expected, rel=1e-5)
    assert rates[-1] == pytest.approx(0.1 * peak, rel=1e-6)


def test_a_run_shorter_than_its_warm_up_has_finite_rates():
    config = TrainConfig(steps=5)
    rates = [float(learning_rate(config.llm, config, step)) for step in range(1, 6)]
    assert rates == pytest.approx([1e-5 * step / 200 for step in range(1, 6)])


def test_the_first_update_uses_the_rate_of_step_one():
    config = train_config()
    groups = groups_of(NAMES, config)
    optimizer = make_optimizer(config, groups)
    updates, _ = optimizer.update(arrays(), optimizer.init(arrays()), arrays())
    # Adam's first update is the sign of the gradient, times the rate.
    for name, update in updates.items():
        rate = learning_rate(getattr(config, groups[name]), config, 1)
        np.testing.assert_allclose(update, -rate, rtol=1e-3)


def test_clipping_is_by_the_norm_of_each_group_alone():
    config = train_config(clip=1.0)
    groups = groups_of(NAMES, config)
    optimizer = make_optimizer(config, groups)
    gradients = arrays()
    _, state = optimizer.update(gradients, optimizer.init(arrays()), arrays())
    # The first moment is 0.1 of the clipped gradient.
    moments = {
        name: np.asarray(mu) / (1 - config.beta1)
        for group in GROUPS
        for name, mu in optax.tree.get(state.inner_states[group], "mu").items()
        if isinstance(mu, jax.Array)
    }
    assert moments.keys() == NAMES.keys()
    llm = math.sqrt(4 * (5.0**2 + 1.0**2))
    np.testing.assert_allclose(moments["llm.embedding"], 5.0 / llm, rtol=1e-5)
    np.testing.assert_allclose(moments["llm.final_norm.scale"], 1.0 / llm, rtol=1e-5)
    np.testing.assert_allclose(moments["scorer.last.kernel"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(moments["llm.extra_embedding"], 0.1, rtol=1e-5)
    metrics = group_metrics(gradients, groups, config, jnp.int32(1))
    assert metrics["gradient_norm/llm"] == pytest.approx(llm)
    assert metrics["gradient_norm/connector"] == pytest.approx(0.2)
    assert set(metrics) == {
        f"{what}/{g}" for g in GROUPS for what in ("gradient_norm", "learning_rate")
    }


def test_a_frozen_embedding_stays_and_has_no_moments():
    config = train_config(freeze_base_embedding=True, weight_decay=0.1)
    groups = groups_of(NAMES, config)
    assert groups["llm.embedding"] == FROZEN
    optimizer = make_optimizer(config, groups)
    state = optimizer.init(arrays())
    updates, state = optimizer.update(arrays(), state, arrays())
    assert not updates["llm.embedding"].any()
    assert all(updates[name].any() for name in NAMES if name != "llm.embedding")
    moments = [name for name in named_parameters(state) if "llm.embedding" in name]
    assert moments == []
    # The norm that llm is clipped by is that of what is trained.
    assert group_metrics(arrays(), groups, config, jnp.int32(1))["gradient_norm/llm"] == 2.0


def test_moments_are_float32():
    config = train_config()
    optimizer = make_optimizer(config, groups_of(NAMES, config))
    leaves = named_parameters(optimizer.init(arrays()))
    moments = {name: leaf for name, leaf in leaves.items() if ".mu." in name or ".nu." in name}
    assert len(moments) == 2 * len(NAMES)
    assert all(leaf.dtype == jnp.float32 for leaf in moments.values())


def test_decay_leaves_norms_and_biases_alone():
    assert not is_decayed("vit.blocks.mlp_norm.scale")
    assert not is_decayed("llm.blocks.key_norm.scale")
    assert not is_decayed("vit.patch_embedding.bias")
    assert is_decayed("llm.blocks.key.kernel")
    assert is_decayed("llm.embedding")
    zero = jax.tree.map(jnp.zeros_like, arrays())
    config = train_config(weight_decay=0.5)
    optimizer = make_optimizer(config, groups_of(NAMES, config))
    updates, _ = optimizer.update(zero, optimizer.init(arrays()), arrays())
    rate = float(learning_rate(config.llm, config, 1))
    np.testing.assert_allclose(updates["llm.embedding"], -rate * 0.5 * 5.0, rtol=1e-5)
    assert not updates["llm.final_norm.scale"].any()
    assert not updates["vit.patch_embedding.bias"].any()


MATRICES = {
    "llm.blocks.query.kernel": (2, 8, 6),
    "llm.embedding": (10, 8),
    "llm.final_norm.scale": (8,),
    "vit.patch_embedding.kernel": (12, 8),
}


def muon_update(gradients):
    config = train_config(optimizer="muon", clip=1e9)
    optimizer = make_optimizer(config, groups_of(MATRICES, config))
    parameters = {name: jnp.zeros(shape) for name, shape in MATRICES.items()}
    return jax.jit(optimizer.update)(gradients, optimizer.init(parameters), parameters)


def random_gradients():
    keys = jax.random.split(jax.random.key(0), len(MATRICES))
    shapes = MATRICES.items()
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes, strict=True)}


def test_muon_makes_the_updates_of_kernels_orthogonal_layer_by_layer():
    updates, _ = muon_update(random_gradients())
    for matrix in (*updates["llm.blocks.query.kernel"], updates["vit.patch_embedding.kernel"]):
        singular = np.linalg.svd(matrix, compute_uv=False)
        # Newton-Schulz stops near 1, between about 0.7 and 1.2, whatever the gradient was.
        assert singular.max() / singular.min() < 1.8


def test_muon_leaves_embeddings_and_norms_to_adam():
    updates, _ = muon_update(random_gradients())
    gradients = random_gradients()
    for name in ("llm.embedding", "llm.final_norm.scale"):
        assert (np.sign(updates[name]) == -np.sign(gradients[name])).all()
        size = np.abs(updates[name])
        assert size.max() / size.min() < 1.1, "the first update of Adam has one size"


def test_muon_updates_are_as_large_as_those_of_adam():
    rate = {g: float(learning_rate(getattr(train_config(), g), train_config(), 1)) for g in GROUPS}
    updates, _ = muon_update(random_gradients())
    for name, update in updates.items():
        size = float(jnp.sqrt(jnp.mean(update**2)))
        assert size == pytest.approx(rate[group_of(name, train_config())], rel=0.5), name


def test_going_on_with_other_steps_tells_of_the_rate_that_changes():
    groups = {group: GroupConfig(1e-3, 2) for group in GROUPS}
    saved = TrainConfig(steps=12, **groups)
    (line,) = schedule_lines(dataclasses.replace(saved, steps=24), saved, 12)
    assert line == (
        "the learning rate at step 13 goes from 1.00e-04 to 5.50e-04 (llm, vit, connector, "
        "scorer), because of train.steps=24 (saved: 12)"
    )


def test_going_on_tells_which_groups_change_and_which_other_settings():
    saved = train_config()
    other = dataclasses.replace(saved, vit=GroupConfig(5e-2, 10), weight_decay=0.1)
    (line,) = schedule_lines(other, saved, 50)
    assert "(vit), because of train.vit.learning_rate=0.05 (saved: 0.02)" in line
    assert "train.weight_decay=0.1 (saved: 0.0)" in line and "llm" not in line
    (line,) = schedule_lines(dataclasses.replace(saved, clip=2.0), saved, 50)
    assert line == "settings of training change from step 51 on: train.clip=2.0 (saved: 1.0)"


def test_going_on_as_before_or_saving_more_often_says_nothing():
    saved = train_config()
    assert not list(schedule_lines(saved, saved, 50))
    assert not list(
        schedule_lines(dataclasses.replace(saved, save_every=7, accumulate=2), saved, 50)
    )


def test_a_run_that_has_more_steps_than_are_asked_for_says_so():
    saved = train_config()
    (line,) = schedule_lines(dataclasses.replace(saved, steps=40), saved, 50)
    assert line.startswith("nothing is left to train: the run is at step 50 and train.steps is 40")
