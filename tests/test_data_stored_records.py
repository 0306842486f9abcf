"""Records of published datasets that are in a file: equal to those in memory, and never stale."""

import os
import pickle
import shutil

import numpy as np
import pytest
from dataset_fixtures import build_root

from stts_jax.data.datasets import stored_records
from stts_jax.data.datasets.academic.shared import STORED_KINDS, Asked, VideoRecord
from stts_jax.data.datasets.base import dataset_class
from stts_jax.data.datasets.looked_at import Seen, is_unchanged, noting
from stts_jax.data.datasets.mixtures import VIDEO_ACADEMIC_ONLY, load_mixture, mixture
from stts_jax.data.datasets.reading import list_files, read_json
from stts_jax.data.datasets.stored_records import (
    StoredRecords,
    UnstorableError,
    decoded,
    encoded,
)

NAMES = sorted(share.dataset for group in mixture(VIDEO_ACADEMIC_ONLY) for share in group.shares)
KINDS = {kind.__name__: kind for kind in STORED_KINDS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build_root(tmp_path_factory.mktemp("video_datasets"))


@pytest.fixture
def root(whole, tmp_path, monkeypatch):
    """A root that may be changed; all datasets are stored, of any size and however new."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stored_records, "STORED_FROM", 1)
    monkeypatch.setattr(stored_records, "TIME_STEP", -(10**18))
    return shutil.copytree(whole, tmp_path / "root")


@pytest.fixture
def collected(monkeypatch):
    """Names of datasets whose annotations were read."""
    names = []
    made = dataset_class("tgif").__mro__[1]
    collect = made._collected
    monkeypatch.setattr(made, "_collected", lambda self: names.append(self.name) or collect(self))
    return names


def test_every_dataset_of_the_mixture_has_equal_examples(root, monkeypatch, collected):
    first = load_mixture(VIDEO_ACADEMIC_ONLY, root)
    again = load_mixture(VIDEO_ACADEMIC_ONLY, root)
    assert len(collected) == len(NAMES)
    monkeypatch.setattr(stored_records, "STORED_FROM", 10**9)
    monkeypatch.setattr(stored_records, "cache_file", lambda *_: root / "none")
    alone = load_mixture(VIDEO_ACADEMIC_ONLY, root)
    for one, other, plain in zip(first, again, alone, strict=True):
        assert isinstance(other.dataset.records, StoredRecords)
        assert isinstance(plain.dataset.records, list)
        assert (one.rate, len(one.dataset)) == (plain.rate, len(plain.dataset))
        assert list(one.dataset.records) == list(other.dataset.records) == plain.dataset.records
        for index in range(min(3, len(plain.dataset))):
            drawn = [made.dataset.get(index, np.random.RandomState(0)) for made in (other, plain)]
            assert drawn[0] == drawn[1]


def test_a_worker_is_sent_no_records(root):
    data = dataset_class("tgif")(root)
    sent = pickle.dumps(data)
    assert len(sent) < 2500
    assert list(pickle.loads(sent).records) == list(data.records)


@pytest.mark.parametrize("change", ["content", "times", "cache", "code"])
def test_records_are_read_again_where_something_changed(root, collected, change, monkeypatch):
    before = list(dataset_class("tgif")(root).records)
    annotations = root / "TGIF" / "Train_action_question.csv"
    if change == "content":
        lines = annotations.read_text().splitlines()
        annotations.write_text("\n".join(lines[:-1]) + "\n")
    elif change == "times":
        os.utime(annotations, ns=(5, 5))
    elif change == "cache":
        (path,) = (root.parent / "cache" / "stts_jax" / "indexes").iterdir()
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    else:
        monkeypatch.setattr(stored_records, "code_hash", lambda: "other")
    after = list(dataset_class("tgif")(root).records)
    assert collected == ["tgif", "tgif"]
    assert (after == before) is (change != "content")


def test_annotations_that_were_just_written_are_not_stored(root, collected, monkeypatch):
    monkeypatch.setattr(stored_records, "TIME_STEP", 10**18)
    for _ in range(2):
        assert isinstance(dataset_class("tgif")(root).records, list)
    assert collected == ["tgif", "tgif"]


def test_files_that_come_or_go_are_noticed(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "below").mkdir()

    def seen() -> Seen:
        with noting() as noted:
            read_json(tmp_path / "a.json")
            list_files(tmp_path, below=True)
        return noted

    for change in (
        lambda: (tmp_path / "b.mp4").write_bytes(b""),
        lambda: (tmp_path / "below" / "c.mp4").write_bytes(b""),
        lambda: (tmp_path / "a.json").write_text("[1]"),
        lambda: (tmp_path / "below" / "c.mp4").unlink(),
    ):
        noted = seen()
        assert is_unchanged(noted)
        change()
        assert not is_unchanged(noted)


def test_a_record_is_the_same_after_writing():
    record = VideoRecord(
        "a.mp4",
        (Asked("s", ("q",), ("a",)), Asked("s", ["q"], ("é",))),
        (0.1, 2.0),
        {(0.5, 1.0): "said"},
        {"example_id": "x", "options": ["a", None], 3: {"deep": (1, 2.5)}},
    )
    again = decoded(encoded(record, KINDS), KINDS)
    assert again == record
    assert type(again.drafts) is tuple and type(again.drafts[1].questions) is list


@pytest.mark.parametrize("value", [np.float32(1), object(), {1, 2}, b"a"])
def test_what_has_no_form_in_a_file_is_refused(value):
    with pytest.raises(UnstorableError):
        encoded([value], KINDS)
