"""The public API on an untrained model: what it answers, says, and refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import importlib
import io
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from goldens_folder import REPOSITORY
from training_cases import ENDED, single_mesh

import stts_jax as stts
from stts_jax.api import runs
from stts_jax.api.loading import load
from stts_jax.config import Config
from stts_jax.data.video.reading import VideoError
from stts_jax.evaluation import single
from stts_jax.evaluation.opened_media import OpenedMedia
from stts_jax.inference import memory_estimate
from stts_jax.model.int8_weights import is_int8
from stts_jax.parallel.mesh import make_mesh, mesh_of
from stts_jax.training.checkpointing.load import load_model, save_model
from stts_jax.training.checkpointing.run_folder import config_of
from stts_jax.training.loop import RunResult
from stts_jax.training.run import RunParts, train

pytest_plugins = ["command_fixtures"]
QUESTION = "Which shape is seen?"
FRAMES = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), np.uint8)
# Modules whose docstrings have examples.
EXAMPLES = ("loading", "model", "opened_video", "runs")


@pytest.fixture(scope="module")
def said() -> list[str]:
    """The lines that the model has said."""
    return []


@pytest.fixture(scope="module")
def model(checkpoint, said) -> stts.Model:
    return stts.load(checkpoint, notice=said.append)


@pytest.fixture(scope="module")
def opened(model, video) -> stts.OpenVideo:
    return model.open(video)


def compiled(said: list[str]) -> list[str]:
    return [line for line in said if line.startswith("compiling")]


# --------------------------------------------------------------------------------------- examples


def real_run(*arguments: object, **options: object) -> RunResult:
    """A run on one device, without a picture."""
    parts = RunParts(make_mesh=lambda _: single_mesh(), plot=lambda _: None)
    return train(*arguments, **options, parts=parts)


def run_without_steps(config: Config, output: Path, *, init_from: Path, **_: object) -> RunResult:
    """Stands for a run in examples, as a step takes long to compile; the notebook's is real."""
    save_model(load_model(init_from)[0], config, output)
    return dataclasses.replace(ENDED, step=config.train.steps)


@pytest.fixture
def examples(model, checkpoint, video, tmp_path, monkeypatch) -> dict[str, object]:
    """The names that examples use; `runs/tiny` is the model's folder."""
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    shutil.copytree(checkpoint, "runs/tiny")
    monkeypatch.setattr(runs, "train_run", run_without_steps)
    given = {"stts": stts, "np": np, "model": model, "clip": video, "folder": tmp_path}
    return {**given, "run": checkpoint, "config": config_of(checkpoint)}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_docstrings_run(name, examples):
    module = importlib.import_module(f"stts_jax.api.{name}")
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner()
    found = [test for test in finder.find(module, extraglobs=examples) if test.examples]
    for test in found:
        with contextlib.redirect_stderr(io.StringIO()):
            runner.run(test)
    assert found and runner.summarize(verbose=False).failed == 0


def test_the_program_of_the_page_runs(examples, video, capsys):
    shutil.copy(video, "clip.mp4")
    page = (REPOSITORY / "docs" / "api.md").read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/api.md", "exec"), examples)
    assert capsys.readouterr().out.endswith("; did you mean 0.5?\n")
    assert Path("kept.png").is_file()


