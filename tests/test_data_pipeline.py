"""Batches of training, made of files."""

import json
import multiprocessing
import re
import shutil
from pathlib import Path

import grain
import jax
import numpy as np
import pytest
from deadly_worker import length_or_death
from procedural_set import config_for, lines, make_set

from stts_jax.budget import batch_arrays, row_budget
from stts_jax.config import ConfigError, load_config
from stts_jax.data.bad_examples import BadExamples, BadExamplesError, Unreadable
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.mixture_order import Draw
from stts_jax.data.pipeline import TrainingBatches, _accept_flags, training_batches
from stts_jax.data.sources.configured import changed_sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory)


def test_batches_are_what_the_contract_says(folder):
    config = config_for(folder)
    with training_batches(config) as batches:
        batch = next(batches)
        contract = batch_arrays(batches.budget, config.model, 4)
    assert {k: (v.shape, v.dtype) for k, v in batch.to_arrays().items()} == contract
    assert (batch.num_images == 8).all() and (batch.text.loss_masks > 0).any(1).all()


def test_the_stream_goes_on_where_it_was_saved(folder):
    for overrides in ([], ["data.row_frames=24", "data.row_examples=3", "data.max_frames=5"]):
        config = config_for(folder, "data.row_text_tokens=600", *overrides)
        with training_batches(config) as batches:
            for _ in range(3):
                next(batches)
            state = json.loads(json.dumps(batches.get_state()))
            expected = [next(batches) for _ in range(2)]
        with training_batches(config) as batches:
            batches.set_state(state)
            for batch in expected:
                jax.tree.map(np.testing.assert_array_equal, batch, next(batches))


def test_a_place_without_fingerprints_is_gone_on_from(folder):
    with training_batches(config_for(folder)) as batches:
        next(batches)
        state = batches.get_state()
        expected = next(batches)
    older = state["stream"]
    with training_batches(config_for(folder)) as batches:
        assert changed_sources(batches.get_state(), older) == []
        batches.set_state(older)
        assert (next(batches).text.input_ids == expected.text.input_ids).all()


def test_a_file_of_other_content_is_noticed_and_a_copy_is_not(folder, tmp_path):
    def state_of(config):
        with training_batches(config) as batches:
            return json.loads(json.dumps(batches.get_state()))

    before = state_of(config_for(folder))
    shutil.copytree(folder, tmp_path / "set")
    assert changed_sources(state_of(config_for(tmp_path / "set")), before) == []
    path = tmp_path / "set" / "train.jsonl"
    path.write_text(path.read_text().replace("left", "LEFT").replace("blue", "BLUE"))
    assert changed_sources(state_of(config_for(tmp_path / "set")), before) == ["train.jsonl"]


def test_short_videos_fill_a_row_together(folder):
    config = config_for(
        folder, "data.max_frames=4", "data.row_frames=12", "data.row_examples=3",
        "data.row_text_tokens=700", "data.batch_rows=2",
    )  # fmt: skip
    with training_batches(config) as batches:
        batch = next(batches)
    assert (batch.num_images == 4).all()
    assert set(np.unique(batch.text.subsegment_ids // 100000)) == {-1, 0, 1, 2}


def test_rows_are_counted_as_they_are_handed_over(folder):
    with training_batches(config_for(folder)) as batches:
        found = [next(batches) for _ in range(3)]
        rates = batches.fill_rates
    assert rates.rows == 12
    used = sum((batch.num_images.clip(0)).sum() for batch in found)
    assert rates.as_dict()["frames"] == used / (12 * rates.budget.frames)


def test_epochs_see_every_example_once_in_a_new_order(folder):
    def seen(batch):
        return [row.tobytes() for row in batch.images]

    config = config_for(folder)
    with training_batches(config) as batches:
        assert batches.examples == 24
        epochs = [[v for _ in range(6) for v in seen(next(batches))] for _ in range(2)]
    assert set(epochs[0]) == set(epochs[1]) and len(set(epochs[0])) == 24
    assert epochs[0] != epochs[1]


def test_processes_share_the_examples(folder):
    config = config_for(folder)
    seen = []
    for index in range(2):
        with training_batches(config, process_index=index, process_count=2) as batches:
            seen.append([r.tobytes() for _ in range(6) for r in next(batches).images])
    assert len(seen[0]) == 12 and len(set(seen[0]) | set(seen[1])) == 24
    with pytest.raises(ConfigError, match="not a multiple of the 3 processes"):
        training_batches(config, process_count=3)


def test_worker_processes_make_equal_batches_without_jax(folder):
    """Importing it would be over half of their memory, and most of their start."""
    with training_batches(config_for(folder, "data.workers=1")) as batches:
        with_workers = next(batches)
        (worker,) = multiprocessing.active_children()
        assert "jaxlib" not in Path(f"/proc/{worker.pid}/maps").read_text()
    with training_batches(config_for(folder)) as batches:
        without = next(batches)
    jax.tree.map(np.testing.assert_array_equal, with_workers, without)


def broken_copy(folder, target, count):
    shutil.copytree(folder, target)
    broken = sorted((target / "train").glob("*.mp4"))[:count]
    for path in broken:
        path.write_bytes(b"")
    return broken


def test_a_bad_video_is_left_out_and_named(folder, tmp_path):
    (broken,) = broken_copy(folder, tmp_path / "set", 1)
    with training_batches(config_for(tmp_path / "set")) as batches:
        for _ in range(12):
            next(batches)
        assert len(batches.bad.reasons) == 1 and str(broken) in batches.bad.report()


def test_too_many_bad_videos_stop_the_run_with_a_report(folder, tmp_path):
    broken = broken_copy(folder, tmp_path / "set", 8)
    with (
        training_batches(config_for(tmp_path / "set")) as batches,
        pytest.raises(BadExamplesError, match=r"data.max_bad_share=0\.1") as raised,
    ):
        for _ in range(12):
            next(batches)
    assert any(str(path) in str(raised.value) for path in broken)


def test_a_file_that_ends_a_worker_process_is_one_sentence_with_the_remedy(folder):
    config = config_for(folder)
    stream = grain.MapDataset.source(["deadly"]).map(length_or_death).to_iter_dataset()
    _accept_flags()
    stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=1))
    stream = grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=1)
    budget = row_budget(config.model, config.data)
    with (
        TrainingBatches(stream, budget, BadExamples(1, 0.1), config.model) as batches,
        pytest.raises(DatasetError, match=r"died \(exit code -9\); .*stts_jax.data check --decode"),
    ):
        next(batches)


