"""Finding out what of the data is missing or damaged."""

import json
import os
import re

import pytest
from benchmark_fixtures import VIDEO_SECONDS, build_root, write_video
from deadly_worker import length_or_death
from PIL import Image

from stts_jax.config import load_config
from stts_jax.data.__main__ import main
from stts_jax.data.chains import chain_of
from stts_jax.data.checking.check import CheckOptions, check, own_file, registered
from stts_jax.data.checking.files import FileState, MediaFile, check_file, in_processes
from stts_jax.data.checking.report import HEAD
from stts_jax.data.checking.rows import RowCheck
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.mixture_order import Draw
from stts_jax.data.reader import Reader
from stts_jax.data.sources.configured import sources_of
from stts_jax.data.sources.usable import Selection, read_usable, write_usable
from stts_jax.data.video.pyav import PyAvDecoder

MISSING = "TOMATO/videos/simulated/0001-00.mp4"  # of one example
CORRUPT = "TOMATO/videos/object/0390-01.mp4"  # of two


@pytest.fixture
def whole(tmp_path):
    return build_root(tmp_path / "data")


@pytest.fixture
def root(whole):
    """A root where a video of TOMATO is missing, and another cut off."""
    (whole / MISSING).unlink()
    content = (whole / CORRUPT).read_bytes()
    (whole / CORRUPT).write_bytes(content[: len(content) // 2])
    return whole


@pytest.fixture
def tomato(root):
    """What a check of TOMATO finds."""
    (state,) = check([registered("tomato", root)], CheckOptions())
    return state


def run(*arguments):
    return main(["check", "--workers", "0", *map(str, arguments)])


# -------------------------------------------------------------------------------- one dataset


def test_missing_files_are_named(tomato, root):
    assert tomato.missing == [str(root / MISSING)]


def test_files_that_cannot_be_read_are_named(tomato, root):
    (reason,) = tomato.damaged
    assert reason.startswith(f"'{root / CORRUPT}' is not a readable video file")


def test_examples_with_all_their_files_are_usable(tomato):
    assert (tomato.examples, tomato.checked) == (6, 6)
    assert tomato.usable == [0, 4, 5]


def test_hours_are_those_of_the_videos_that_can_be_read(tomato):
    assert tomato.hours * 3600 == pytest.approx(VIDEO_SECONDS)  # one, which three examples show


def test_a_whole_dataset_is_complete(whole):
    states = check([registered("tomato", whole), registered("mvbench", whole)], CheckOptions())
    assert all(state.complete for state in states)


def test_a_split_is_named_after_the_dataset(whole):
    (state,) = check([registered("motionbench:test", whole)], CheckOptions())
    assert state.selection == Selection("motionbench", "test") and state.examples == 3


def test_missing_annotations_are_named_with_their_home(tmp_path):
    (state,) = check([registered("tomato", tmp_path)], CheckOptions())
    assert state.examples is None
    assert str(tmp_path / "TOMATO" / "data" / "count.json") in state.unreadable[0]
    assert "github.com/yale-nlp/TOMATO" in state.home


def test_annotations_of_an_unknown_form_do_not_stop_the_check(root):
    (root / "TOMATO" / "data" / "count.json").write_text("[1, 2]")
    states = check([registered("tomato", root), registered("mvbench", root)], CheckOptions())
    assert "the annotations are damaged" in states[0].unreadable[0]
    assert states[1].complete


def test_records_that_make_no_example_are_named(root):
    path = root / "MVBench" / "json" / "object_shuffle.json"
    path.write_text(path.read_text().replace('"answer": "', '"answer": "not '))
    (state,) = check([registered("mvbench", root)], CheckOptions())
    (reason,) = state.wrong
    assert "Object Shuffle, question 0: the answer 'not Under" in reason
    assert len(state.usable) == state.examples - 1


def test_a_clip_behind_the_end_is_named(root):
    path = root / "MVBench" / "json" / "action_prediction.json"
    path.write_text(path.read_text().replace('"start": 0.0', '"start": 2.0'))
    (state,) = check([registered("mvbench", root)], CheckOptions())
    assert state.wrong == ["example 2: its clip goes from 2 to 1.25 s"]
    path.write_text(path.read_text().replace('"end": 1.25', '"end": 3.0'))
    (state,) = check([registered("mvbench", root)], CheckOptions())
    assert "its clip begins at 2 s, but" in state.wrong[0] and "ends at 2 s" in state.wrong[0]


def test_a_limit_spreads_over_the_dataset(root):
    (state,) = check([registered("tomato", root)], CheckOptions(limit=3))
    assert (state.examples, state.checked) == (6, 3)
    assert state.usable == [0, 4]  # of 0, 2 and 4


def test_an_unknown_split_is_refused(root):
    with pytest.raises(DatasetError, match="no split 'train'; use one of test"):
        registered("tomato:train", root)


# -------------------------------------------------------------------------------------- files


@pytest.fixture
def damaged_inside(tmp_path):
    """A video whose structure is right and whose pictures are not."""
    path = write_video(tmp_path / "damaged.mp4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 800  # behind the encoder's note on itself
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    return MediaFile(path, "video")


def test_pictures_are_only_looked_at_if_all_is_decoded(damaged_inside):
    assert check_file(damaged_inside, decode=False).problem is None
    assert check_file(damaged_inside, decode=True).problem == "damaged"


def test_the_start_of_a_video_is_decoded_in_any_case(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    at = content.index(b"mdat") + 4
    content[at : at + 400] = bytes(400)
    path.write_bytes(bytes(content))
    assert check_file(MediaFile(path, "video"), decode=False).problem == "damaged"


def test_a_check_says_what_it_did_not_look_at(root, capsys):
    run("--datasets", "tomato", "--root", root)
    assert "--decode finds damage further in" in capsys.readouterr().out
    run("--datasets", "tomato", "--root", root, "--decode")
    assert "--decode" not in capsys.readouterr().out


def test_a_pipe_in_the_place_of_a_file_is_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    state = check_file(MediaFile(tmp_path / "a.mp4", "video"), decode=False)
    assert state.problem == "damaged" and "is a pipe" in state.reason


def test_a_whole_video_decodes(tmp_path):
    video = MediaFile(write_video(tmp_path / "a.mp4"), "video")
    assert check_file(video, decode=True) == FileState(seconds=VIDEO_SECONDS)


@pytest.mark.parametrize("decode", [False, True])
def test_images_are_checked(tmp_path, decode):
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), (9, 8, 7)).save(path)
    assert check_file(MediaFile(path, "image"), decode).problem is None
    path.write_bytes(path.read_bytes()[:80])
    state = check_file(MediaFile(path, "image"), decode)
    assert state.problem == "damaged" and str(path) in state.reason


def test_a_file_that_cannot_even_be_looked_at_is_damaged(tmp_path):
    path = tmp_path / ("long" * 100)
    state = check_file(MediaFile(path, "video"), decode=False)
    assert state.problem == "damaged" and str(path) in state.reason


def test_results_of_processes_are_those_of_this_one(root):
    target = [registered("tomato", root)]
    assert check(target, CheckOptions(workers=2)) == check(target, CheckOptions())


def test_a_process_that_dies_costs_its_own_result_only():
    texts = ["a", "bb", "deadly", "ccc", "dddd", "eeeee"]
    results = dict(in_processes(length_or_death, texts, workers=1))
    expected = {text: len(text) for text in texts}
    assert results == expected | {"deadly": None}


# ------------------------------------------------------------------------------------ command


def test_the_command_fails_if_something_is_missing(root, capsys):
    assert run("--datasets", "tomato", "--root", root) == 1
    output = capsys.readouterr().out
    assert str(root / MISSING) in output and str(root / CORRUPT) in output
    assert "get it from https://github.com/yale-nlp/TOMATO" in output


def test_the_command_ends_with_a_table(root, capsys):
    run("--datasets", "tomato", "mvbench", "--root", root)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert lines == [
        HEAD,
        ["tomato", "test", "6", "6", "3", "0.00", "1", "1", "0"],
        ["mvbench", "validation", "21", "21", "21", "0.01", "0", "0", "0"],
        ["all", "27", "27", "24", "0.01", "1", "1", "0"],
    ]


def test_the_command_can_be_content_with_what_is_there(root):
    assert run("--datasets", "tomato", "--root", root, "--what-is-there") == 0


def test_the_command_succeeds_if_all_is_there(whole, capsys):
    assert run("--datasets", "tomato", "mvbench", "--root", whole, "--decode") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_all_benchmarks_are_checked(whole, capsys):
    assert run("--benchmarks", "--root", whole) == 1  # two are not among the fixtures
    output = capsys.readouterr().out
    assert output.count("faults of the annotations") == 2
    assert "nextqa_mc (test):" in output and "perception_test (validation):" in output


def test_a_mixture_is_checked(whole, capsys):
    assert run("--mixture", "all-v5-video-academic-only", "--root", whole) == 1
    output = capsys.readouterr().out
    assert "tgif" in output and "clevrer.csail.mit.edu" in output


def test_the_report_holds_all_that_was_found(root, tmp_path):
    report = tmp_path / "report.json"
    run("--datasets", "tomato", "--root", root, "--report", report)
    content = json.loads(report.read_text())
    (dataset,) = content["datasets"]
    assert content["complete"] is False
    assert (dataset["dataset"], dataset["split"], dataset["usable"]) == ("tomato", "test", 3)
    assert dataset["missing"] == [str(root / MISSING)]
    assert len(dataset["damaged"]) == 1


def test_the_usable_examples_can_be_read_back(root, tmp_path):
    usable = tmp_path / "usable.jsonl"
    run("--datasets", "tomato", "mvbench", "--root", root, "--write-usable", usable)
    read = read_usable(usable)
    assert read[Selection("tomato", "test")] == [0, 4, 5]
    assert read[Selection("mvbench", "validation")] == list(range(21))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to check"),
        (("--benchmarks",), "--root is missing"),
        (("--benchmarks", "--root", "/nowhere"), "--root is '/nowhere', which is not a folder"),
        (("--datasets", "tomatoes", "--root", "."), "no dataset is called 'tomatoes'"),
        (("--mixture", "soup", "--root", "."), "no mixture is called 'soup'"),
        (("--benchmarks", "--root", ".", "--set", "data.seed=1"), "--set is given without --conf"),
        (("--benchmarks", "--root", ".", "--config", "tinny"), "there is no config named 'tinny'"),
        (("--benchmarks", "--root", ".", "--limit", "0"), "--limit is 0; it must be 1 or more"),
        (("--benchmarks", "--root", ".", "--report", "/nowhere/r.json"), "its folder does not ex"),
    ],
)
def test_wrong_use_is_one_sentence(capsys, arguments, message):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_datasets_and_mixtures_are_listed(capsys):
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    for name in ("tomato", "tgif", "nextqa_mc", "all-v5-video-academic-only", "yale-nlp/TOMATO"):
        assert name in output