def test_the_notebook_runs(checkpoint, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "train_run", real_run)
    notebook = json.loads((REPOSITORY / "docs/notebooks/ask_a_video.ipynb").read_text("utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    given = {"MODEL": str(checkpoint), "CLIP": str(video), "OUTPUT": tmp_path, "STEPS": 1}
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)
        names |= given if number == 0 else {}
    assert set(given) <= set(re.findall(r"^(\w+) =", cells[0], re.MULTILINE))
    assert names["result"].step == 1


# ---------------------------------------------------------------------------------------- answers


def test_an_answer_is_that_of_the_command(model, checkpoint, video):
    trained = load_model(checkpoint)
    assert model.ask(video, QUESTION) == single.ask(*trained, video, QUESTION)


def test_an_opened_video_answers_like_the_model(model, opened, video):
    assert opened.ask(QUESTION) == model.ask(video, QUESTION)
    assert opened.ask([QUESTION, "Who?"]) == [opened.ask(QUESTION), opened.ask("Who?")]


def test_a_streamed_answer_is_the_whole_one_in_pieces(opened):
    streamed = opened.ask(QUESTION, stream=True)
    assert isinstance(streamed, Iterator)
    assert "".join(streamed) == opened.ask(QUESTION)


def test_the_bytes_of_a_file_are_the_file(model, opened, video):
    given = model.open(video.read_bytes())
    np.testing.assert_array_equal(given.kept.scores, opened.kept.scores)
    np.testing.assert_array_equal(given.overlay(), opened.overlay())


def test_many_videos_are_answered_together_as_they_are_alone(model, video):
    videos = [video, FRAMES, video.read_bytes()]
    questions = [QUESTION, "What is it, and where does it go?", QUESTION]
    alone = [model.ask(v, q) for v, q in zip(videos, questions, strict=True)]
    assert model.ask(videos, questions) == alone


def test_text_and_pictures_are_asked_about(model):
    assert isinstance(model.ask(question="Who are you?"), str)
    options = ["yes", "no"]
    assert model.ask(images=[FRAMES[0]], question="Is it dark?", options=options) in options


def test_a_history_makes_another_question_of_the_same_words(opened):
    later = opened.ask("Why?", history=[(QUESTION, "a circle")])
    talk = opened.conversation()
    talk.ask(QUESTION)
    assert later and talk.ask("Why?") and len(talk.turns) == 2


def test_frames_in_memory_have_a_rate(model):
    assert model.open(FRAMES, fps=4).kept.times.tolist() == [0, 0.25, 0.5, 0.75]
    with pytest.raises(stts.UsageError, match="4 frames, and the model takes 2"):
        model.open(FRAMES, frames=2)


def test_two_threads_ask_one_model(model, video):
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = model.ask(video, QUESTION)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == dict.fromkeys(range(3), model.ask(video, QUESTION))


# ------------------------------------------------------------------------------------ what is kept


def test_what_is_kept_is_what_show_shows(model, opened, checkpoint, video):
    shown = single.kept_tokens(*load_model(checkpoint), video)
    kept = opened.kept
    np.testing.assert_array_equal(kept.masks, shown.keep)
    np.testing.assert_allclose(kept.scores, shown.scores, atol=1e-6)
    assert kept.times.tolist() == shown.video.timestamps.tolist()
    assert kept.share == 0.5 and repr(kept) == "Kept(8 of 16 tokens of 4 frames)"


@pytest.mark.slow
def test_a_threshold_decides_for_each_video(checkpoint, video):
    model = stts.load(checkpoint, settings={"model.prune.threshold": 0.5}, notice=None)
    kept = model.open(video, prune="auto").kept
    low = kept.scores[1:] < 0.5
    np.testing.assert_array_equal(kept.masks[1:], ~low)


def test_an_overlay_is_a_picture(opened, tmp_path):
    opened.overlay().save(tmp_path / "kept.png")
    assert (tmp_path / "kept.png").stat().st_size > 1000


# --------------------------------------------------------------------------------- what is compiled


def test_a_new_size_is_said_once_and_a_known_one_never(model, opened, said):
    opened.ask("Why?")
    before = len(compiled(said))
    opened.ask("Why, and what for?")
    assert len(compiled(said)) == before
    for count in (60, 61):
        opened.ask("What? " * count)
    assert len(compiled(said)) == before + 1
    assert compiled(said)[-1].startswith("compiling for answering: up to ")


def test_another_ratio_compiles_no_other_answer(model, video, said):
    model.open(video, prune=0.5).ask(QUESTION)
    before = len(compiled(said))
    model.open(video, prune=0.55).ask(QUESTION)  # of the same size bucket
    assert len(compiled(said)) == before
    assert said[0].startswith("memory: about ")


# ------------------------------------------------------------------------------- what is refused


def test_a_closed_video_says_so(model, video):
    with model.open(video) as opened:
        pass
    for use in (lambda: opened.ask("Who?"), lambda: opened.kept, opened.overlay):
        with pytest.raises(stts.UsageError, match="is closed; open it again"):
            use()
    assert repr(opened).endswith("closed)")


def test_a_file_that_is_missing_or_no_video_is_one_sentence(model, tmp_path):
    with pytest.raises(VideoError, match=r"'none\.mp4' does not exist; check the path"):
        model.ask("none.mp4", QUESTION)
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"a\.mp4"):
        model.open(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="video of 4 bytes"):
        model.ask(b"what", QUESTION)
    with pytest.raises(VideoError, match=r"none\.mp4"):
        model.ask([FRAMES, "none.mp4"], QUESTION)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"video": "What falls?"}, "there is no question; write ask(video, question)"),
        ({"video": FRAMES, "question": ""}, "question is '', which asks nothing"),
        ({"video": FRAMES, "question": "Who?", "images": [FRAMES[0]]}, "leave one of them out"),
        ({"images": "a.png", "question": "Who?"}, "give one, images=[...]"),
        (
            {"video": FRAMES, "question": "Who?", "options": ["a", "b"], "stream": True},
            "as a whole",
        ),
        ({"video": FRAMES, "question": ["a", "b"], "stream": True}, "go with one question"),
        ({"video": FRAMES, "question": ["a"], "clip": np.arange(2)}, "go with one question"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(model, given, sentence):
    with pytest.raises(stts.UsageError) as refused:
        model.ask(**given)
    assert sentence in str(refused.value)


def test_several_questions_are_checked_before_the_first_is_answered(
    model, opened, video, monkeypatch
):
    monkeypatch.setattr(OpenedMedia, "ask", lambda *_: pytest.fail("answered"))
    monkeypatch.setattr("stts_jax.api.model.open_media", lambda *_, **__: pytest.fail("read"))
    for ask in (opened.ask, lambda questions: model.ask(video, questions)):
        with pytest.raises(stts.UsageError, match="question is '', which asks nothing"):
            ask([QUESTION, ""])


def test_a_clip_that_is_none_is_refused(model, video):
    with pytest.raises(stts.USER_ERRORS, match=r"question: field 'clip' is \[9\.0, 2\.0\]"):
        model.open(video, clip=(9.0, 2.0))


@pytest.mark.parametrize(
    ("address", "error", "sentence"),
    [
        ("{here}", stts.CheckpointError, "there is no checkpoint in"),
        ("ftp://models/a", stts.UsageError, "ftp:// is no store that is read here"),
        (7, stts.UsageError, "7 is no path of a folder"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, address, error, sentence):
    address = address.format(here=tmp_path) if isinstance(address, str) else address
    with pytest.raises(error) as refused:
        stts.load(address, notice=None)
    assert sentence in str(refused.value)


def test_what_memory_cannot_hold_is_refused_before_it_is_loaded(checkpoint, monkeypatch):
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 1000)
    monkeypatch.setattr("stts_jax.api.loading.load_to_answer", lambda *_: pytest.fail("loaded"))
    with pytest.raises(stts.ConfigError, match=r"0\.0 MB free; take fewer frames \(settings="):
        stts.load(checkpoint, notice=None)


def test_a_question_that_memory_cannot_hold_is_refused(checkpoint, video, monkeypatch):
    model = load(checkpoint, notice=None)
    model._compilations.notice = lambda text: None
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 1000)
    with pytest.raises(stts.ConfigError, match=r"take fewer frames \(frames=8\)"):
        model.open(video)


def test_a_question_of_too_many_words_is_refused(opened):
    with pytest.raises(stts.ConfigError, match="free; ask with fewer words"):
        opened.ask("x" * 300_000)


# --------------------------------------------------------------------------- training and the like


def test_an_evaluation_is_saved_like_that_of_the_command(model, tmp_path):
    found = stts.evaluate(model, limit=2, output=tmp_path / "eval")
    saved = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert saved["accuracy"] == found.accuracy and saved["questions"] == 2
    with pytest.raises(stts.ConfigError, match=r"split is 'exam'; use train"):
        stts.evaluate(model, "exam")


def test_weights_in_int8_and_a_mesh_of_its_own_are_taken(checkpoint):
    mesh = make_mesh(devices=make_mesh().devices.flat[:1].tolist())
    model = stts.load(checkpoint, weights="int8", mesh=mesh, notice=None)
    assert is_int8(model.module) and mesh_of(model.module) == mesh
    with pytest.raises(stts.UsageError, match="weights is 'int4'; use 'compute' or 'int8'"):
        stts.load(checkpoint, weights="int4")


def test_train_needs_the_model_of_adapters(tmp_path):
    with pytest.raises(stts.UsageError, match="name that with init_from"):
        stts.train("tiny", output=tmp_path, adapter=tmp_path)
