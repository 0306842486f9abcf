"""Data in a bucket give the batches that they give on a disk, with a bounded cache in between."""

import itertools
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from dataset_fixtures import build_root

from stts_jax.buckets import local_cache as cache
from stts_jax.buckets.address import joined, path_of
from stts_jax.config import load_config
from stts_jax.data.__main__ import INCOMPLETE, main
from stts_jax.data.bad_examples import Unreadable
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import dataset_class, dataset_names
from stts_jax.data.fetching import AHEAD, FetchAhead
from stts_jax.data.mixture_order import Draw
from stts_jax.data.pipeline import training_batches
from stts_jax.data.reader import Reader
from stts_jax.data.shards.writing import write_shards
from stts_jax.data.sources.configured import sources_of
from stts_jax.data.sources.own_data import OwnDataError
from stts_jax.data.sources.usable import Selection, read_usable
from stts_jax.data.synthetic import ensure_synthetic


@pytest.fixture(scope="module", autouse=True)
def cached_in(tmp_path_factory):
    """The folder of the cache, in place of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.FOLDER, str(folder))
        cache.local_cache.cache_clear()
        yield folder
    cache.local_cache.cache_clear()


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Own data of both kinds, and what can't be read."""
    folder = ensure_synthetic(tmp_path_factory.mktemp("own") / "set", videos=4, progress=False)
    found = [*lines_of(folder / "train.jsonl"), *lines_of(folder / "pictures.jsonl")[:2]]
    (folder / "said.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    found.append({**found[0], "subtitle": "said.srt"})
    found.append({"video": "gone.mp4", "question": "What?", "answer": "c"})
    (folder / "damaged.mp4").write_bytes((folder / found[0]["video"]).read_bytes()[:900])
    found.append({"video": "damaged.mp4", "question": "What?", "answer": "d"})
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in found))
    return path


@pytest.fixture(scope="module")
def uploaded(lines, bucket):
    """The same file and its media in a bucket."""
    for file in lines.parent.rglob("*"):
        if file.is_file() and file.suffix != ".index":
            (bucket / "set" / file.relative_to(lines.parent)).write_bytes(file.read_bytes())
    return bucket / "set" / lines.name


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def config_for(train):
    room = ("data.row_text_tokens=700", "data.batch_rows=2", "data.max_bad_share=1.0")
    return load_config("tiny", [f"data.train={train}", *room])


def read_all(config):
    """What the reader makes of every example."""
    (source,) = sources_of(config, "train")
    reader = Reader((source,), (chain_of(config),), config.data, config.data.seed)
    reader = pickle.loads(pickle.dumps(reader))  # as worker processes get it
    return [reader(Draw(0, index, 0)) for index in range(len(source))]


def assert_same(found, expected, here, there):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, Unreadable):
            assert one.reason == other.reason.replace(str(here), str(there))
        else:
            jax.tree.map(np.testing.assert_array_equal, one["example"], other["example"])


@pytest.fixture(scope="module")
def read_on_disk(lines):
    return read_all(config_for(lines))


def test_examples_of_a_bucket_are_those_of_a_disk(lines, uploaded, read_on_disk):
    assert sum(isinstance(found, Unreadable) for found in read_on_disk) == 2
    found = read_all(config_for(uploaded))
    assert_same(found, read_on_disk, lines.parent, uploaded.parent)


def test_lines_of_a_disk_name_media_of_a_bucket(lines, uploaded, read_on_disk, tmp_path):
    with (tmp_path / "named.jsonl").open("w") as file:
        for line in lines_of(lines):
            for field in ("video", "subtitle"):
                if field in line:
                    line[field] = str(uploaded.parent / line[field])
            if "images" in line:
                line["images"] = [str(uploaded.parent / image) for image in line["images"]]
            file.write(json.dumps(line) + "\n")
    found = read_all(config_for(tmp_path / "named.jsonl"))
    assert_same(found, read_on_disk, lines.parent, uploaded.parent)


def test_the_pipeline_reads_a_bucket_and_resumes(lines, uploaded):
    with training_batches(config_for(lines)) as here, training_batches(config_for(uploaded)) as own:
        for one, other in itertools.islice(zip(here, own, strict=True), 3):
            jax.tree.map(np.testing.assert_array_equal, one.to_arrays(), other.to_arrays())
        state, after = own.get_state(), next(own)
    with training_batches(config_for(uploaded)) as again:
        again.set_state(state)
        jax.tree.map(np.testing.assert_array_equal, next(again).to_arrays(), after.to_arrays())