# ---------------------------------------------------------------------------------- own files


@pytest.fixture
def own(tmp_path):
    """`own(line, ...)`: a file of own data beside the video a.mp4 and the picture a.png."""
    write_video(tmp_path / "a.mp4")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def write(*lines):
        path = tmp_path / "my.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


def test_an_own_file_is_checked(own, tmp_path, capsys):
    lines = [
        {"video": "a.mp4", "caption": "Grey."},
        {"video": "b.mp4", "caption": "Red."},
        {"images": ["a.png"], "caption": "Black."},
    ]
    usable = tmp_path / "usable.jsonl"
    path = own(*lines)
    assert run("--file", path, "--write-usable", usable) == 1
    assert str(tmp_path / "b.mp4") in capsys.readouterr().out
    assert read_usable(usable) == {Selection(str(path), None): [0, 2]}


def test_all_wrong_lines_of_an_own_file_are_named(own, capsys):
    path = own({"video": "a.mp4"}, {"video": "a.mp4", "caption": "Grey."}, {"caption": "Red."})
    assert run("--file", path) == 1
    output = capsys.readouterr().out
    assert f"{path}:1: field 'question' is missing" in output
    assert f"{path}:3: field 'video' is missing" in output


def test_examples_that_fit_no_row_of_a_setup_are_named_with_the_remedy(own, tmp_path, capsys):
    long = {"video": "a.mp4", "clip": [0, 1], "caption": "7" * 3000}
    path = own({"video": "a.mp4", "caption": "Grey."}, long, {"images": ["a.png"], "caption": "7"})
    usable = tmp_path / "usable.jsonl"
    assert run("--file", path) == 0
    assert run("--file", path, "--config", "tiny", "--write-usable", usable) == 1
    assert re.search(
        r"my.jsonl:2: it has \d+ tokens, \d+ more than a row holds; raise data.row_t",
        capsys.readouterr().out,
    )
    assert read_usable(usable) == {Selection(str(path), None): [0, 2]}
    room = ("--set", "data.row_text_tokens=4000")
    assert run("--file", path, "--config", "tiny", *room) == 0


