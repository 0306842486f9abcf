"""Checkpoints are restored and kept, and damaged ones are refused in one sentence."""

import dataclasses
import errno
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from training_cases import (
    KEY,
    batch_for,
    fresh_state,
    full_disk,
    single_mesh,
    small_config,
    train_step,
)

from stts_jax.budget import row_budget
from stts_jax.config import replace
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import make_mesh
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing import save
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import (
    initialize_from,
    load_model,
    load_to_answer,
    save_model,
)
from stts_jax.training.checkpointing.restore import restore_latest
from stts_jax.training.checkpointing.run_folder import (
    checkpoint_steps,
    find_checkpoint,
    identity_of,
    require_writable,
)
from stts_jax.training.checkpointing.save import (
    Checkpoints,
    require_room,
)
from stts_jax.training.checkpointing.settings_changes import differing_keys
from stts_jax.training.step import abstract_state

DATA = {"parent": {"next_index": 3}, "counts": [1, 2]}
WITHOUT_SCORER = ("model.prune.method=none", "model.prune.topk=0")


def assert_equal(one, other):
    one, other = jax.device_get(named_parameters(one)), jax.device_get(named_parameters(other))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def shapes_of(config, mesh=None):
    return abstract_state(config, mesh or single_mesh())


def random_model(*overrides):
    """A model with the shapes of a setup, made without compiling its initialisers."""
    config = small_config(*overrides)
    rng = np.random.default_rng(0)
    return config, jax.tree.map(
        lambda leaf: jax.device_put(rng.standard_normal(leaf.shape, np.float32), leaf.sharding),
        shapes_of(config).model,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps, saved after each while the next one already goes on."""
    output, config = tmp_path_factory.mktemp("run"), small_config()
    config.save(output)
    state, saved = fresh_state(), []
    with Checkpoints(output, 2, small_config().data) as checkpoints:
        for step in (1, 2, 3):
            state, _ = train_step()(state, batch_for(config, step), KEY)
            saved.append(jax.tree.map(lambda leaf: np.array(leaf, copy=True), state))
            checkpoints.save(state, step, {"step": 10.0 * step}, {0: DATA | {"step": step}})
        for seed in range(3):
            state, _ = train_step()(state, batch_for(config, seed), KEY)
    return output, saved[-1]


def test_state_comes_back_bit_for_bit(run):
    output, saved = run
    state, progress = restore_latest(output, shapes_of(small_config()))
    assert_equal(state, saved)
    assert (progress.step, progress.seconds) == (3, {"step": 30.0})
    assert progress.data == [DATA | {"step": 3}]
    assert replace(small_config(), {"data": progress.data_settings}) == small_config()


def test_the_newest_are_kept(run):
    assert checkpoint_steps(run[0]) == [2, 3]


def test_state_comes_back_onto_another_mesh(run):
    output, saved = run
    abstract = shapes_of(small_config(), make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    state, _ = restore_latest(output, abstract)
    assert_equal(state, saved)
    assert all(
        leaf.sharding == wanted.sharding
        for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True)
    )


def test_no_checkpoint_is_no_error_for_a_new_run(tmp_path):
    assert restore_latest(tmp_path, shapes_of(small_config())) is None


def test_half_a_checkpoint_is_none(run, tmp_path):
    (tmp_path / "checkpoints" / "9" / "model").mkdir(parents=True)
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()
    assert checkpoint_steps(tmp_path) == []
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/2", "checkpoints/3"])
def test_a_model_loads_from_a_run_or_a_step(run, place):
    output, saved = run
    model, config = load_model(output / place, mesh=single_mesh())
    assert config == small_config()
    assert isinstance(model, VideoLanguageModel)
    if not place.endswith("2"):
        assert_equal(model, saved.model)


def test_a_model_that_answers_in_bfloat16_takes_half_the_memory_and_says_the_same(run):
    config = small_config("model.compute_dtype=bfloat16")
    whole, _ = load_model(run[0], config, single_mesh())
    half, _ = load_to_answer(run[0], config, single_mesh())
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(model)) for model in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    budget, batch = row_budget(config.model, config.data), batch_for(config, 0)

    @jax.jit
    def logits(model):
        hidden, rows = model(batch, budget, key=KEY)
        return model.llm.logits(hidden), rows.vision.scores

    for one, other in zip(logits(whole), logits(half), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_loads_without_the_scorer_it_does_not_use(run):
    config = small_config("model.prune.method=random")
    model, used = load_model(run[0], config, single_mesh())
    assert used == config
    assert model.scorer is None


def test_all_contradictions_are_listed(run):
    config = small_config("model.llm.tied_head=true", "model.vit.mlp_width=40")
    with pytest.raises(CheckpointError) as error:
        load_model(run[0], config)
    text = str(error.value)
    assert "'llm.head' is unexpected" in text
    assert "'vit.blocks.mlp.up.kernel' has shape (4, 16, 32) instead of (4, 16, 40)" in text
    assert "'scorer.second.kernel' has shape (32, 32) instead of (40, 40)" in text


def test_a_saved_model_reads_like_a_run(tmp_path):
    config, model = random_model(*WITHOUT_SCORER)
    save_model(model, config, tmp_path)
    loaded, its_config = load_model(tmp_path)
    assert its_config == config
    assert_equal(loaded, model)


def test_a_scorer_that_the_checkpoint_lacks_is_new(tmp_path):
    config, base = random_model(*WITHOUT_SCORER)
    save_model(base, config, tmp_path)
    fresh, notices = fresh_state().model, []
    model = initialize_from(fresh, tmp_path, notices.append)
    assert_equal(model.scorer, fresh.scorer)
    assert_equal(model.llm, base.llm)
    assert_equal(model.vit, base.vit)
    assert_equal(model.connector, base.connector)
    assert [text.endswith("has no scorer; a new one is initialised") for text in notices] == [True]


def test_a_scorer_that_the_model_lacks_is_left_out(run):
    _, model = random_model(*WITHOUT_SCORER)
    notices = []
    started = initialize_from(model, run[0], notices.append)
    assert_equal(started.llm, run[1].model.llm)
    assert "left out" in notices[0]


def test_starting_from_another_model_lists_what_differs(tmp_path):
    config, base = random_model(*WITHOUT_SCORER, "model.llm.mlp_width=40")
    save_model(base, config, tmp_path)
    with pytest.raises(CheckpointError, match=r"llm\.blocks\.mlp\.down\.kernel.*gate.*up"):
        initialize_from(fresh_state().model, tmp_path, print)


def test_errors_name_the_folder_and_the_remedy(tmp_path, run):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*give the --output"):
        load_model(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"folder '.*file/run' cannot be written"):
        require_writable(tmp_path / "file" / "run")
    config, model = random_model(*WITHOUT_SCORER)
    save_model(model, config, tmp_path / "bare")
    (tmp_path / "bare" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no config\.json with checkpoint"):
        load_model(tmp_path / "bare")


def test_differing_keys_name_both_values():
    one = small_config().model
    other = dataclasses.replace(one, vit=dataclasses.replace(one.vit, width=24), remat="blocks")
    assert differing_keys(one, other, "model") == [
        "model.vit.width=16 (saved: 24)",
        "model.remat=none (saved: blocks)",
    ]
    assert differing_keys(one, one, "model") == []


def test_a_checkpoint_holds_plain_names(run):
    saved = ocp.checkpointables_metadata(find_checkpoint(run[0]))
    assert set(saved.metadata["model"]) == set(named_parameters(fresh_state().model))
    assert json.loads(json.dumps(saved.custom_metadata))["step"] == 3


def copied(run, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(run[0], output)
    return output, output / "checkpoints" / "3"


def cut_short(folder):
    """Cuts the largest file in half, like a crash of the machine."""
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def without_the_optimizer(folder):
    shutil.rmtree(folder / "optimizer")


def without_sense(folder):
    (folder / "_CHECKPOINT_METADATA").write_text("{")


@pytest.mark.parametrize("harm", [cut_short, without_the_optimizer, without_sense])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(run, tmp_path, harm):
    output, newest = copied(run, tmp_path)
    harm(newest)
    notices = []
    state, progress = restore_latest(output, shapes_of(small_config()), notices.append)
    assert progress.step == int(state.step) == 2
    assert len(notices) == 1 and f"checkpoint '{newest}' is damaged (" in notices[0]
    assert checkpoint_steps(output) == [2] and (output / "damaged" / "3").is_dir()
    cut_short(output / "checkpoints" / "2")
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged.*--no-resume"):
        restore_latest(output, shapes_of(small_config()), notices.append)


def without_its_list(folder):
    (folder / "model" / "_METADATA").unlink()


def without_arrays(folder):
    for path in arrays_of(folder):
        path.unlink()


def with_stumps(folder):
    for path in arrays_of(folder):
        path.write_bytes(path.read_bytes()[:100])


def half_written(folder):
    """Cuts the largest file of the parameters in half."""
    cut_short(folder / "model")


def without_the_end(folder):
    (folder / "_CHECKPOINT_METADATA").unlink()


def arrays_of(folder):
    files = (path for path in (folder / "model").rglob("*") if path.is_file())
    return [path for path in files if path.name != "_METADATA"]


HARMS = [without_its_list, without_arrays, with_stumps, half_written, without_the_end]


@pytest.mark.parametrize("harm", HARMS)
def test_a_model_from_damaged_files_is_refused_in_a_sentence(run, tmp_path, harm, capfd, caplog):
    _, newest = copied(run, tmp_path)
    harm(newest)
    said = rf"^checkpoint '{newest}' is damaged or incomplete \(.+\); copy it again$"
    for load in (lambda: load_model(newest), lambda: initialize_from(fresh_state().model, newest)):
        with pytest.raises(CheckpointError, match=said) as error:
            load()
        assert "\n" not in str(error.value)
    printed = capfd.readouterr()
    assert (printed.out, printed.err, caplog.text) == ("", "", "")


@pytest.mark.parametrize("harm", [without_the_end, without_sense])
def test_a_checkpoint_without_a_date_has_no_identity(run, tmp_path, harm):
    _, newest = copied(run, tmp_path)
    assert identity_of(newest)["saved_ns"] > 0
    harm(newest)
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        identity_of(newest)


def test_a_run_whose_only_checkpoint_lacks_files_has_none(run, tmp_path):
    output, newest = copied(run, tmp_path)
    shutil.rmtree(output / "checkpoints" / "2")
    without_the_end(newest)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* but that of step 3, of which"):
        load_model(output)


@pytest.mark.parametrize(
    ("reader", "error"),
    [
        ("load.load_parameters", MemoryError("no memory")),
        ("load.load_parameters", jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")),
        ("opened.open_arrays", PermissionError(errno.EACCES, "Permission denied")),
        ("opened.open_arrays", ValueError("PERMISSION_DENIED: Error opening file")),
    ],
)
def test_trouble_that_is_not_the_files_is_not_called_damage(run, monkeypatch, reader, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(f"stts_jax.training.checkpointing.{reader}", fail)
    with pytest.raises(CheckpointError, match=r"a reason that isn't its files'") as raised:
        load_model(run[0])
    assert str(error) in str(raised.value) and "damaged" not in str(raised.value)


def test_another_setup_is_no_damage(run, tmp_path):
    output, newest = copied(run, tmp_path)
    with pytest.raises(CheckpointError, match="doesn't fit this setup"):
        restore_latest(output, shapes_of(small_config("model.vit.mlp_width=40")))
    assert newest.is_dir()


def test_the_best_is_kept_beside_the_newest(tmp_path):
    state = fresh_state()
    with Checkpoints(tmp_path, 1, small_config().data) as checkpoints:
        assert checkpoints.best is None
        for step, accuracy in ((1, 0.2), (2, 0.7), (3, None), (4, None)):
            checkpoints.save(state, step, {}, {0: None})
            if accuracy:
                checkpoints.mark_best(step, accuracy)
    assert checkpoint_steps(tmp_path) == [2, 4]
    with Checkpoints(tmp_path, 1, small_config().data) as checkpoints:
        assert checkpoints.best == {"step": 2, "accuracy": 0.7}
        checkpoints.save(state, 5, {}, {0: None})
        checkpoints.mark_best(5, 0.9)
        checkpoints.save(state, 6, {}, {0: None})
    assert checkpoint_steps(tmp_path) == [5, 6]


def disk_with(monkeypatch, free):
    usage = SimpleNamespace(free=free)
    monkeypatch.setattr(save.shutil, "disk_usage", lambda _: usage)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    config = small_config()
    state = shapes_of(config)
    require_room(tmp_path, state, config.train)
    disk_with(monkeypatch, 1000)
    with pytest.raises(
        CheckpointError, match=r"has 0\.00 GB left, but a checkpoint takes 0\.00 GB and"
    ):
        require_room(tmp_path, state, config.train)


@pytest.mark.parametrize(
    ("settings", "there", "needed"),
    [
        (("train.keep_checkpoints=2",), 0, 3),
        (("train.keep_checkpoints=2",), 2, 1),
        (("train.keep_checkpoints=2",), 9, 1),
        (("train.keep_checkpoints=2", "train.evaluate_every=2"), 0, 4),
        (("train.keep_checkpoints=2", "train.evaluate_every=2", "train.keep_best=false"), 1, 2),
        (("train.keep_checkpoints=9",), 0, 5),  # no more are made: at 2, 4, 6, 8, and when stopped
        (("train.keep_checkpoints=9", "train.save_every=0"), 0, 1),
    ],
)
def test_a_run_needs_room_for_what_it_keeps_and_one_more(
    tmp_path, monkeypatch, settings, there, needed
):
    config = small_config("train.steps=8", "train.save_every=2", *settings).train
    state = shapes_of(small_config())
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    monkeypatch.setattr(save, "checkpoint_steps", lambda _: list(range(there)))
    disk_with(monkeypatch, needed * size)
    require_room(tmp_path, state, config)
    disk_with(monkeypatch, needed * size - 1)
    more = "one more is" if needed == 1 else f"{needed} more are"
    with pytest.raises(CheckpointError, match=f"{more} to be written.*lower train.keep_check"):
        require_room(tmp_path, state, config)


def test_a_disk_that_fills_up_in_the_middle_is_one_sentence(tmp_path):
    state = fresh_state()
    with (
        full_disk(4096),
        pytest.raises(CheckpointError, match=r"the checkpoint in .* cannot be written: .*room"),
        Checkpoints(tmp_path, 1, small_config().data) as checkpoints,
    ):
        checkpoints.save(state, 1, {}, {0: None})
    assert checkpoint_steps(tmp_path) == []
