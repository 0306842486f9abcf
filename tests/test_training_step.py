"""One compiled step: it learns, and it compiles once."""

import jax
import numpy as np
import pytest
from random_batches import IMAGE, MULTI_IMAGE, TEXT, VIDEO
from training_cases import ALL_KINDS, batch_for, fresh_state, single_mesh, small_config, train_step

from stts_jax.parallel.mesh import make_mesh
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.optimizer import GROUPS
from stts_jax.training.step import abstract_state

KEY = jax.random.key(1)


def test_a_fixed_batch_is_learnt():
    config, step = small_config(), train_step()
    batch, state, losses = batch_for(config, 0), fresh_state(), []
    for _ in range(8):
        state, metrics = step(state, batch, KEY)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.5, losses
    assert int(state.step) == 8
    assert set(metrics) == {
        *("loss", "z_loss", "auxiliary_loss", "accuracy", "kept", "tokens", "total_loss"),
        *(f"{what}/{g}" for g in GROUPS for what in ("gradient_norm", "learning_rate")),
    }


def test_every_parameter_is_trained():
    config, step = small_config(), train_step()
    before = jax.device_get(named_parameters(fresh_state().model))
    state, _ = step(fresh_state(), batch_for(config, 0), KEY)
    after = named_parameters(state.model)
    assert before.keys() == after.keys()
    # A bias on keys shifts all logits of a query alike, so it has no gradient.
    for name, array in before.items():
        assert name.endswith("key.bias") or np.abs(array - after[name]).max() > 0, name


def test_ten_different_contents_compile_once(report_error):
    config, step = small_config(), train_step()
    contents = [(kind,) for kind in (VIDEO, IMAGE, MULTI_IMAGE, TEXT)] + [ALL_KINDS] * 6
    state, counts = fresh_state(), set()
    for seed, kinds in enumerate(contents):
        batch = batch_for(config, seed, kinds=kinds, empty_rows=seed % 4)
        counts.add(np.asarray(batch.num_images).tobytes())
        state, metrics = step(state, batch, KEY)
        assert all(np.isfinite(float(value)) for value in metrics.values()), (seed, metrics)
    report_error("compilations for ten batches", step._cache_size(), 1)
    assert len(contents) == 10 and len(counts) > 8
    assert step._cache_size() == 1


def test_a_batch_of_padding_alone_does_no_harm():
    config, step = small_config(), train_step()
    state, metrics = step(fresh_state(), batch_for(config, 0, empty_rows=8), KEY)
    assert all(np.isfinite(float(value)) for value in metrics.values()), metrics
    assert all(np.isfinite(x).all() for x in jax.device_get(jax.tree.leaves(state)))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("shape", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_moments_lie_where_their_parameters_lie(shape, optimizer):
    state = abstract_state(small_config(f"train.optimizer={optimizer}"), make_mesh(shape))
    parameters, moments = (named_parameters(x) for x in (state.model, state.optimizer))
    for name, parameter in parameters.items():
        its = [m for key, m in moments.items() if key.endswith(f"u.{name}")]
        # Muon keeps a single moment of a kernel.
        assert len(its) == (1 if optimizer == "muon" and name.endswith(".kernel") else 2), name
        assert all(m.sharding == parameter.sharding and m.shape == parameter.shape for m in its)


def test_a_fresh_state_lies_on_the_mesh_asked_for():
    state = fresh_state()
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(state)} == {single_mesh()}