def test_media_are_fetched_ahead_of_need(uploaded, cached_in, monkeypatch, tmp_path):
    monkeypatch.setenv(cache.FOLDER, str(tmp_path))
    cache.local_cache.cache_clear()
    (source,) = sources_of(config_for(uploaded), "train")
    draws = [Draw(0, index % len(source), 0) for index in range(2 * AHEAD)]
    ahead = FetchAhead((source,), draws, 0, 0)
    assert ahead(0, draws[0]) == draws[0]
    wanted = {source.get(index, np.random.RandomState(0)).video for index in (1, 2, 3)}
    end = time.monotonic() + 30
    while len(list(tmp_path.glob("media/*/*.mp4"))) < len(wanted):
        assert time.monotonic() < end, "nothing is fetched"
        time.sleep(0.01)
    cache.local_cache.cache_clear()


def test_data_of_a_bucket_are_checked(lines, uploaded, bucket, tmp_path):
    for file, folder in ((lines, tmp_path), (uploaded, bucket / "found")):
        found = ["--report", f"{folder}/report.json", "--write-usable", f"{folder}/usable.jsonl"]
        assert main(["check", "--file", str(file), "--workers", "0", *found]) == INCOMPLETE
    here, there = (
        (folder / "report.json").read_text().replace(str(file.parent), "")
        for file, folder in ((lines, tmp_path), (uploaded, bucket / "found"))
    )
    assert there == here
    (missing,) = json.loads(here)["datasets"][0]["missing"]
    assert missing == "/gone.mp4"
    usable = read_usable(bucket / "found/usable.jsonl")
    (kept,) = read_usable(tmp_path / "usable.jsonl").values()
    assert usable == {Selection(str(uploaded), None): kept} and len(kept) == 4


PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
THEIRS = (
    {"video": "clips/a.mp4", "question": "Who?", "answer": "A dog."},
    {"video": "gs://other/b.mp4", "question": "Who?", "answer": "A cat."},
    {"images": [PICTURE], "question": "Who?", "answer": "No one."},
)


def test_data_are_converted_from_a_bucket_and_into_one(bucket, tmp_path):
    source, target = bucket / "theirs/a.jsonl", bucket / "ours/b.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in THEIRS))
    (tmp_path / "a.jsonl").write_text(source.read_text())
    assert main(["convert", str(source), str(target)]) == 0
    video, other, picture = lines_of(target)
    assert video["video"] == f"{bucket}/theirs/clips/a.mp4"
    assert other["video"] == "gs://other/b.mp4"
    (named,) = picture["images"]
    assert named.startswith("b_media/") and (target.parent / named).read_bytes()[:4] == b"GIF8"
    (tmp_path / "ours").mkdir()
    assert main(["convert", str(source), str(tmp_path / "ours/b.jsonl")]) == 0
    assert lines_of(tmp_path / "ours/b.jsonl") == lines_of(target)
    assert main(["convert", str(tmp_path / "a.jsonl"), str(target)]) == 0
    assert lines_of(target)[0]["video"] == f"{tmp_path}/clips/a.mp4"
    assert main(["convert", str(tmp_path / "a.jsonl"), str(tmp_path / "ours/c.jsonl")]) == 0
    moved = [line["video"] for line in lines_of(tmp_path / "ours/c.jsonl")[:2]]
    assert moved == ["../clips/a.mp4", "gs://other/b.mp4"]


def test_what_is_wrong_with_a_file_of_a_bucket_is_said_of_the_file(bucket, capsys):
    source = bucket / "wrong.jsonl"
    source.write_text('{"video": "a.mp4"}\n')
    assert main(["convert", str(source), str(bucket / "ours.jsonl")]) == 2
    assert f"{source}:1: " in capsys.readouterr().err and not (bucket / "ours.jsonl").exists()
    assert main(["convert", str(source), str(source)]) == 2
    assert f"'{source}' is what is read" in capsys.readouterr().err


