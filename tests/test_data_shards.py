"""Shards: the batches they give, how they are made in parts and again, and what is refused."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys

import grain
import jax
import numpy as np
import pytest
from dataset_fixtures import build_root

from stts_jax.buckets import address
from stts_jax.config import ConfigError, load_config
from stts_jax.data.__main__ import main
from stts_jax.data.bad_examples import Unreadable
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import Dataset, DatasetError, SourceExample
from stts_jax.data.datasets.mixtures import VIDEO_ACADEMIC_ONLY
from stts_jax.data.mixture_order import Draw
from stts_jax.data.pipeline import training_batches
from stts_jax.data.reader import Reader
from stts_jax.data.shards import writing
from stts_jax.data.shards.example_record import from_record
from stts_jax.data.shards.frame_coding import FrameCoding
from stts_jax.data.shards.storing import ShardError
from stts_jax.data.shards.writing import Part, write_shards
from stts_jax.data.sources.configured import sources_of
from stts_jax.data.sources.source import Source
from stts_jax.data.synthetic import ensure_synthetic

VIDEOS = 6
PER_SHARD = 3
CODINGS = [None, FrameCoding()]
NAMES = ["clips", "frames"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Own data of both kinds: videos, a clip of one, pictures, and what can't be read."""
    folder = ensure_synthetic(tmp_path_factory.mktemp("own") / "set", videos=VIDEOS, progress=False)
    found = [*_lines(folder / "train.jsonl"), *_lines(folder / "pictures.jsonl")[:4]]
    video = found[0]["video"]
    found.append({"video": video, "clip": [1.0, 2.5], "question": "What?", "answer": "a"})
    found.append({"video": video, "subtitle": "Hello.", "question": "Who?", "answer": "b"})
    found.append({"video": "gone.mp4", "question": "What?", "answer": "c"})
    (folder / "damaged.mp4").write_bytes((folder / video).read_bytes()[:900])
    found.append({"video": "damaged.mp4", "question": "What?", "answer": "d"})
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in found))
    return path


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def config_for(train, *overrides):
    room = ["data.row_text_tokens=512", "data.batch_rows=2", "data.max_bad_share=1.0"]
    return load_config("tiny", [f"data.train={train}", *room, "data.wording=templates", *overrides])


@pytest.fixture(scope="module", params=CODINGS, ids=NAMES)
def shards(request, lines, tmp_path_factory):
    """A folder of shards of those data."""
    out = tmp_path_factory.mktemp("shards") / "made"
    write_shards(config_for(lines), str(out), coding=request.param, per_shard=PER_SHARD)
    return out


@pytest.fixture(scope="module")
def clips(lines, tmp_path_factory):
    out = tmp_path_factory.mktemp("clips") / "made"
    write_shards(config_for(lines), str(out), per_shard=PER_SHARD)
    return out


def assert_equal_batches(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ------------------------------------------------------------------------------- what is trained on


@pytest.mark.parametrize("wording", ["plain", "templates"])
def test_batches_are_those_of_the_data_themselves(wording, lines, shards):
    settings = [f"data.wording={wording}"]
    with (
        training_batches(config_for(lines, *settings)) as plain,
        training_batches(config_for(f"shards:{shards}", *settings)) as stored,
    ):
        for _ in range(2 * plain.examples // 2):  # two epochs
            assert_equal_batches(next(plain), next(stored))
        assert plain.get_state() == stored.get_state()
        assert plain.bad.reasons == stored.bad.reasons and len(plain.bad.reasons) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_goes_on_from_where_one_without_shards_stood(count, lines, shards):
    plain = config_for(lines)
    for part in range(count):
        options = {"process_index": part, "process_count": count}
        with training_batches(plain, **options) as before:
            next(before)
            state = json.loads(json.dumps(before.get_state()))
            with training_batches(config_for(f"shards:{shards}"), **options) as after:
                after.set_state(state)
                for _ in range(3):
                    assert_equal_batches(next(before), next(after))


@pytest.mark.parametrize("coding", CODINGS, ids=NAMES)
def test_published_data_are_drawn_as_without_shards(coding, tmp_path):
    root = build_root(tmp_path / "root")
    listed = [
        {"dataset": name, "split": "train", "index": 0} for name in ("tgif", "star", "how2qa")
    ]
    listed.append({"dataset": "tgif", "split": "train", "index": 1})
    (tmp_path / "usable.jsonl").write_text("".join(json.dumps(one) + "\n" for one in listed))
    named = f"mixture:{VIDEO_ACADEMIC_ONLY}"
    plain = config_for(named, f"data.root={root}", f"data.usable={tmp_path}/usable.jsonl")
    write_shards(plain, str(tmp_path / "out"), coding=coding, per_shard=2)
    readers = [reader_of(plain), reader_of(config_for(f"shards:{tmp_path}/out"))]
    sources, stored = readers[0].sources, readers[1].sources
    for one, other in zip(sources, stored, strict=True):
        assert (one.rate, one.weight, len(one)) == (other.rate, other.weight, len(other))
        assert one.fingerprint() == other.fingerprint()
    for number, source in enumerate(sources):
        for index in range(len(source)):
            for epoch in range(3):
                assert_equal_items(*(read(Draw(number, index, epoch)) for read in readers))


def reader_of(config):
    sources = sources_of(config, "train")
    chains = tuple(chain_of(config, p_high_res=source.p_high_res or 0.0) for source in sources)
    return Reader(sources, chains, config.data, seed=0)


def assert_equal_items(one, other):
    if isinstance(one, Unreadable):
        assert one == other
        return
    arrays = [item.pop("example") for item in (one, other)]
    assert one == other and arrays[0].keys() == arrays[1].keys()
    for name in arrays[0]:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name])


