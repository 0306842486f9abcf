"""`--weights int8`: what the commands take, refuse, print and write."""

import json

import numpy as np
import pytest
from command_cases import refused
from training_cases import single_mesh

import eval as evaluate
from stts_jax import ask, show
from stts_jax.config import load_config, override
from stts_jax.data.evaluation_batches import least_budget
from stts_jax.evaluation.agreement import _agreement, _totals
from stts_jax.evaluation.folders import setup_name
from stts_jax.evaluation.metrics import Agreement
from stts_jax.fit import __main__ as fit
from stts_jax.inference.memory_estimate import MemoryEstimate, memory_to_answer
from stts_jax.model.video_language_model import abstract_model, to_answer
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError

pytest_plugins = ["command_fixtures"]
QUESTION = "Which shape is seen?"
INT8 = ("--weights", "int8")


@pytest.fixture(scope="module")
def compared(checkpoint, tmp_path_factory):
    """What an evaluation with int8 weights writes that compares them."""
    output = tmp_path_factory.mktemp("weights")
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output), "--k", "50"]
    assert evaluate.main([*arguments, *INT8, "--compare-weights", "--limit", "3"]) == 0
    return output


def test_eval_writes_how_far_int8_weights_agree_with_whole_ones(compared):
    metrics = json.loads((compared / "k50-int8" / "metrics.json").read_text())
    assert metrics["settings"]["weights"] == "int8"
    found = Agreement(**metrics["agreement"])
    assert found.answers == metrics["questions"] == 3
    assert found.answers <= found.tokens <= 3 * found.answers
    assert 0 <= found.same_answers <= 1 and 0 <= found.same_tokens <= 1 and 0 < found.kl < 0.1


def test_eval_prints_the_agreement(compared, checkpoint, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(compared), "--k", "50"]
    assert evaluate.main([*arguments, *INT8, "--compare-weights", "--limit", "3"]) == 0
    printed = capsys.readouterr()
    assert "int8 against whole weights, 50 % dropped: " in printed.err
    rows = [line.split()[:2] for line in printed.out.splitlines()]
    assert ["same", "tokens"] in rows and ["same", "answers"] in rows


def test_ask_loads_int8_weights(checkpoint, video, monkeypatch):
    loaded = []

    def load(checkpoint, config, weights):
        loaded.append(weights)
        raise CheckpointError("seen enough")

    monkeypatch.setattr(ask, "open_model", load)
    assert ask.main([str(video), QUESTION, "--checkpoint", str(checkpoint), *INT8]) == 2
    assert loaded == ["int8"]


def test_show_scores_with_an_int8_vit(checkpoint, video, tmp_path, capsys):
    arguments = [str(video), "--checkpoint", str(checkpoint), "--output", str(tmp_path)]
    assert show.main([*arguments, *INT8]) == 0
    assert "kept " in capsys.readouterr().out


@pytest.mark.parametrize("command", [ask, show, evaluate], ids=["ask", "show", "eval"])
def test_other_types_of_weights_are_refused_in_a_sentence(command, checkpoint, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(["a.mp4", "--checkpoint", str(checkpoint), "--weights", "int4"])
    assert ended.value.code == 2
    assert "'int4' is no type of weights; write int8, or compute" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "compares int8 weights with whole ones; add --weights int8"),
        ((*INT8, "--mode", "tomato"), "and --mode is 'tomato'; leave out one of them"),
    ],
)
def test_a_comparison_needs_int8_weights_and_a_split(options, said, checkpoint, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--compare-weights", *options]
    assert said in refused(capsys, evaluate.main(arguments))


def test_fit_refuses_to_train_int8_weights(capsys):
    arguments = ["--config", "tiny", "--topology", "v5e:1x1", *INT8]
    assert "training has whole weights" in refused(capsys, fit.main(arguments))


def test_results_of_int8_weights_have_a_folder_of_their_own():
    config = load_config("tiny")
    assert setup_name("50 %", 2.0, config) == "k50-2x"
    assert setup_name("50 %", 2.0, config, "int8") == "k50-2x-int8"


def test_the_estimate_counts_int8_and_adds_up_models_that_are_loaded_at_once():
    config = override(
        load_config("molmo2_4b"), ["model.compute_dtype=bfloat16", "data.max_frames=8"]
    )

    def estimate(weights):
        shapes = to_answer(abstract_model(config.model), weights)
        return memory_to_answer(shapes, config, single_mesh(), least_budget(config), 1)

    half, whole = estimate("int8"), estimate("compute")
    assert 0.5 < half.parameters / whole.parameters < 0.52
    assert half.activations == whole.activations
    both = MemoryEstimate(0, 0, 0) + half + whole
    assert both.total == half.total + whole.total


def test_tokens_after_the_end_of_an_answer_do_not_count():
    end = 9
    answers = np.array([[4, 9, 9], [4, 5, 6], [9, 9, 9]])
    same = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0]], bool)
    divergence = np.array([[0.5, 0.25, 99], [1, 2, 3], [0.25, 99, 99]])
    found = _agreement(np.array(_totals(end, answers, same, divergence)))
    assert found == Agreement(
        answers=3, same_answers=2 / 3, tokens=6, same_tokens=5 / 6, kl=7.0 / 6
    )
