"""Runs that train adapters or the scorer alone: what moves, what is saved, what they start from."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from adapter_cases import lora_config, lora_step, save_base, train_adapters, write_adapters
from training_cases import KEY, batch_for, single_mesh, small_config

from stts_jax.budget import row_budget
from stts_jax.config import ConfigError, load_config
from stts_jax.layers.lora import merged_kernel
from stts_jax.parallel.mesh import make_mesh
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.adapters.names import adapted_layers, is_adapter, name_in_base
from stts_jax.training.checkpointing import base as checkpointing_base
from stts_jax.training.checkpointing.adapted_start import adapted_state, open_start
from stts_jax.training.checkpointing.base import BASE
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import load_model, load_to_answer, save_model
from stts_jax.training.checkpointing.restore import restore_latest
from stts_jax.training.checkpointing.run_folder import find_checkpoint
from stts_jax.training.checkpointing.stored_arrays import open_arrays
from stts_jax.training.optimizer import is_trained
from stts_jax.training.step import abstract_state, make_train_step

WITHOUT_SCORER = ("model.prune.method=none", "model.prune.topk=0")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    output = tmp_path_factory.mktemp("adapters") / "run"
    train_adapters(output, base)
    return output


def state_of(config, base, mesh=None):
    start = open_start(base)
    return adapted_state(config, mesh or single_mesh(), KEY, start, lambda line: None)


def host(tree):
    return jax.device_get(named_parameters(tree))


def test_adapters_and_scorer_move_and_nothing_else_does(base):
    state = state_of(lora_config(), base)
    before = host(state.model)
    after = host(lora_step()(state, batch_for(lora_config(), 0), KEY)[0].model)
    moved = {name for name in before if (before[name] != after[name]).any()}
    expected = {n for n in before if n.startswith("scorer.") or n.endswith("lora_b")}
    # A bias on keys shifts all logits of a query alike; while B is 0, A has no gradient.
    assert {n for n in expected if not n.endswith("key.bias")} <= moved <= expected


def test_only_what_is_trained_has_moments(base):
    state = abstract_state(lora_config(), single_mesh())
    trained = [n for n in named_parameters(state.model) if is_trained(n, lora_config().train)]
    owners = {next(n for n in trained if key.endswith(f".{n}")) for key in moments_of(state)}
    assert owners == set(trained)
    assert all(is_adapter(n) or n.startswith("scorer.") for n in trained)


def moments_of(state):
    return [key for key, leaf in named_parameters(state.optimizer).items() if leaf.ndim]


def test_a_new_run_computes_what_its_base_does(base):
    state = state_of(lora_config(), base)
    whole = named_parameters(load_model(base)[0])
    for name, leaf in named_parameters(state.model).items():
        if not is_adapter(name):
            np.testing.assert_array_equal(leaf, whole[name_in_base(name)], err_msg=name)
        elif name.endswith("lora_b"):
            assert not np.asarray(leaf).any()


def test_a_checkpoint_holds_no_parameter_of_the_base(run):
    names = open_arrays(find_checkpoint(run) / "model").keys()
    assert names == {
        name
        for name in named_parameters(abstract_state(lora_config(), single_mesh()).model)
        if is_adapter(name) or name.startswith("scorer.")
    }


def test_a_run_resumes_to_the_bit(base, run, tmp_path):
    with pytest.raises(KilledError):
        train_adapters(tmp_path / "run", base, "train.save_every=2", on_step=killed_after(2))
    train_adapters(tmp_path / "run", base)
    abstract = abstract_state(lora_config(), single_mesh())
    frozen = {
        name: leaf
        for name, leaf in named_parameters(state_of(lora_config(), base).model).items()
        if not is_trained(name, lora_config().train)
    }
    once, again = (
        restore_latest(folder, abstract, print, frozen)[0] for folder in (run, tmp_path / "run")
    )
    for part in ("model", "optimizer"):
        ours, theirs = host(getattr(once, part)), host(getattr(again, part))
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


class KilledError(Exception):
    pass


def killed_after(last):
    def on_step(step, metrics):
        if step > last:
            raise KilledError

    return on_step


def test_a_loaded_model_has_the_adapters_merged(base, run, report_error):
    model, config = load_model(run)
    assert config.train.lora.rank == 2
    own = {n: a.read().result() for n, a in open_arrays(find_checkpoint(run) / "model").items()}
    whole, loaded = host(load_model(base)[0]), host(model)
    layers = adapted_layers(own)
    assert whole.keys() == loaded.keys() and len(layers) == 7 + 4
    scale = config.train.lora.alpha / config.train.lora.rank
    for name, array in loaded.items():
        wanted = own.get(name, whole[name])
        if (layer := name.removesuffix(".kernel")) in layers:
            wanted = merged_kernel(whole[name], *layers[layer], scale, np.float32)
            assert (array != whole[name]).any()
        error = np.abs(array - wanted).max()
        report_error("merged on loading", error, 1e-6)
        assert error <= 1e-6, name


def test_another_base_is_refused(base, run, tmp_path):
    other = jax.tree.map(lambda leaf: 1.5 * np.asarray(leaf), load_model(base)[0])
    save_model(other, small_config(), tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"are not those that .* was trained from"):
        load_model(run, base=tmp_path / "other")


def test_a_base_that_moved_can_be_named(base, run, tmp_path):
    shutil.copytree(base, tmp_path / "moved")
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((run / BASE).read_text())
    (tmp_path / "run" / BASE).write_text(json.dumps(record | {"path": str(tmp_path / "gone")}))
    with pytest.raises(CheckpointError, match=r"holds adapters alone, and their base .*gone"):
        load_model(tmp_path / "run")
    moved = host(load_model(tmp_path / "run", base=tmp_path / "moved")[0])
    for name, array in host(load_model(run)[0]).items():
        np.testing.assert_array_equal(array, moved[name])
    train_adapters(tmp_path / "run", tmp_path / "moved")  # nothing is left to train


def test_a_new_whole_run_in_the_same_folder_forgets_the_base(tmp_path):
    checkpointing_base.save_base(checkpointing_base.Base("a", "b"), tmp_path)
    assert checkpointing_base.recorded_base(tmp_path).path == "a"
    checkpointing_base.save_base(None, tmp_path)
    assert checkpointing_base.recorded_base(tmp_path) is None


def test_a_base_for_a_whole_model_is_refused(base):
    with pytest.raises(CheckpointError, match="is a whole model and belongs to no base"):
        load_model(base, base=base)


def test_a_run_without_a_base_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.lora\.rank is set, but there is no model"):
        train_adapters(tmp_path / "run", None)
    with pytest.raises(ConfigError, match=r"train\.freeze is set, but there is no model"):
        config = small_config('train.freeze=["llm"]')
        train_adapters(tmp_path / "run", None, config=config)


def test_a_run_goes_on_from_adapters_of_another(base, run):
    config = lora_config()
    ours, saved = host(state_of(config, run).model), open_arrays(find_checkpoint(run) / "model")
    for name, array in saved.items():
        np.testing.assert_array_equal(ours[name], array.read().result(), err_msg=name)
    assert open_start(run).base == open_start(base).base


def test_a_frozen_part_that_another_run_has_trained_is_refused(base, tmp_path):
    run = write_adapters(tmp_path / "run", base, "train.lora.rank=0", 'train.freeze=["vit"]')
    with pytest.raises(CheckpointError, match=r"has trained 'connector.* merge the two first"):
        state_of(lora_config(), run)


@pytest.mark.parametrize(
    ("setting", "said"), [("train.lora.rank=3", "rank=2"), ("train.lora.alpha=5", "alpha=16.0")]
)
def test_other_adapters_are_refused(run, setting, said):
    with pytest.raises(CheckpointError, match=said):
        state_of(lora_config(setting), run)


@pytest.mark.parametrize(
    "setting", ["train.lora.rank=3", "train.lora.alpha=5", 'train.lora.targets=["llm"]']
)
def test_a_run_with_other_adapters_is_not_resumed(base, run, setting):
    with pytest.raises(CheckpointError, match="another optimizer state"):
        train_adapters(run, base, config=lora_config(setting))


def test_the_scorer_alone_is_trained_with_all_else_frozen():
    config = small_config('train.freeze=["llm", "vit", "connector"]')
    state = abstract_state(config, single_mesh())
    assert all(".scorer." in key for key in moments_of(state))


def test_a_frozen_part_is_held_in_the_type_that_is_computed_in():
    settings = ('train.freeze=["llm", "vit"]', "model.compute_dtype=bfloat16")
    state = abstract_state(small_config(*settings), single_mesh())
    for name, leaf in named_parameters(state.model).items():
        half = name.startswith(("vit.", "llm.")) and name.endswith((".kernel", "embedding", "head"))
        half &= name not in ("llm.extra_embedding", "vit.position_embedding")
        assert leaf.dtype == ("bfloat16" if half else "float32"), name


def test_a_frozen_model_of_int8_has_its_scales():
    state = abstract_state(lora_config("train.frozen_weights=int8"), single_mesh())
    named = named_parameters(state.model)
    assert named["llm.blocks.query.base.kernel"].dtype == "int8"
    assert named["llm.blocks.query.base.scale"].shape == (2, 16)
    assert named["llm.embedding"].dtype == "int8" and named["llm.embedding_scale"].shape == (64,)
    assert named["connector.pooler.query.kernel"].dtype == "float32"
    assert named["llm.blocks.query.lora_a"].dtype == "float32"


def test_adapters_are_merged_before_weights_are_quantised(run, report_error):
    whole, half = host(load_model(run)[0]), load_to_answer(run, weights="int8")[0]
    layer = half.llm.blocks.query
    kernel = layer.kernel[...] * layer.scale[...][:, None]
    error = np.abs(kernel - whole["llm.blocks.query.kernel"]).max()
    largest = np.abs(whole["llm.blocks.query.kernel"]).max()
    report_error("merged, then int8", error / largest, 0.5 / 127)
    assert error <= 0.51 / 127 * largest


def test_the_state_of_the_4b_takes_little_more_than_its_weights():
    config = load_config("molmo2_4b_lora", ["model.compute_dtype=bfloat16"])
    state = abstract_state(config, make_mesh(devices=jax.devices()[:1]))
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    named = named_parameters(state.model)
    trained = {n: x for n, x in named.items() if is_trained(n, config.train)}
    frozen = size(named) - size(trained)
    assert 8.8e9 < frozen < 9.1e9 and size(trained) < 0.3e9
    assert size(state.optimizer) < 2.01 * size(trained)


@pytest.mark.parametrize("setting", ["train.frozen_weights=int8", "train.lora.dropout=0.1"])
def test_a_vit_in_bins_with_int8_or_dropout_is_refused(tmp_path, base, setting):
    config = lora_config(setting, "model.prune.layout=first_fit")
    with pytest.raises(ConfigError, match=r"layout is first_fit"):
        train_adapters(tmp_path / "run", base, config=config)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("train.frozen_weights=int8", 'train.freeze=["llm"]'), "but ViT or LLM are trained"),
        (('train.freeze=["scorer"]',), "choose from llm, vit, connector"),
        (('train.freeze=["llm","vit","connector"]', *WITHOUT_SCORER), "nothing to train"),
        (("train.lora.rank=-1",), "use 0 (no adapters) or more"),
        (("train.lora.dropout=1",), "use 0 to below 1"),
        (("train.lora.targets=[]",), "train.lora.targets is empty"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(settings, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        small_config(*settings)


def test_adapters_of_no_known_layer_are_refused():
    with pytest.raises(ConfigError, match=r"train\.lora\.targets has 'lm'; choose from llm"):
        small_config("train.lora.rank=2", 'train.lora.targets=["lm"]')


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"fsdp": 2, "data": 4}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_sharded_step_is_the_step_of_one_device(base, shape, report_error):
    config, mesh = lora_config(), make_mesh(shape)
    step = make_train_step(config, row_budget(config.model, config.data), mesh)
    sharded, ours = step(state_of(config, base, mesh), batch_for(config, 0, mesh), KEY)
    single, theirs = lora_step()(state_of(config, base), batch_for(config, 0), KEY)
    for name, value in theirs.items():
        assert float(ours[name]) == pytest.approx(float(value), rel=1e-4), name
    for name, array in host(single.model).items():
        error = np.abs(array - host(sharded.model)[name]).max()
        report_error("sharded step", error, 5e-4)
        assert error < 5e-4, name


@pytest.mark.slow
def test_accumulated_gradients_are_those_of_the_batch(base, report_error):
    config = lora_config("train.accumulate=2")
    step = make_train_step(config, row_budget(config.model, config.data), single_mesh())
    batch = batch_for(config, 0)
    ours, theirs = (own(state_of(config, base), batch, KEY)[1] for own in (step, lora_step()))
    for name in ("loss", "gradient_norm/llm", "gradient_norm/vit", "gradient_norm/scorer"):
        error = abs(float(ours[name]) / float(theirs[name]) - 1)
        report_error("accumulated", error, 1e-4)
        assert error < 1e-4, name


@pytest.mark.slow
def test_adapters_of_a_frozen_model_of_int8_are_trained(base):
    config = lora_config("train.frozen_weights=int8")
    step = make_train_step(config, row_budget(config.model, config.data), single_mesh())
    state, losses = state_of(config, base), []
    before = host(state.model)
    for _ in range(4):
        state, metrics = step(state, batch_for(config, 0), KEY)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    _, whole = lora_step()(state_of(lora_config(), base), batch_for(lora_config(), 0), KEY)
    assert losses[0] == pytest.approx(float(whole["loss"]), rel=0.05)
    after = host(state.model)
    assert all((before[n] == after[n]).all() for n in before if not is_trained(n, config.train))


@pytest.mark.slow
def test_adapters_with_dropout_are_trained_in_all_parts(base):
    config = lora_config("train.lora.dropout=0.2", 'train.lora.targets=["llm","vit","connector"]')
    step = make_train_step(config, row_budget(config.model, config.data), single_mesh())
    state, losses = state_of(config, base), []
    for _ in range(4):
        state, metrics = step(state, batch_for(config, 0), KEY)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