def test_worker_processes_are_sent_no_examples(lines, shards):
    reader = reader_of(config_for(f"shards:{shards}"))
    there = reader(Draw(0, 0, 0))
    sent = pickle.dumps(reader.sources)
    assert len(sent) < 4000
    again = dataclasses.replace(reader, sources=pickle.loads(sent))
    assert_equal_items(there, again(Draw(0, 0, 0)))


def test_frames_are_read_without_a_decoder(lines, tmp_path, monkeypatch):
    write_shards(config_for(lines), str(tmp_path), coding=FrameCoding(), per_shard=100)
    monkeypatch.setattr("stts_jax.data.media.read_sampled", None)
    item = reader_of(config_for(f"shards:{tmp_path}"))(Draw(0, 0, 0))
    assert item["sizes"]["frames"] == 8


def test_jpeg_frames_are_nearly_the_same_and_have_another_fingerprint(lines, tmp_path):
    coding = FrameCoding.named("jpeg:95")
    write_shards(config_for(lines), str(tmp_path), coding=coding, per_shard=100)
    (plain,) = sources_of(config_for(lines), "train")
    (stored,) = sources_of(config_for(f"shards:{tmp_path}"), "train")
    assert stored.fingerprint() == f"{plain.fingerprint()}:jpeg:95"
    items = [reader_of(config_for(x))(Draw(0, 0, 0)) for x in (lines, f"shards:{tmp_path}")]
    images = [item["example"].pop("images").astype(int) for item in items]
    assert 0 < np.abs(images[0] - images[1]).mean() < 4
    for name, value in items[0]["example"].items():
        np.testing.assert_array_equal(value, items[1]["example"][name])


def test_grain_reads_the_records_by_number(clips):
    files = sorted(map(str, clips.glob("*.array_record")))
    records = grain.sources.ArrayRecordDataSource(files)
    (source,) = sources_of(config_for(f"shards:{clips}"), "train")
    assert len(records) == len(source)
    for number in (0, len(source) - 1):
        assert from_record(records[number], FrameCoding()).name == source.called(number)


class Shaken(Dataset):
    """Frames that are drawn again in each epoch."""

    name, splits = "shaken", ("train",)

    def read(self):
        return [self.root / "a.mp4"]

    def example(self, record, rng):
        sampler = {"frame_sample_mode": "uniform_last_frame_sample_fps", "max_fps": (1.0, 3.0)}
        asked = {"style": "user_qa", "question": "What?", "answer": "a"}
        return SourceExample((asked,), record, metadata={"sampler_overrides": sampler})


def test_where_frames_are_random_the_clip_is_stored(lines, tmp_path, monkeypatch):
    shutil.copy(lines.parent / _lines(lines)[0]["video"], tmp_path / "a.mp4")
    source = Source(Shaken(tmp_path))
    monkeypatch.setattr(writing, "sources_of", lambda *_: (source,))
    config = config_for("synthetic")
    done = write_shards(config, str(tmp_path / "out"), coding=FrameCoding(), per_shard=1)
    assert [info.clips for info in done.infos] == [1]
    stored = sources_of(config_for(f"shards:{tmp_path}/out"), "train")
    chain = chain_of(config)
    readers = [Reader((one,), (chain,), config.data, 0) for one in (source, *stored)]
    for epoch in range(3):
        assert_equal_items(*(read(Draw(0, 0, epoch)) for read in readers))


class Drawn(Shaken):
    """Examples of which something else is random."""

    def example(self, record, rng):
        return dataclasses.replace(super().example(record, rng), clip=(0.0, 1.0 + rng.rand()))


def test_a_dataset_that_draws_something_else_is_refused(lines, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "sources_of", lambda *_: (Source(Drawn(tmp_path)),))
    with pytest.raises(ShardError, match="'shaken' draws its examples in a manner"):
        write_shards(config_for("synthetic"), str(tmp_path / "out"), per_shard=1)