def test_a_line_that_is_too_long_is_named_and_its_example_stays(own, tmp_path, capsys):
    asked = [{"video": "a.mp4", "question": f"q{n}", "answer": "a"} for n in range(3)]
    asked[1]["answer"] = "7" * 3000
    usable = tmp_path / "usable.jsonl"
    assert run("--file", own(*asked), "--config", "tiny", "--write-usable", usable) == 1
    said = capsys.readouterr().out
    assert re.search(r"  my.jsonl:2: it has \d+ tokens, .* raise data.row_text_tokens to \d+", said)
    assert "my.jsonl:1" not in said and list(read_usable(usable).values()) == [[0]]


def test_sizes_are_those_of_training_though_only_starts_are_decoded(own, monkeypatch):
    path = own(
        {"video": "a.mp4", "clip": [0.4, 1.7], "subtitle": "Come here!", "caption": "Grey."},
        *(
            {"video": "a.mp4", "question": f"How {'very ' * n}grey?", "answer": "6"}
            for n in range(3)
        ),
    )
    setup = ["data.row_text_tokens=1", "data.questions_per_video=2", "data.wording=templates"]
    config = load_config("tiny", [*setup, f"data.train={path}"])
    (source,), chain = sources_of(config, "train"), chain_of(config)
    read = Reader((source,), (chain,), config.data, config.data.seed)
    wanted = {index: read(Draw(0, index, 0)).reason for index in range(3)}

    def first_only(decoder, numbers):
        assert list(numbers) == [0]
        return iter(numbers)

    monkeypatch.setattr(PyAvDecoder, "frames_numbered", first_only)
    (state,) = check([own_file(path, 2)], CheckOptions(rows=RowCheck.of(config)))
    assert state.wrong == [f"{source.called(n)}: {reason}" for n, reason in wanted.items()]
    assert not state.usable and len(wanted) == len(source)


@pytest.mark.parametrize("line", ["{", "{}", '{"dataset": "a", "split": null, "index": "b"}'])
def test_a_damaged_list_of_usable_examples_is_named(tmp_path, line):
    path = tmp_path / "usable.jsonl"
    write_usable(path, {Selection("a", None): [0]})
    path.write_text(path.read_text() + line)
    with pytest.raises(DatasetError, match=r"usable\.jsonl:2: "):
        read_usable(path)
