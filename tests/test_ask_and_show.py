"""ask and show on an untrained model: what they print and write, and what they take."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil

import jax
import numpy as np
import pytest
from command_cases import FRAMES, TOKENS_PER_FRAME, refused
from PIL import Image
from video_reading import read_video

from stts_jax import ask, calibrate, show
from stts_jax.buckets import local_cache as cache
from stts_jax.command_line import open_config
from stts_jax.config import load_config, override
from stts_jax.data.evaluation_batches import batches_of_prompts
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.data.video.reading import probe
from stts_jax.evaluation import runner, single
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.overlay import LEGEND, kept_overlay, overlay_video, score_map, stretch
from stts_jax.inference import memory_estimate
from stts_jax.inference.decoding import program_to_answer
from stts_jax.model.video_language_model import abstract_model
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing import load as loading_room
from stts_jax.training.checkpointing.load import load_model, save_model
from stts_jax.training.checkpointing.run_folder import config_of

pytest_plugins = ["command_fixtures"]
QUESTION = "Which shape is seen?"


# -------------------------------------------------------------------------------------------- ask


def test_ask_prints_the_answer(checkpoint, video, capsys):
    assert ask.main([str(video), QUESTION, "--checkpoint", str(checkpoint)]) == 0
    printed = capsys.readouterr()
    model, config = load_model(checkpoint)
    assert printed.out == single.ask(model, config, video, QUESTION) + "\n"
    begun = [line for line in printed.err.splitlines() if line.endswith(" ...")]
    assert begun == [
        "reading what is asked about ...",
        f"loading the model of '{checkpoint}' ...",
        "compiling and answering ...",
    ]


@pytest.mark.parametrize("command", [ask, show])
def test_a_question_may_be_asked_at_any_ratio(command, checkpoint, video):
    question = [QUESTION] if command is ask else []
    given = [str(video), *question, "--checkpoint", str(checkpoint)]
    for k in (0, 33, 66.5):
        _, config = open_config(command.parse([*given, "--k", str(k)]))
        assert config.model.prune.topk == pytest.approx(k / 100)
    assert open_config(command.parse(given))[1] == config_of(checkpoint)


def test_a_calibrated_threshold_is_printed_as_settings_and_kept(checkpoint, video, capsys):
    given = ["--checkpoint", str(checkpoint), "--limit", "2"]
    assert calibrate.main([*given, "--k", "60"]) == 0
    settings, said, where = capsys.readouterr().out.splitlines()
    config = override(config_of(checkpoint), settings.split()[1:])
    assert config.model.prune.topk == 0.6 and 0 < config.model.prune.threshold < 1
    assert re.fullmatch(r"drops \d+\.\d % of a video's tokens on average, from \d+ to \d+ %", said)
    assert "thresholds for 1 to 99 %" in where
    asked = [str(video), QUESTION, "--checkpoint", str(checkpoint), "--k", "60", "--auto"]
    kept = open_config(ask.parse(asked))[1].model.prune
    assert kept.threshold == pytest.approx(config.model.prune.threshold, rel=1e-5)
    assert kept.topk == 0.6
    assert calibrate.main([*given, "--k", "0"]) == 2
    assert "give --k" in capsys.readouterr().err


@pytest.mark.slow
def test_a_video_is_asked_about_with_a_threshold(checkpoint, video, capsys):
    setting = ["--set", "model.prune.threshold=0.4"]
    given = ["--checkpoint", str(checkpoint), *setting]
    assert ask.main([str(video), QUESTION, *given]) == 0
    alone = capsys.readouterr().out
    options = ["--options", "circle", "a square"]
    assert ask.main([str(video), QUESTION, *given, *options]) == 0
    assert alone and capsys.readouterr().out in ("circle\n", "a square\n")


@pytest.mark.parametrize("wording", ["templates", "plain"])
def test_ask_answers_with_one_of_the_options(wording, checkpoint, video, capsys):
    more = ["--options", "circle", "a square", "--set", f"data.wording={wording}"]
    assert ask.main([str(video), QUESTION, "--checkpoint", str(checkpoint), *more]) == 0
    assert capsys.readouterr().out in ("circle\n", "a square\n")


def test_the_most_likely_option_is_answered_as_the_run_words_it(checkpoint, video, monkeypatch):
    model, config = load_model(checkpoint)
    asked = []

    def likelihoods(model, batch, budget, answers, key):
        asked.extend(answers)
        return np.array([-9.0, -2.0, -5.0])

    monkeypatch.setattr(single, "log_likelihoods", likelihoods)
    options = ("circle", "a square", "dot")
    for wording in ("templates", "plain"):
        worded = override(config, [f"data.wording={wording}"])
        assert single.ask(model, worded, video, QUESTION, options) == "a square"
    tokenizer = Tokenizer.load(config.data.tokenizer, config.model.llm.vocab_size)
    assert {tokens[-1] for tokens in asked} == {tokenizer.eos_id}
    texts = [tokenizer.decode(tokens[:-1]) for tokens in asked]
    assert texts == ["A. circle", "B. a square", "C. dot", *options]


def test_ask_and_show_take_what_a_line_may_say(checkpoint, video, tmp_path, capsys):
    pictures = [tmp_path / name for name in ("a.png", "b.png")]
    for number, picture in enumerate(pictures):
        Image.fromarray(np.full((32, 32, 3), 99 * number, np.uint8)).save(picture)
    common = ["--checkpoint", str(checkpoint)]
    clip = ["--clip", "0.5", "1.5", "--subtitle", "Come here!", *common]
    images = ["--images", *map(str, pictures), *common]
    for media, arguments in (([str(video)], clip), ([], images)):
        assert ask.main([*media, QUESTION, *arguments]) == 0
        assert show.main([*media, *arguments, "--output", str(tmp_path / "out")]) == 0
    stems = {path.stem for path in (tmp_path / "out").iterdir()}
    assert stems == {f"{video.stem}_kept", "a_kept"}
    assert "(100%)" in capsys.readouterr().out  # of pictures nothing is dropped


def test_a_file_of_subtitles_is_read(video, tmp_path, checkpoint):
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nCome here!\n")
    config = load_model(checkpoint)[1]
    asked = Asked(video, QUESTION, subtitle=str(tmp_path / "a.srt"))
    assert asked.example(config).subtitle == {(1.0, 2.0): "Come here!"}


def test_a_clip_shows_other_frames(checkpoint, video):
    model, config = load_model(checkpoint)
    whole, part = (single.kept_tokens(model, config, Asked(video, clip=c)) for c in (None, (1, 2)))
    assert part.video.timestamps[-1] <= 1 < whole.video.timestamps[-1]


def test_pictures_are_shown_as_the_crops_that_the_model_sees(checkpoint, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    model, config = load_model(checkpoint)
    kept = single.kept_tokens(model, config, Asked(None, images=(tmp_path / "a.png",)))
    assert (kept.video.frames[0] == image).all() and kept.keep.all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is no video; give the path of one, or pictures with --images"),
        (["a.mp4", "--images", "a.png"], "--images too; leave one of them out"),
        (["a.mp4", "--clip", "9", "2"], "field 'clip' is [9.0, 2.0]; write [start, end]"),
        (["a.mp4", "--clip", "nan", "2"], "field 'clip' is [nan, 2.0]; write [start, end]"),
        (["--images", "a.png", "--subtitle", "x"], "field 'subtitle' is 'x'; it goes with a video"),
    ],
)
@pytest.mark.parametrize("command", [ask, show], ids=["ask", "show"])
def test_what_no_line_may_say_is_refused_before_the_model_is_read(
    command, arguments, said, capsys, monkeypatch
):
    monkeypatch.setattr(command, "open_config", lambda _: pytest.fail("the model is read"))
    question = [QUESTION] if command is ask else []
    message = refused(capsys, command.main([*arguments, "--checkpoint", "run", *question]))
    assert said in message


MISSING = {
    "a video that is missing": (["none.mp4"], "'none.mp4' does not exist; check the path"),
    "an empty video": (["empty.mp4"], "'empty.mp4' is empty; copy or download it again"),
    "a picture that is missing": (["--images", "a.png"], "'a.png' does not exist"),
}


@pytest.mark.parametrize("case", MISSING)
@pytest.mark.parametrize("command", [ask, show], ids=["ask", "show"])
def test_a_missing_file_is_noticed_before_a_checkpoint_is_converted(
    command, case, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.mp4").touch()
    monkeypatch.setattr(command, "open_config", lambda _: pytest.fail("the checkpoint is read"))
    arguments, said = MISSING[case]
    question = [QUESTION] if command is ask else []
    message = refused(capsys, command.main([*arguments, "--checkpoint", "run", *question]))
    assert said in message


UNREADABLE = {
    "no video": (["text.mp4"], "text.mp4"),
    "no picture": (["--images", "text.png"], "text.png"),
    "no subtitles": (["{video}", "--subtitle", "none.srt"], "none.srt"),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("command", [ask, show], ids=["ask", "show"])
def test_what_cannot_be_read_is_noticed_before_the_model_is_loaded(
    command, case, checkpoint, video, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("text.mp4", "text.png"):
        (tmp_path / name).write_text("no video and no picture")
    opened = "open_model" if command is ask else "open_encoder"
    monkeypatch.setattr(command, opened, lambda *_: pytest.fail("the model is read"))
    arguments, said = UNREADABLE[case]
    arguments = [argument.format(video=video) for argument in arguments]
    question = [QUESTION] if command is ask else []
    assert said in refused(
        capsys, command.main([*arguments, "--checkpoint", str(checkpoint), *question])
    )


@pytest.mark.parametrize("command", [ask, show], ids=["ask", "show"])
def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_loaded(
    command, checkpoint, video, capsys, monkeypatch
):
    opened = "open_model" if command is ask else "open_encoder"
    monkeypatch.setattr(command, opened, lambda *_: pytest.fail("the model is read"))
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 1000)
    question = [QUESTION] if command is ask else []
    assert command.main([str(video), "--checkpoint", str(checkpoint), *question]) == 2
    assert "this machine has 0.0 MB free; take fewer frames (--frames" in capsys.readouterr().err


def test_show_reads_vit_and_scorer_only(checkpoint, video, tmp_path, monkeypatch):
    read = []
    load = loading_room.load_parameters

    def loading(saved, wanted):
        read.extend(wanted)
        return load(saved, wanted)

    monkeypatch.setattr(loading_room, "load_parameters", loading)
    arguments = [str(video), "--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    assert show.main(arguments) == 0
    names = named_parameters(abstract_model(config_of(checkpoint).model))
    assert set(read) == {name for name in names if name.startswith(("vit.", "scorer."))}
    assert len(read) == len(set(read)) < len(names)


def test_ask_takes_frames_and_settings(checkpoint, video, capsys):
    more = ["--frames", "2x", "--set", "model.prune.topk=0.25"]
    assert ask.main([str(video), QUESTION, "--checkpoint", str(checkpoint), *more]) == 0
    assert capsys.readouterr().out.endswith("\n")


def test_questions_of_other_lengths_in_a_bucket_compile_once(checkpoint, video):
    model, config = load_model(checkpoint)
    config = override(config, ["eval.max_new_tokens=2"])  # compiled for no other test
    before = program_to_answer(model)._cache_size()
    answers = [single.ask(model, config, video, "what " * count) for count in (1, 3, 5)]
    assert len(answers) == 3 and program_to_answer(model)._cache_size() - before == 1


def test_a_larger_bucket_changes_no_answer(checkpoint, video):
    model, config = load_model(checkpoint)
    asked = [(0, Asked(video, QUESTION).example(config))]
    small = batches_of_prompts(config, asked, rows=1)
    more = dataclasses.replace(
        small.budget, tokens=small.budget.tokens + 64, tokens_before=small.budget.tokens_before + 64
    )
    large = batches_of_prompts(config, asked, rows=1, budget=more)
    said = [runner.answer(model, config, batches).said[0][1] for batches in (small, large)]
    assert said[0] == said[1] and large.budget.text == small.budget.text + 64


def test_questions_of_a_larger_bucket_are_announced(checkpoint, video, capsys, monkeypatch):
    model, config = load_model(checkpoint)
    asked = [Asked(video, "what " * count).example(config) for count in (1, 2, 40, 2)]
    monkeypatch.setattr(runner, "generate", lambda *_, **__: jax.numpy.ones((1, 2), "int32"))
    batches = batches_of_prompts(config, list(enumerate(asked)), rows=1)
    runner.answer(model, config, batches, progress=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if "compiling" in line]
    assert len(lines) == 1 and f"up to {batches.budget.text} tokens of text" in lines[0]


# ------------------------------------------------------------------------------------------- show


def test_show_writes_a_sheet_and_a_video(checkpoint, video, tmp_path, capsys):
    output = tmp_path / "new" / "folder"
    arguments = [str(video), "--checkpoint", str(checkpoint), "--output", str(output)]
    assert show.main(arguments) == 0
    kept = FRAMES * TOKENS_PER_FRAME // 2
    sheet, clip = (output / f"{video.stem}_kept.{kind}" for kind in ("png", "mp4"))
    assert capsys.readouterr().out == (f"kept {kept} of {2 * kept} tokens (50%): {sheet}, {clip}\n")
    with Image.open(sheet) as image:
        assert image.format == "PNG" and np.asarray(image).std() > 0
    source, written = probe(video), probe(clip)
    assert (written.width, written.height) == (3 * source.width, source.height + LEGEND)
    assert written.frames == FRAMES


def test_show_saves_the_settings_of_each_video_beside_its_pictures(
    checkpoint, video, tmp_path, capsys
):
    other = shutil.copy(video, tmp_path / "other.mp4")
    common = ["--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    assert show.main([str(video), *common]) == 0
    assert show.main([str(other), *common, "--set", "model.prune.topk=0.25"]) == 0
    saved = [load_config(str(tmp_path / f"{path.stem}_kept.json")) for path in (video, other)]
    trained = load_config(str(checkpoint / "config.json"))
    assert saved == [trained, override(trained, ["model.prune.topk=0.25"])]


def test_show_refuses_a_folder_that_cannot_be_written_before_the_model_is_read(
    checkpoint, video, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(show, "open_config", lambda _: pytest.fail("the model is read"))
    (tmp_path / "file").touch()
    arguments = [str(video), "--checkpoint", str(checkpoint), "--output", str(tmp_path / "file")]
    assert "file' cannot be written" in refused(capsys, show.main(arguments))


@pytest.mark.parametrize("kind", ["png", "mp4", "json"])
def test_show_says_which_file_cannot_be_written(kind, checkpoint, video, tmp_path, capsys):
    (tmp_path / f"{video.stem}_kept.{kind}").mkdir()
    arguments = [str(video), "--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    assert f"_kept.{kind}' cannot be written" in refused(capsys, show.main(arguments))


def test_the_overlay_shows_frame_kept_tokens_and_scores_side_by_side(tmp_path):
    frames = np.full((2, 64, 64, 3), 200, np.uint8)
    keep = np.array([[True, False, False, True], [False, True, True, False]])
    scores = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]], np.float32)
    overlay_video(tmp_path / "a.mp4", frames, keep, scores, fps=2.0)
    shown = read_video(tmp_path / "a.mp4", 2, 2.0).frames.astype(int)
    for index, frame in enumerate(shown):
        panels = np.split(frame[:64], 3, axis=1)  # the scale of the colours is below
        colours = score_map(stretch(scores)[index], (64, 64))
        wanted = (frames[index], kept_overlay(frames[index], keep[index]), colours)
        for panel, expected in zip(panels, wanted, strict=True):
            assert np.abs(panel - expected).mean() < 8


def test_show_without_pruning_shows_all(checkpoint, video, tmp_path, capsys):
    more = ["--output", str(tmp_path), "--set", "model.prune.method=none", "model.prune.topk=0"]
    assert show.main([str(video), "--checkpoint", str(checkpoint), *more]) == 0
    assert "kept 16 of 16 tokens (100%)" in capsys.readouterr().out


# ------------------------------------------------------------------------------------ in a bucket


@pytest.fixture(scope="module")
def model_in_bucket(checkpoint, bucket):
    save_model(*load_model(checkpoint), bucket / "run")
    return bucket / "run"


@pytest.fixture(scope="module")
def video_in_bucket(video, bucket, tmp_path_factory):
    (bucket / "clips/a.mp4").write_bytes(video.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.FOLDER, str(tmp_path_factory.mktemp("cache")))
        cache.local_cache.cache_clear()
        yield bucket / "clips/a.mp4"
    cache.local_cache.cache_clear()


def test_ask_reads_model_and_video_from_a_bucket(
    checkpoint, video, model_in_bucket, video_in_bucket, capsys
):
    assert ask.main([str(video), QUESTION, "--checkpoint", str(checkpoint)]) == 0
    here = capsys.readouterr().out
    assert ask.main([str(video_in_bucket), QUESTION, "--checkpoint", str(model_in_bucket)]) == 0
    assert capsys.readouterr().out == here and here.strip()


def test_thresholds_are_kept_beside_a_checkpoint_in_a_bucket(
    model_in_bucket, video_in_bucket, capsys
):
    given = ["--checkpoint", str(model_in_bucket), "--k", "60"]
    asked = ask.parse([str(video_in_bucket), QUESTION, *given, "--auto"])
    assert calibrate.main([*given, "--limit", "2"]) == 0
    assert f"are in '{model_in_bucket}/thresholds.json'" in capsys.readouterr().out
    assert 0 < open_config(asked)[1].model.prune.threshold < 1


def test_show_writes_its_pictures_to_a_bucket(checkpoint, video_in_bucket, bucket, capsys):
    output = bucket / "shown"
    given = ["--checkpoint", str(checkpoint), "--output", str(output)]
    assert show.main([str(video_in_bucket), *given]) == 0
    assert f"{output}/a_kept.png, {output}/a_kept.mp4" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {
        f"a_kept.{e}" for e in ("png", "mp4", "json")
    }
    with Image.open(io.BytesIO((output / "a_kept.png").read_bytes())) as picture:
        assert picture.format == "PNG"
    assert load_config(str(output / "a_kept.json")) == load_config(str(checkpoint / "config.json"))
