"""What a split can name: own files, published datasets, mixtures, and parts of them."""

from __future__ import annotations

import contextlib
import shutil
import threading
from multiprocessing import spawn

import jax
import numpy as np
import pytest
from dataset_fixtures import build_root

from stts_jax.budget import batch_arrays
from stts_jax.config import ConfigError, load_config
from stts_jax.data import synthetic
from stts_jax.data.bad_examples import Unreadable
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.example_chain import example_rng
from stts_jax.data.mixture_order import Draw
from stts_jax.data.pipeline import training_batches
from stts_jax.data.questions import question_of
from stts_jax.data.reader import Reader
from stts_jax.data.sources.configured import sources_of
from stts_jax.data.sources.usable import Selection, write_usable
from stts_jax.data.synthetic import write_video
from stts_jax.data.worker_start import MAIN, light_workers

MIXTURE = "mixture:all-v5-video-academic-only"


LONG_SECONDS = 150  # the clips of all fixtures lie within


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All fixtures, with a video wherever an example says that there is one."""
    folder = build_root(tmp_path_factory.mktemp("video_datasets"))
    video = tmp_path_factory.mktemp("video") / "long.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (LONG_SECONDS, 32, 48, 3), np.uint8)
    write_video(video, frames, fps=1)
    for source in sources_of(config_for(folder, f"data.train={MIXTURE}"), "train"):
        for index in range(len(source)):
            path = source.get(index, example_rng(index, 0)).video
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, path)
    return folder


def config_for(root, *overrides):
    room = ["data.max_frames=2", "data.row_frames=4", "data.row_examples=2"]
    text = ["data.row_text_tokens=6000", "data.batch_rows=2", "data.max_bad_share=1"]
    return load_config("tiny", [f"data.root={root}", *room, *text, *overrides])


def test_a_mixture_makes_batches_of_the_contract(root):
    config = config_for(root, f"data.train={MIXTURE}")
    with training_batches(config) as batches:
        for _ in range(3):
            batch = next(batches)
            contract = batch_arrays(batches.budget, config.model, 2)
            assert {k: (v.shape, v.dtype) for k, v in batch.to_arrays().items()} == contract
            assert (batch.text.loss_masks > 0).any(1).all()
        assert not batches.bad.reasons


def test_every_example_of_the_mixture_can_be_read(root):
    config = config_for(root, f"data.train={MIXTURE}")
    sources = sources_of(config, "train")
    reader = Reader(sources, (chain_of(config),) * len(sources), config.data, seed=0)
    for number, source in enumerate(sources):
        for index in range(len(source)):
            read = reader(Draw(number, index, 0))
            assert not isinstance(read, Unreadable), read
            assert read["example"]["loss_masks"].any()


def test_a_stream_goes_on_where_it_was_left(root):
    config = config_for(root, f"data.train={MIXTURE}")
    with training_batches(config) as batches:
        next(batches)
        state = batches.get_state()
        expected = [next(batches) for _ in range(3)]
    with training_batches(config) as batches:
        batches.set_state(state)
        for wanted in expected:
            found = next(batches)
            jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_examples_look_other_in_another_epoch_and_for_another_seed(root):
    config = config_for(root, "data.train=dataset:tgif", "data.row_examples=1")

    def texts(*overrides):
        with training_batches(config_for(root, "data.train=dataset:tgif", *overrides)) as batches:
            count = 2 * batches.examples
            return [next(batches).text.input_ids.tobytes() for _ in range(count)]

    with training_batches(config) as batches:
        assert batches.examples == len(sources_of(config, "train")[0])
    assert texts() == texts() and texts() != texts("data.seed=1")


def test_only_what_is_usable_is_taken(root, tmp_path):
    listed = tmp_path / "usable.jsonl"
    write_usable(listed, {Selection("tgif", "train"): [1], Selection("star", "train"): [0]})
    config = config_for(root, f"data.train={MIXTURE}", f"data.usable={listed}")
    sources = sources_of(config, "train")
    assert {s.dataset.name: [s.number(i) for i in range(len(s))] for s in sources} == {
        "star": [0],
        "tgif": [1],
    }
    write_usable(listed, {Selection("tgif", "train"): [0]})
    with pytest.raises(ConfigError, match="lists no example of this data"):
        sources_of(config_for(root, "data.train=dataset:star", f"data.usable={listed}"), "train")


def test_a_list_of_what_is_trained_on_leaves_other_splits_whole(root, tmp_path):
    listed = tmp_path / "usable.jsonl"
    validation = ["data.validation=dataset:perception_test:validation", f"data.usable={listed}"]
    config = config_for(root, "data.train=dataset:tgif", *validation)
    write_usable(listed, {Selection("tgif", "train"): [1]})
    (source,) = sources_of(config, "validation")
    assert len(source) == len(source.dataset) and len(sources_of(config, "train")[0]) == 1
    write_usable(listed, {Selection("perception_test", "validation"): [0]})
    (source,) = sources_of(config, "validation")
    assert source.number(0) == 0 and source.indices is not None


@pytest.mark.parametrize("dataset", ["tgif", "star", "perception_test:test"])
def test_examples_that_are_not_one_question_with_its_answer_are_refused(root, dataset):
    (source,) = sources_of(config_for(root, f"data.test=dataset:{dataset}"), "test")
    with pytest.raises(DatasetError, match="is not one question with the text of its answer"):
        question_of(source.get(0, example_rng(0, 0)))


def test_unknown_names_and_missing_roots_are_named(root):
    with pytest.raises(DatasetError, match="no mixture is called 'x'"):
        sources_of(config_for(root, "data.train=mixture:x"), "train")
    with pytest.raises(DatasetError, match="no dataset is called 'x'"):
        sources_of(config_for(root, "data.train=dataset:x"), "train")
    with pytest.raises(ConfigError, match=r"data.root is empty, but 'dataset:tgif'"):
        load_config("tiny", ["data.train=dataset:tgif"])


def test_the_set_is_made_by_processes_that_leave_the_program_alone(monkeypatch):
    class Pool(contextlib.nullcontext):
        def __init__(self, mp_context):
            super().__init__(self)
            self.map = map

    monkeypatch.setattr(synthetic, "ProcessPoolExecutor", Pool)
    with synthetic._mapping(synthetic.MANY_VIDEOS):
        assert spawn.get_preparation_data("worker")["init_main_from_name"] == MAIN


@pytest.mark.parametrize(("name", "light"), [("grain-process-0", True), ("SpawnProcess-1", False)])
def test_of_other_threads_grain_alone_starts_light_workers(name, light):
    found = {}

    def start():
        found.update(spawn.get_preparation_data(name))

    with light_workers():
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    assert (found.get("init_main_from_name") == MAIN) == light
    assert spawn.get_preparation_data("grain").get("init_main_from_name") != MAIN
