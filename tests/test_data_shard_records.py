"""Records of shards: an example as bytes and back, its clip as a file, and what is refused."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from stts_jax.config import load_config
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.media import MediaCache, MediaError
from stts_jax.data.shards.example_record import StoredExample, from_record, to_record
from stts_jax.data.shards.frame_coding import FrameCoding
from stts_jax.data.shards.record import MAGIC, RecordError, packed, unpacked
from stts_jax.data.stored_media import StoredClip, StoredFrames


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_clip_is_a_file_of_its_content_and_ending_while_it_is_open(in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    for name, ending in (("a/b.h264", ".h264"), ("a/b", ""), ("a/b.\0/", "")):
        with StoredClip(name, b"content").opened() as path:
            assert (path.suffix, path.read_bytes(), path.is_file()) == (ending, b"content", True)
        assert not path.parent.exists()


def stored_example(**fields):
    asked = {"style": "user_qa", "question": "What\ud83d?", "answer": "é"}
    video = StoredFrames(
        np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3),
        np.array([0.0, 0.1 + 0.2]),
        2.0,
        None,
        (640, 360),
    )
    example = SourceExample(
        annotations=(asked,),
        video=Path("a/b.mp4"),
        clip=(1, 2.5),
        subtitle={(0.0, 1.5): "Hello."},
        metadata={"ids": ("a", "b"), "points": [[1, 2.0]]},
        names=("a.jsonl:1",),
        literal=True,
        stored=video,
    )
    return StoredExample(7, "a.jsonl:1", dataclasses.replace(example, **fields))


def test_a_record_returns_the_example():
    stored = stored_example()
    found = from_record(to_record(stored, FrameCoding()), FrameCoding())
    video, before = found.example.stored, stored.example.stored
    assert dataclasses.replace(found.example, stored=before) == stored.example
    assert [type(second) for second in found.example.clip] == [int, float]
    np.testing.assert_array_equal(video.frames, before.frames)
    np.testing.assert_array_equal(video.timestamps, before.timestamps)
    assert (video.target_fps, video.video_size) == (2.0, (640, 360))


def test_changed_records_are_refused_whatever_is_changed():
    records = [
        to_record(stored_example(), coding) for coding in (FrameCoding(), FrameCoding(90))
    ] + [to_record(stored_example(stored=StoredClip("a/b.mp4", b"clip")), FrameCoding())]
    random = np.random.RandomState(0)
    for number in range(1500):
        record = bytearray(records[number % 3])
        for _ in range(random.randint(1, 4)):
            record[random.randint(min(len(record), 700))] = random.randint(256)
        if number % 5 == 0:
            del record[random.randint(len(record)) :]
        coding = FrameCoding(90) if number % 3 == 1 else FrameCoding()
        try:
            found = from_record(bytes(record), coding)
        except RecordError:
            continue
        assert isinstance(found, StoredExample)


@pytest.mark.parametrize("number", ["Infinity", "NaN", "[[]]"])
def test_a_number_that_is_none_is_refused(number):
    record = to_record(stored_example(), FrameCoding())
    described, parts = unpacked(record)
    record = packed(described | {"number": json.loads(number)}, parts)
    with pytest.raises(RecordError, match="its description is of another form"):
        from_record(record, FrameCoding())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "has 0 bytes, fewer than any record"),
        (b"\x80\x04" + b"." * 30, "does not begin as a record"),
        (MAGIC + b"\xff\xff\xff\xff", "its description would have"),
        (MAGIC + b"\x02\0\0\0{}", "does not list the sizes of its parts"),
        (packed({}, [b"abc"])[:-1], "its parts would end at"),
        (packed({}, [b"abc"]) + b"d", "its parts would end at"),
    ],
)
def test_lengths_of_a_record_are_checked(record, message):
    with pytest.raises(RecordError, match=message):
        unpacked(record)


def test_a_frame_is_not_decoded_that_is_larger_than_it_should_be():
    large = FrameCoding(50).encoded(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(RecordError, match=r"a frame is a picture of \(64, 64\) in RGB"):
        FrameCoding(50).decoded(large, (1, 32, 32, 3))
    with pytest.raises(RecordError, match="not frames of the shape"):
        FrameCoding().decoded([b"abc"], (1 << 40, 1 << 20, 1 << 20, 3))


def test_frames_of_another_size_than_the_models_are_refused():
    example = stored_example().example
    config = load_config("tiny")
    with pytest.raises(MediaError, match=r"frames of \(4, 4, 3\), and the model takes 48 x 48"):
        MediaCache(False).read(example, chain_of(config).settings.video, 48)
