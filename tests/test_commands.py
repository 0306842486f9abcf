"""eval.py on an untrained model: what it prints and writes; and how it, ask and show refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from command_cases import FRAMES, TOKENS_PER_FRAME, refused
from training_cases import small_config

import eval as evaluate
import train
from stts_jax import ask, show
from stts_jax.budget import surviving_tokens, tokens_to_prune
from stts_jax.config import load_config, replace
from stts_jax.data import synthetic
from stts_jax.evaluation.folders import free_folder, setup_name
from stts_jax.evaluation.same_budget import FrameCounts, same_budget
from stts_jax.inference import memory_estimate

QUESTION = "Which shape is seen?"
pytest_plugins = ["command_fixtures"]


def questions(data: Path) -> int:
    return len((data / "test.jsonl").read_text().splitlines())


# ------------------------------------------------------------------------------------------- eval


@pytest.fixture(scope="module")
def ratios(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of an evaluation at three ratios."""
    output = tmp_path_factory.mktemp("commands") / "eval"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output), "--k", "0", "25", "50"]
    assert evaluate.main(arguments) == 0
    return output


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_eval_writes_metrics_and_predictions_of_each_ratio(ratios, data):
    assert sorted(p.name for p in ratios.iterdir()) == ["k0", "k25", "k50"]
    for folder in ratios.iterdir():
        found = metrics(folder)
        assert found["questions"] == questions(data) and found["unreadable"] == 0
        assert found["settings"] == {
            "split": "test",
            "frames_scale": 1.0,
            "k": f"{folder.name[1:]} %",
        }
        lines = [json.loads(x) for x in (folder / "predictions.jsonl").read_text().splitlines()]
        assert [line["question"] for line in lines] == [
            json.loads(x)["question"] for x in (data / "test.jsonl").read_text().splitlines()
        ]
        assert found["accuracy"] == np.mean([line["correct"] for line in lines])
        assert {"video", "answer", "prediction", "type"} <= lines[0].keys()


def test_eval_gives_the_llm_as_many_tokens_as_the_ratio_leaves(ratios):
    visual = [metrics(ratios / f"k{k}")["visual_tokens"] for k in (0, 25, 50)]
    assert visual == [16, 12, 8]


def test_eval_saves_the_config_of_each_ratio(ratios):
    assert load_config(str(ratios / "k25" / "config.json")).model.prune.topk == 0.25


def test_eval_prints_a_table(checkpoint, tmp_path, capsys, data):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path), "--k", "0", "50"]
    assert evaluate.main([*arguments, "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["type", "0", "%", "50", "%"]
    table = {line.split("  ")[0]: line.split()[-2:] for line in lines[1:-1]}
    assert table["questions"] == ["2", "2"]
    assert table["visual tokens"] == ["16", "8"]
    assert str(tmp_path) in lines[-1]


def test_twice_the_frames_can_have_the_same_budget(checkpoint, tmp_path):
    common = ["--checkpoint", str(checkpoint), "--limit", "1", "--frames", "2x"]
    assert evaluate.main([*common, "--output", str(tmp_path / "a")]) == 0
    assert evaluate.main([*common, "--output", str(tmp_path / "b"), "--same-budget"]) == 0
    assert metrics(tmp_path / "a" / "k50-2x")["visual_tokens"] == 16
    assert metrics(tmp_path / "b" / "k75-2x")["visual_tokens"] == 8


def test_the_same_budget_goes_by_the_frames_that_videos_have(checkpoint, tmp_path, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path), "--limit", "2"]
    assert evaluate.main([*arguments, "--frames", "8x", "--same-budget"]) == 0
    (folder,) = tmp_path.iterdir()
    assert metrics(folder)["visual_tokens"] == 8  # as at 1x; 17 frames are all there are
    assert 1 - load_config(str(folder / "config.json")).model.prune.topk == pytest.approx(
        0.5 * FRAMES / 17, abs=0.01
    )
    assert "4.25 times their frames, 17 on average" in capsys.readouterr().out


def test_eval_counts_the_visual_tokens_that_the_llm_sees(checkpoint, tmp_path):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path), "--limit", "2"]
    assert evaluate.main([*arguments, "--frames", "8x", "--k", "0"]) == 0
    assert metrics(tmp_path / "k0-8x")["visual_tokens"] == 17 * TOKENS_PER_FRAME