# ----------------------------------------------------------------------------- how they are made


def test_parts_make_the_same_files_in_any_order(lines, clips, tmp_path):
    config = config_for(lines)
    done = write_shards(config, str(tmp_path), part=Part(1, 2), per_shard=PER_SHARD)
    assert done.missing == -(-done.manifest.shards // 2)
    with pytest.raises(DatasetError, match=rf"of the \d+ shards .* {done.missing} are not made"):
        sources_of(config_for(f"shards:{tmp_path}"), "train")
    done = write_shards(config, str(tmp_path), part=Part(0, 2), per_shard=PER_SHARD)
    assert done.missing == 0 and contents(tmp_path) == contents(clips)


def test_what_is_there_is_kept_and_what_is_cut_off_is_made_again(lines, clips, tmp_path):
    out = shutil.copytree(clips, tmp_path / "out")
    config = config_for(lines)
    assert write_shards(config, str(out), per_shard=PER_SHARD).made == 0
    first, second, third = sorted(out.glob("*.array_record"))[:3]
    first.write_bytes(first.read_bytes()[:-100])
    second.unlink()
    third.with_name(f"{third.name}.json").write_text("{")
    assert write_shards(config, str(out), per_shard=PER_SHARD).made == 3
    assert contents(out) == contents(clips)


KILLED = """
import os, signal, sys
from stts_jax.config import load_config
from stts_jax.data.shards import storing, writing
to_record, count = storing.to_record, 0
def counted(*given):
    global count
    count += 1
    if count == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return to_record(*given)
storing.to_record = counted
config = load_config("tiny", ["data.train=" + sys.argv[1], "data.wording=templates"])
writing.write_shards(config, sys.argv[2], per_shard=int(sys.argv[3]))
"""


def test_after_a_kill_finished_shards_stay_and_the_rest_is_made(lines, clips, tmp_path):
    command = [sys.executable, "-c", KILLED, str(lines), str(tmp_path), str(PER_SHARD)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    finished = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("examples*.array_record")}
    assert len(finished) == 7 // PER_SHARD and list(tmp_path.glob(".examples*"))
    write_shards(config_for(lines), str(tmp_path), per_shard=PER_SHARD)
    assert contents(tmp_path) == contents(clips)
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in finished.items())


def test_the_command_says_what_it_made(lines, tmp_path, capsys):
    command = ["shard", "--file", str(lines), "--out", str(tmp_path / "out"), "--per-shard", "4"]
    assert main([*command, "--part", "0/2"]) == 0
    assert "shards are still to be made" in capsys.readouterr().out
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "were there" in said and "1 examples could not be read" in said