def long_answer(folder, target, tokens):
    """The set, with an answer of so many digits."""
    shutil.copytree(folder, target)
    path = target / "train.jsonl"
    first, *rest = lines(path)
    first["answer"] = "7" * tokens
    path.write_text("\n".join(map(json.dumps, [first, *rest])))


def test_an_example_that_fits_no_row_is_left_out_and_named(folder, tmp_path, caplog):
    long_answer(folder, tmp_path / "set", 1000)
    with training_batches(config_for(tmp_path / "set")) as batches:
        for _ in range(12):
            next(batches)
        ((name, reason),) = batches.bad.reasons.items()
    assert re.match(
        r"it has \d+ tokens, \d+ more than a row holds; raise data.row_text_tok",
        reason,
    )
    assert f"skipping {name}: {reason}" in caplog.text


def test_rows_too_small_for_many_examples_stop_the_run_with_the_remedy(folder):
    with (
        training_batches(config_for(folder, "data.row_text_tokens=64")) as batches,
        pytest.raises(BadExamplesError, match=r"raise data.row_text_tokens"),
    ):
        for _ in range(12):
            next(batches)


def test_a_line_that_is_too_long_costs_itself_alone(folder, tmp_path, caplog):
    video = folder / lines(folder / "train.jsonl")[0]["video"]
    asked = [{"video": str(video), "question": f"q{n}", "answer": "a"} for n in range(5)]
    asked[3]["question"] = "word " * 900
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)))
    config = config_for(folder, f"data.train={path}", "data.batch_rows=1", "data.max_bad_share=0.2")
    with training_batches(config) as batches:
        batch = next(batches)
        assert list(batches.bad.reasons) == ["long.jsonl:4"]
    # Four branches and the trunk that they share.
    assert len(set(batch.text.subsegment_ids.ravel().tolist()) - {-1}) == 5
    assert re.search(r"skipping long.jsonl:4: it has \d+ tokens.* raise data.row_text", caplog.text)


def test_a_run_ends_where_nothing_is_of_use_though_all_may_be_bad(tmp_path):
    path = tmp_path / "bad.jsonl"
    asked = [{"video": f"{n}.mp4", "question": "q", "answer": "a"} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, asked)))
    config = load_config("tiny", [f"data.train={path}", "data.max_bad_share=1"])
    with (
        training_batches(config) as batches,
        pytest.raises(BadExamplesError, match=r"not one of the 3 examples can be used") as raised,
    ):
        next(batches)
    assert all(f"bad.jsonl:{n}: " in str(raised.value) for n in (1, 2, 3))


def test_a_dataset_of_a_mixture_of_which_nothing_is_of_use_ends_the_run():
    bad = BadExamples(1002, 1.0, (1000, 2))
    for index in (0, 0, 1):
        bad.see("a", Draw(0, index, 0))
        bad.add(Unreadable(f"b{index % 2}", "empty", draw=Draw(1, 0, index)))
    with pytest.raises(BadExamplesError, match="not one of the 2 examples of one of the datasets"):
        bad.add(Unreadable("b1", "empty", draw=Draw(1, 1, 0)))


def test_one_example_that_is_of_use_is_enough():
    bad = BadExamples(3, 1.0, (3,))
    for epoch in range(3):
        for index in (1, 2):
            bad.add(Unreadable(f"b{index}", "empty", draw=Draw(0, index, epoch)))
        bad.see("b0", Draw(0, 0, epoch))
    assert len(bad.reasons) == 2