def test_a_budget_that_fewer_frames_cannot_fill_is_refused_in_terms_of_the_flags(
    checkpoint, tmp_path, capsys
):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    message = refused(capsys, evaluate.main([*arguments, "--frames", "0.25x", "--same-budget"]))
    assert "--same-budget would keep 8 visual tokens" in message
    assert "with --frames 0.25x it has only 4 in all" in message


def test_an_unpruned_model_keeps_no_budget_with_more_frames(checkpoint, tmp_path, capsys):
    off = ["--set", "model.prune.method=none", "model.prune.topk=0"]
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path), *off]
    message = refused(capsys, evaluate.main([*arguments, "--frames", "2x", "--same-budget"]))
    assert "--same-budget can take no more frames" in message


@pytest.mark.parametrize("topk", [0.0, 0.3, 0.5, 0.7])
@pytest.mark.parametrize(("before", "after"), [(8, 16), (8, 17), (8, 8), (5, 13)])
def test_a_video_keeps_exactly_as_many_tokens_of_more_frames(topk, before, after):
    config = load_config("tiny", [f"model.prune.topk={topk}"])
    counts = FrameCounts(np.array([before], np.int32), np.array([after], np.int32), 2.0)
    more = replace(config, {"model.prune.topk": same_budget(config, counts, topk)})
    assert surviving_tokens(after, more.model) == surviving_tokens(before, config.model)


def test_eval_takes_a_file_of_questions(checkpoint, video, tmp_path):
    mine = tmp_path / "mine.jsonl"
    line = {"video": str(video), "question": QUESTION, "answer": "a circle"}
    mine.write_text(json.dumps(line) + "\n")
    arguments = ["--checkpoint", str(checkpoint), "--split", str(mine)]
    assert evaluate.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    found = metrics(tmp_path / "out" / "k50")
    assert found["questions"] == 1 and list(found["accuracy_by_type"]) == ["untyped"]


def test_eval_writes_into_the_run_unless_told_otherwise(checkpoint):
    assert evaluate.main(["--checkpoint", str(checkpoint), "--limit", "1"]) == 0
    assert (checkpoint / "eval" / "k50" / "metrics.json").is_file()


# --------------------------------------------------------------------------- what the user can mend


def write_clip(path: Path, *, seconds: int = 4) -> Path:
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        noise = np.random.default_rng(0).integers(0, 256, (10 * seconds, 32, 48, 3), np.uint8)
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def bad_videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("commands") / "bad"
    folder.mkdir()
    (folder / "empty.mp4").touch()
    whole = write_clip(folder / "truncated.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    write_sound(folder / "audio-only.mp4")
    return {name: folder / f"{name}.mp4" for name in REASONS}


REASONS = {
    "missing": "does not exist",
    "empty": "is empty",
    "truncated": "is not a readable video file",
    "audio-only": "has no pictures, only sound",
}


@pytest.mark.parametrize("name", REASONS)
@pytest.mark.parametrize("command", [ask, show], ids=["ask", "show"])
def test_a_video_that_cannot_be_read_is_refused_in_a_sentence(
    command, name, checkpoint, bad_videos, tmp_path, capsys
):
    path = bad_videos[name]
    question = [QUESTION] if command is ask else ["--output", str(tmp_path)]
    code = command.main([str(path), *question, "--checkpoint", str(checkpoint)])
    message = refused(capsys, code)
    assert str(path) in message and REASONS[name] in message
    assert not list(tmp_path.iterdir())


def test_a_set_of_unreadable_videos_stops_the_evaluation(checkpoint, bad_videos, tmp_path, capsys):
    mine = tmp_path / "mine.jsonl"
    lines = [
        json.dumps({"video": str(path), "question": QUESTION, "answer": "no"})
        for path in bad_videos.values()
    ]
    mine.write_text("\n".join(lines))
    arguments = ["--checkpoint", str(checkpoint), "--split", str(mine)]
    assert evaluate.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert str(bad_videos["missing"]) in message and "Traceback" not in message


def test_some_unreadable_videos_are_left_out_and_counted(checkpoint, bad_videos, video, tmp_path):
    mine = tmp_path / "mine.jsonl"
    lines = [
        json.dumps({"video": str(path), "question": QUESTION, "answer": "no"})
        for path in (bad_videos["truncated"], video)
    ]
    mine.write_text("\n".join(lines))
    arguments = ["--checkpoint", str(checkpoint), "--split", str(mine)]
    allowed = ["--output", str(tmp_path / "out"), "--set", "data.max_bad_share=0.9"]
    assert evaluate.main([*arguments, *allowed]) == 0
    found = metrics(tmp_path / "out" / "k50")
    assert (found["questions"], found["unreadable"]) == (1, 1)


@pytest.mark.parametrize("command", [ask, show, evaluate], ids=["ask", "show", "eval"])
def test_an_unknown_setting_names_the_closest(command, checkpoint, video, capsys):
    first = {ask: [str(video), QUESTION], show: [str(video)], evaluate: []}[command]
    wrong = ["--checkpoint", str(checkpoint), "--set", "model.prune.topkk=0.3"]
    message = refused(capsys, command.main([*first, *wrong]))
    assert "unknown setting 'model.prune.topkk'" in message and "'topk'" in message


@pytest.mark.parametrize("command", [ask, show, evaluate], ids=["ask", "show", "eval"])
def test_a_folder_without_checkpoint_is_refused(command, video, tmp_path, capsys):
    first = {ask: [str(video), QUESTION], show: [str(video)], evaluate: []}[command]
    message = refused(capsys, command.main([*first, "--checkpoint", str(tmp_path)]))
    assert "there is no checkpoint" in message


@pytest.mark.parametrize("command", [ask, show, evaluate], ids=["ask", "show", "eval"])
def test_a_damaged_checkpoint_is_refused(command, checkpoint, video, tmp_path, capsys):
    first = {ask: [str(video), QUESTION], show: [str(video)], evaluate: []}[command]
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "checkpoints" / "0" / "model" / "_METADATA").unlink()
    message = refused(capsys, command.main([*first, "--checkpoint", str(copy)]))
    assert "is damaged or incomplete" in message and "copy it again" in message