def test_speed_compares_shards_with_files(capsys):
    assert main(["speed", "--shards", "--made-clip", "0.3", "--examples", "2"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "bytes/example" in head and [row.split("  ")[0] for row in rows] == [
        "files",
        "shards: clips",
        "frames: lossless",
        "frames: jpeg:95",
    ]


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--part", "2/2"], "--part is '2/2'; use i/n, with i from 0 to n - 1"),
        (["--part=-1/2"], "--part is '-1/2'; use i/n"),
        (["--frames", "png", "--config", "tiny"], "--frames is 'png'; use lossless, jpeg"),
        (["--frames", "jpeg:0", "--config", "tiny"], "--frames is 'jpeg:0'; use lossless, jpeg"),
        (["--frames"], "--frames is given without --config; name the setup that will be trained"),
        (["--per-shard", "0"], "--per-shard is 0; take 1 to"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(flags, message, lines, tmp_path, capsys):
    assert main(["shard", "--file", str(lines), "--out", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes", [["data.max_frames=4"], ["data.fps=1.0"], ["data.questions_per_video=3"]]
)
def test_other_settings_of_frames_are_refused(changes, lines, tmp_path):
    write_shards(config_for(lines), str(tmp_path), coding=FrameCoding(), per_shard=100)
    name, _, value = changes[0].partition("=")
    with pytest.raises(DatasetError, match=rf"were made with {name}=.*, and this run has {value}"):
        sources_of(config_for(f"shards:{tmp_path}", *changes), "train")


def test_clips_are_for_any_settings_of_frames(lines, clips):
    settings = ("data.max_frames=4", "data.fps=1.0")
    readers = [reader_of(config_for(x, *settings)) for x in (lines, f"shards:{clips}")]
    assert_equal_items(*(read(Draw(0, 0, 0)) for read in readers))


def test_a_folder_of_other_shards_or_files_is_left_alone(lines, clips, tmp_path):
    before = contents(clips)
    with pytest.raises(ShardError, match=r"were made otherwise: per_shard 3, not 5; name another"):
        write_shards(config_for(lines), str(clips), per_shard=5)
    with pytest.raises(ShardError, match="media clips, not lossless"):
        write_shards(config_for(lines), str(clips), coding=FrameCoding(), per_shard=3)
    other = shutil.copy(lines, lines.with_name("other.jsonl"))
    with pytest.raises(ShardError, match=r"of other examples of 'mine\.jsonl'"):
        write_shards(config_for(other), str(clips), per_shard=3)
    assert contents(clips) == before
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ShardError, match="holds other files"):
        write_shards(config_for(lines), str(tmp_path), per_shard=5)


def test_of_two_runs_that_begin_at_once_with_other_options_one_is_refused(
    lines, clips, tmp_path, monkeypatch
):
    write = writing._write_shard

    def overtaken(target, *arguments):
        info = write(target, *arguments)
        shutil.copy(clips / "manifest.json", target / "manifest.json")
        return info

    monkeypatch.setattr(writing, "_write_shard", overtaken)
    with pytest.raises(ShardError, match="made otherwise: per_shard 3, not 100"):
        write_shards(config_for(lines), str(tmp_path), per_shard=100)
    assert not (tmp_path / "complete.json").exists()


def test_shards_are_for_training_alone(clips):
    with pytest.raises(ConfigError, match=r"data.validation is 'shards:.*for training alone"):
        config_for("synthetic", f"data.validation=shards:{clips}")
    with pytest.raises(ConfigError, match=r"data.usable is 'a', and shards hold what was taken"):
        config_for(f"shards:{clips}", "data.usable=a")


def test_an_address_without_what_reads_it_is_named(monkeypatch, lines):
    monkeypatch.setattr(address.importlib.util, "find_spec", lambda _: None)
    message = r"'gs://a/b' cannot be opened: gcsfs is not installed; install it with `pip install"
    with pytest.raises(DatasetError, match=message):
        sources_of(config_for("shards:gs://a/b"), "train")
    with pytest.raises(DatasetError, match=message):
        write_shards(config_for(lines), "gs://a/b", per_shard=1)


def test_missing_and_cut_off_files_are_named(clips, tmp_path):
    with pytest.raises(DatasetError, match=r"manifest.json' does not exist; name the folder that"):
        sources_of(config_for(f"shards:{tmp_path}/none"), "train")
    out = shutil.copytree(clips, tmp_path / "out")
    first = min(out.glob("*.array_record"))
    size = first.stat().st_size
    os.truncate(first, size - 1)
    with pytest.raises(DatasetError, match=rf"'.*{first.name}' has {size - 1:,} bytes"):
        sources_of(config_for(f"shards:{out}"), "train")
    first.unlink()
    with pytest.raises(DatasetError, match=rf"'.*{first.name}' does not exist"):
        sources_of(config_for(f"shards:{out}"), "train")


@pytest.mark.parametrize("name", ["manifest.json", "complete.json"])
def test_a_damaged_description_is_named(name, clips, tmp_path):
    out = shutil.copytree(clips, tmp_path / "out")
    found = json.loads((out / name).read_text())
    wrong = ["[]", "{", "[" * 100_000, json.dumps(found | {"version": 2})]
    if name == "manifest.json":
        wrong.append(json.dumps(found | {"per_shard": "3"}))
        wrong.append(json.dumps(found | {"media": "png"}))
        wrong.append(json.dumps(found | {"sources": [found["sources"][0] | {"examples": -1}]}))
    else:
        wrong[-1] = json.dumps(found | {"manifest": "0"})
        wrong.append(json.dumps(found | {"shards": found["shards"][1:]}))
    for text in wrong:
        (out / name).write_text(text)
        with pytest.raises(DatasetError, match=rf"'.*{name}' is damaged or of another version"):
            sources_of(config_for(f"shards:{out}"), "train")


def test_changed_bytes_of_a_shard_cost_their_examples_alone(clips, tmp_path):
    out = shutil.copytree(clips, tmp_path / "out")
    first = min(out.glob("*.array_record"))
    content = bytearray(first.read_bytes())
    for position in range(500, len(content) // 2, 97):
        content[position] ^= 0xFF
    first.write_bytes(content)
    reader = reader_of(config_for(f"shards:{out}"))
    found = reader(Draw(0, 0, 0))
    assert isinstance(found, Unreadable)
    assert f"{first.name}' can't be read" in found.reason and "copy the file again" in found.reason
    assert not isinstance(reader(Draw(0, PER_SHARD, 0)), Unreadable)


def test_faults_of_a_clip_name_the_file_that_it_was(lines, clips):
    found = [reader_of(config_for(x)) for x in (lines, f"shards:{clips}")]
    items = [
        [read(Draw(0, index, 0)) for index in range(len(found[0].sources[0]))] for read in found
    ]
    faults = [[item for item in read if isinstance(item, Unreadable)] for read in items]
    assert len(faults[0]) == 2 and faults[0] == faults[1]