def test_shards_are_written_to_a_bucket_and_read_from_it(lines, uploaded, bucket):
    written = write_shards(config_for(uploaded), str(bucket / "shards"), per_shard=3)
    again = write_shards(config_for(uploaded), str(bucket / "shards"), per_shard=3)
    assert written.made == written.manifest.shards > 1 and again.made == 0
    with (
        training_batches(config_for(lines)) as plain,
        training_batches(config_for(f"shards:{bucket}/shards")) as stored,
    ):
        for one, other in itertools.islice(zip(plain, stored, strict=True), 3):
            jax.tree.map(np.testing.assert_array_equal, one.to_arrays(), other.to_arrays())


def test_a_cache_is_bounded_and_forgets_what_was_used_longest_ago(bucket, tmp_path, monkeypatch):
    own = cache.LocalCache(tmp_path, most_bytes=3000)
    files = [bucket / f"cached/{number}.mp4" for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 1000)
    first = [own.fetch(file) for file in files[:3]]
    for age, copy in enumerate(first):
        os.utime(copy, ns=(age, copy.stat().st_mtime_ns))
    with own.opened(files[1]):  # the oldest after the first, but in use
        os.utime(first[1], ns=(1, first[1].stat().st_mtime_ns))
        own.fetch(files[3])
        own.fetch(files[4])
    assert [copy.exists() for copy in first] == [False, True, False]
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 3000
    assert own.fetch(files[4]).read_bytes() == bytes([4]) * 1000


def test_a_large_file_is_fetched_in_pieces_and_a_changed_one_again(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "PIECE", 1000)
    content = np.random.default_rng(0).bytes(23_456)
    (bucket / "large.bin").write_bytes(content)
    assert cache.LocalCache(tmp_path, 10**6).fetch(bucket / "large.bin").read_bytes() == content
    (bucket / "large.bin").write_bytes(b"other")
    assert cache.LocalCache(tmp_path, 10**6).fetch(bucket / "large.bin").read_bytes() == b"other"


@pytest.mark.parametrize(
    ("folder", "named", "whole"),
    [
        ("gs://b/data", "clips/a.mp4", "gs://b/data/clips/a.mp4"),
        ("gs://b/data", "../a.mp4", "gs://b/a.mp4"),
        ("gs://b/data", "gs://c/a.mp4", "gs://c/a.mp4"),
        ("gs://b/data", "/disk/a.mp4", "/disk/a.mp4"),
        ("/disk", "../a.mp4", "/disk/../a.mp4"),
        ("data", "gs://c/a.mp4", "gs://c/a.mp4"),
    ],
)
def test_paths_are_relative_to_the_file_that_names_them(folder, named, whole):
    assert str(joined(path_of(folder), named)) == whole


def test_a_file_that_is_not_in_a_bucket_is_named(bucket):
    with pytest.raises(
        OwnDataError, match=rf"'{bucket}/none.jsonl' does not exist; check the path"
    ):
        sources_of(config_for(bucket / "none.jsonl"), "train")


@pytest.fixture(scope="module")
def published(tmp_path_factory, bucket):
    """Roots of published data: on a disk, and in a bucket."""
    root = build_root(tmp_path_factory.mktemp("video_datasets"))
    with ThreadPoolExecutor(8) as threads:
        files = [file for file in root.rglob("*") if file.is_file()]
        targets = [bucket / "published" / file.relative_to(root) for file in files]
        list(
            threads.map(lambda file, target: target.write_bytes(file.read_bytes()), files, targets)
        )
    return root, bucket / "published"


def test_published_data_of_a_bucket_are_those_of_a_disk(published):
    here, there = published
    compared = 0
    for name in dict.fromkeys(dataset_class(name).name for name in dataset_names()):
        if not dataset_class(name).__module__.startswith("stts_jax.data.datasets.academic"):
            continue
        own, other = dataset_class(name)(here), dataset_class(name)(there)
        assert len(own) == len(other) > 0, name
        for index in range(len(own)):
            found, wanted = (
                repr(dataset.get(index, np.random.RandomState(0))) for dataset in (other, own)
            )
            assert plain(found, there) == plain(wanted, here), name
        compared += 1
    assert compared > 20


def plain(text, root):
    """What is said of an example, with paths relative to the root."""
    return text.replace(str(root), "").replace("BucketPath", "Path").replace("PosixPath", "Path")