def test_training_does_not_start_from_a_damaged_checkpoint(checkpoint, data, tmp_path, capsys):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "checkpoints" / "0" / "model" / "_METADATA").unlink()
    arguments = ["--config", str(copy / "config.json"), "--init-from", str(copy)]
    assert train.main([*arguments, "--output", str(tmp_path / "new")]) == 2
    message = capsys.readouterr().err
    assert "is damaged or incomplete" in message and "Traceback" not in message


@pytest.mark.parametrize(
    "arguments",
    [["--checkpoint", "s3://bucket/run"], ["--checkpoint", "run", "--output", "s3://bucket/out"]],
    ids=["checkpoint", "output"],
)
def test_an_address_of_another_store_is_refused(arguments, capsys):
    for parse, positional in ((evaluate.parse, []), (show.parse, ["video.mp4"])):
        with pytest.raises(SystemExit):
            parse([*positional, *arguments])
        assert "s3:// is no store that is read here" in capsys.readouterr().err


def test_a_ratio_of_all_tokens_is_refused(checkpoint, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--set", "model.prune.topk=1.0"]
    assert "model.prune.topk is 1.0" in refused(capsys, evaluate.main(arguments))


def test_a_ratio_needs_a_method(checkpoint, capsys):
    off = ["--set", "model.prune.method=none", "model.prune.topk=0"]
    arguments = ["--checkpoint", str(checkpoint), "--k", "30", *off]
    assert "model.prune.method=random" in refused(capsys, evaluate.main(arguments))


@pytest.mark.parametrize(
    ("percentage", "said"),
    [
        ("0.5", "'0.5' is less than one per cent; write 50 for 50 %"),
        ("0.01", "write 1 for 1 %"),
        ("-5", "write 0, or from 1 to below 100"),
        ("nan", "'nan' is not a percentage"),
        ("100", "'100' is not a percentage to drop; write 0, or from 1 to below 100"),
        ("half", "'half' is not a percentage"),
    ],
)
def test_a_share_is_no_percentage(percentage, said, checkpoint, capsys):
    with pytest.raises(SystemExit) as left:
        evaluate.main(["--checkpoint", str(checkpoint), f"--k={percentage}"])
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_results_of_other_frames_ratio_or_packing_have_other_folders():
    stream, bins = (
        load_config("tiny", [f"model.prune.layout={p}"]) for p in ("stream", "first_fit")
    )
    names = [
        setup_name(ratio, frames, config)
        for ratio in ("50 %", "0 %")
        for frames in (1.0, 2.0, 0.25)
        for config in (stream, bins)
    ]
    assert len(set(names)) == len(names) == 12
    assert names[:4] == ["k50", "k50-first_fit", "k50-2x", "k50-2x-first_fit"]


def test_results_of_other_settings_do_not_take_a_folder_that_has_some(tmp_path, capsys):
    settings = {"split": "test", "k": "50 %"}
    configs = [load_config("tiny", [f"data.test={name}.jsonl"]) for name in ("a", "b", "a")]
    folders = []
    for config in configs:
        folders.append(free_folder(tmp_path / "k50", settings, config))
        config.save(folders[-1])
        (folders[-1] / "metrics.json").write_text(json.dumps({"settings": settings}))
    assert [folder.name for folder in folders] == ["k50", "k50-2", "k50"]
    assert capsys.readouterr().out == (
        f"'{folders[0]}' has results of other settings, so these go to '{folders[1]}'\n"
    )


def test_a_folder_is_no_split(checkpoint, tmp_path, capsys):
    (tmp_path / "mine.jsonl").mkdir()
    arguments = ["--checkpoint", str(checkpoint), "--split", str(tmp_path / "mine.jsonl")]
    assert "which is a folder; give a .jsonl file" in refused(capsys, evaluate.main(arguments))


def test_a_set_that_cannot_be_made_is_refused_in_a_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "below" / "set"
    arguments = ["--config", "tiny", "--output", str(tmp_path / "run"), "--data-dir", str(folder)]
    said = f"the procedural set cannot be made in '{folder}': Not a directory"
    assert said in refused(capsys, train.main(arguments))
    assert synthetic.main([str(folder)]) == 1
    assert capsys.readouterr().err.startswith(said)


def test_a_set_has_no_negative_seed(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        synthetic.main([str(tmp_path / "set"), "--seed", "-1"])
    assert left.value.code == 2
    assert "'-1' is not a seed; write a whole number from 0 to 2^63 - 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("no.jsonl", "--split is 'no.jsonl', which does not exist"),
        ("val", "--split is 'val'; use train, validation, test, or a .jsonl file"),
        ("seed", "--split is 'seed'; use train"),  # a setting, but no split
    ],
)
def test_a_split_that_does_not_exist_is_refused_before_anything_is_loaded(
    split, said, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "load_to_answer", lambda *_: pytest.fail("the model is loaded"))
    arguments = ["--checkpoint", str(checkpoint), "--split", split]
    assert said in refused(capsys, evaluate.main(arguments))


def test_a_split_without_its_videos_is_refused_before_anything_is_loaded(
    checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(evaluate, "load_to_answer", lambda *_: pytest.fail("the model is loaded"))
    line = {"video": "none.mp4", "question": "What?", "answer": "that"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    arguments = ["--checkpoint", str(checkpoint), "--split", str(tmp_path / "mine.jsonl")]
    assert "none.mp4' does not exist" in refused(capsys, evaluate.main(arguments))


def test_eval_refuses_a_model_that_memory_cannot_hold_before_it_is_loaded(
    checkpoint, video, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(evaluate, "load_to_answer", lambda *_: pytest.fail("the model is loaded"))
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 1000)
    line = {"video": str(video), "question": "What?", "answer": "that"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(line) + "\n")
    arguments = ["--checkpoint", str(checkpoint), "--split", str(tmp_path / "mine.jsonl")]
    assert evaluate.main([*arguments, "--output", str(tmp_path / "eval")]) == 2
    assert "this machine has 0.0 MB free; take fewer frames (--frames" in capsys.readouterr().err


@pytest.mark.parametrize("factor", ["0", "-1x", "many", "nan", "inf", "1e999x"])
def test_a_factor_of_frames_must_be_a_positive_number(factor, checkpoint, video, capsys):
    arguments = [str(video), QUESTION, "--checkpoint", str(checkpoint), f"--frames={factor}"]
    with pytest.raises(SystemExit) as left:
        ask.main(arguments)
    assert left.value.code == 2
    assert "write 2x" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1", "1.5"])
def test_a_limit_leaves_at_least_one_question(count, checkpoint, tmp_path, capsys):
    arguments = ["--checkpoint", str(checkpoint), f"--limit={count}", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as left:
        evaluate.main(arguments)
    assert left.value.code == 2
    assert "write a whole number from 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_special_tokens_in_a_question_are_text(checkpoint, video, capsys):
    asked = "Is it <im_patch>, <|image|> or <|im_end|>?"
    more = ["--checkpoint", str(checkpoint), "--options", "<im_patch>", "square"]
    assert ask.main([str(video), asked, *more]) == 0, capsys.readouterr().err


def test_the_counts_shown_are_those_of_the_budget():
    config = small_config("model.vit.patch_size=8", "model.prune.pooling=2")
    n = np.array([FRAMES], np.int32)
    k = tokens_to_prune(n, np.full_like(n, 2), config.model.prune, TOKENS_PER_FRAME)
    assert k.item() == FRAMES * TOKENS_PER_FRAME // 2
