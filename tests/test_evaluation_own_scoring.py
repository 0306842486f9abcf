"""Scores of one's own questions: options, short answers, free texts, and what they come to."""

from __future__ import annotations

import itertools
import json
import re
import types

import numpy as np
import pytest
from command_cases import without_progress
from PIL import Image
from training_cases import small_config

import train
from stts_jax.data.questions import Question
from stts_jax.data.text.formatting import FormatterSettings, multiple_choice
from stts_jax.data.text.formatting import multiple_choice_templates as templates
from stts_jax.evaluation import runner
from stts_jax.evaluation.metrics import (
    BY_EXACT_ANSWER,
    BY_OPTION,
    BY_TEXT,
    Prediction,
    accuracy,
    text_score,
)
from stts_jax.evaluation.report import table
from stts_jax.evaluation.runner import Answers, Evaluation, evaluate_questions, read_questions
from stts_jax.evaluation.scoring.own_choice import chosen_option
from stts_jax.evaluation.scoring.rouge import rouge_l
from stts_jax.evaluation.scoring.words import same_answer
from stts_jax.parallel.mesh import make_mesh
from stts_jax.training.loop import better_score

# ---------------------------------------------------------------------------------- short answers

DIFFERENT = """
1.5|15 -5|5 10:30|1030 1/2|12 A|The A|An C++|C C#|C C++|C# +|- A+|A- A|A+ 50%|5 50%|50 $5|5 !|?
1,5|15 1,5|1.5 007|7 10:05|10:5 10²|102 ½|12 3-4|34 5'|5" -x|x x^2|x2 it's|its 1.2.3|1.23 3:1|31
1e3|1000 5m|5km 20°C|20°F 5‰|5% a>b|a<b é|e 🙂|🙁 की|क 1.10.2|1.1.2 ~5|5 2x|2 ↑|↓ &|and
"""


@pytest.mark.parametrize("pair", DIFFERENT.split())
def test_different_answers_stay_different(pair):
    first, second = pair.split("|")
    assert not same_answer(first, second) and not same_answer(second, first)
    assert same_answer(first, first) and same_answer(second, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("A B", "B"), ("vitamin A", "vitamin"), ("re-sign", "resign"), ("3-4", "3 4"), ("1 2", "12")],
)
def test_words_are_neither_lost_nor_joined(first, second):
    assert not same_answer(first, second)


@pytest.mark.parametrize("answer", ["A", "The", "...", "-", "?", "red", "", " "])
@pytest.mark.parametrize("empty", ["", "  ", "\n", "\u200b", "<|im_end|>"])
def test_nothing_equals_an_empty_answer(answer, empty):
    assert not same_answer(empty, answer)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("红色。", "红色"),
        ("「红色」", "红色"),
        ("\u201cred\u201d", "red"),
        ("don\u2019t", "don't"),
        ("\uff32\uff45\uff44\uff01", "red"),
        ("10\uff1a30", "10:30"),
        ("3\u20134", "3-4"),
        ("\u22125", "-5"),
        ("cafe\u0301", "café"),
        ("He left…", "he left"),
        ("A rabbit", "rabbit."),
        ("sits on a chair", "sits on the chair"),
        ("(red)", "Red"),
        ("**red**", "red"),
        ("T-shirt", "t shirt"),
    ],
)
def test_signs_of_unicode_case_articles_and_sentences_make_no_difference(first, second):
    assert same_answer(first, second) and same_answer(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2", "2.0"),
        ("1,000", "1000"),
        (".5", "0.50"),
        ("+5", "5"),
        ("-0", "0"),
        ("٣", "3"),
        ("5m", "5 m"),
        ("1,000.50", "1000.5"),
        ("50 %", "50%"),
        ("12.", "12"),
    ],
)
def test_numbers_compare_as_numbers(first, second):
    assert same_answer(first, second) and same_answer(second, first)


# ---------------------------------------------------------------------------------------- options

PLACES = ("on the left", "on the right", "above", "below")
LETTERS = ("A", "B", "C", "D")


NAMING_ABOVE = """
C|c|C.|(C)|C. above|C: above|(c) Above|C)above|above|Above.|The answer is C.|Answer: C|**C**
Option C|It is above|The correct option is (C).|C because it is|not below but above|“above”|C, above
"""
NAMING_ANOTHER_SEVERAL_OR_NONE = """
|B|on the left|B. on the right|C. below|B. above|C or D|A, C|C/D|C D|above or below|both|abovee|C++
none of them|I don't know|E|not above|it isn't above|Not C|ABCD|either C or B|C or maybe D|the
above below|neither C nor D
"""
KNOWN_LABELS = pytest.mark.parametrize("labels", [LETTERS, (), None], ids=["ABCD", "plain", "any"])


@KNOWN_LABELS
@pytest.mark.parametrize(
    "answer", ["C\n", "C. above\nBecause", *re.split(r"[|\n]", NAMING_ABOVE[1:-1])]
)
def test_an_answer_that_names_the_right_option_counts(answer, labels):
    assert Prediction(Question("Where?", "above", PLACES), "a.mp4", answer, labels).correct is True


@KNOWN_LABELS
@pytest.mark.parametrize("answer", re.split(r"[|\n]", NAMING_ANOTHER_SEVERAL_OR_NONE[1:-1]))
def test_an_answer_that_names_another_option_several_or_none_does_not_count(answer, labels):
    assert Prediction(Question("Where?", "above", PLACES), "a.mp4", answer, labels).correct is False


@KNOWN_LABELS
@pytest.mark.parametrize(
    "answer", ["_C_", "Ⓒ", "选C", "答案是C", "正确答案\uff1aC", "答案是above。"]
)
def test_marks_circles_and_chinese_words_around_an_option_are_read(answer, labels):
    assert Prediction(Question("Where?", "above", PLACES), "a.mp4", answer, labels).correct is True


@pytest.mark.parametrize("answer", ["3", "-5", "1.", "5/2", "2%", "10:2", "15 or 5", "$5"])
def test_a_number_among_numbers_is_neither_a_label_nor_a_part_of_another(answer):
    assert chosen_option(answer, ("5", "15", "2", "1.5")) is None


def test_options_of_signs_alone_are_read():
    assert chosen_option("it is | here", ("|", "||")) == 0
    assert chosen_option("it is | and ||", ("|", "||")) is None


def test_a_label_before_a_letter_that_is_another_option_is_the_label_where_the_prompt_had_labels():
    options = ("B", "C", "A")
    assert chosen_option("A", options, LETTERS) == 0
    assert chosen_option("A", options, ()) == 2


ODD_OPTIONS = (
    PLACES,
    ("red", "dark red", "red car", "Red"),
    ("2", "12", "1", "1.5", "-1", "15"),
    ("B", "C", "A"),
    ("c", "a", "b"),
    ("i", "iii", "ii"),
    ("yes", "no"),
    ("no", "yes, it is no", "yes"),
    ("a dog", "the dog", "dog"),
    ("dog", "a dog"),
    ("The", "A", "An"),
    ("C++", "C", "C#"),
    ("+", "-"),
    ("?", "!"),
    ("10:30", "1030", "10.30"),
    ("> 5", "5", "= 5", ".5"),
    ("(x)", "x + 1", "x - 1"),
    ("vitamin C", "vitamin A", "vitamin B"),
    ("A. red", "B. blue"),
    ("option B", "option A"),
    ("Answer: no", "no"),
    ("It's red, right?", "Is it red?"),
    ("红色。", "蓝色"),
    ("20%", "20"),
)


class Draws:
    """A generator that draws what it is told, then always the least."""

    def __init__(self, shares: tuple[float, ...], indices: tuple[int, ...]) -> None:
        self.shares, self.indices = list(shares), list(indices)

    def random(self) -> float:
        return self.shares.pop(0) if self.shares else 0.0

    def randint(self, low: int, high: int) -> int:
        return min(self.indices.pop(0), high - 1) if self.indices else low


def all_forms(options):
    """Every way in which training words what is answered: all labels, markers, with and without."""
    never, always = 1.0, 0.0
    yield multiple_choice.varied_form("Which?", options, Draws((never, never), ()))
    markers = {always: templates.RARE_MARKERS, never: templates.COMMON_MARKERS}
    for label_only, rare in itertools.product((always, never), markers):
        draws = (label_only, *((always,) if label_only else ()), never, never, rare)
        for marker, names in itertools.product(range(len(markers[rare])), range(4)):
            yield multiple_choice.varied_form("Which?", options, Draws(draws, (marker, names)))
    annotation = {"style": "video_multiple_choice", "question": "Which?", "options": options}
    yield multiple_choice.template_options(annotation, training=False, rng=Draws((), ()))
    with_text = annotation | {"answer_idx": 0}
    for share in (0.0, 1.0):
        settings = FormatterSettings(p_choice_content_in_mc=share)
        yield multiple_choice.older_form(with_text, settings, Draws((), ()))


def test_all_labels_and_markers_are_among_the_forms():
    outputs = [form.outputs[1] for form in all_forms(PLACES)]
    wanted = {PLACES[1], "B", "b", "2", "ii"} | {
        marker % names[1] + PLACES[1]
        for marker in (*templates.COMMON_MARKERS, *templates.RARE_MARKERS)
        for names, _ in templates.LABEL_SETS
    }
    assert set(outputs) == wanted


@pytest.mark.parametrize("options", ODD_OPTIONS, ids=str)
def test_every_target_of_training_is_right_by_the_scorer(options):
    for form in all_forms(options):
        labels = () if list(form.names) == list(options) else tuple(form.names)
        for index, target in enumerate(form.outputs):
            answered = [
                Prediction(Question("Which?", expected, options), "a.mp4", target, labels).correct
                for expected in options
            ]
            assert answered == [place == index for place in range(len(options))], (form, target)


# ------------------------------------------------------------------------ from a file to its scores


@pytest.fixture
def questions(tmp_path):
    """A file with the same question about four pictures, whose answers differ."""
    lines = []
    for number, answer in enumerate(PLACES):
        picture = tmp_path / f"{number}.png"
        Image.fromarray(np.full((32, 32, 3), 60 * number, np.uint8)).save(picture)
        asked = {"question": "Where is it?", "options": PLACES, "answer": answer}
        lines.append({"images": [picture.name], **asked, "type": "place"})
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def evaluated(monkeypatch, path, wording, answerer):
    """What an answerer, which gets each prompt and the chain that made it, reaches on a file."""

    def answer(model, config, batches, **_):
        prompts = [prompt for _, prompts, _ in batches for prompt in prompts]
        return Answers([(p, answerer(p, batches.chain)) for p in prompts], 0.0, 0)

    settings = ["model.vit.patch_size=8", "model.prune.pooling=2", "model.llm.vocab_size=512"]
    config = small_config(*settings, f"data.test={path}", f"data.wording={wording}")
    monkeypatch.setattr(runner, "answer", answer)
    monkeypatch.setattr(runner, "mesh_of", lambda model: None)
    model = types.SimpleNamespace(config=config.model)
    return evaluate_questions(model, config, read_questions(config, "test"))


@pytest.mark.parametrize(("questions", "rows"), [(3, 3), (8, 8), (11, 8), (0, 1)])
def test_a_batch_has_no_more_rows_than_there_are_questions(questions, rows):
    config = small_config("eval.batch_rows=8")
    assert runner.rows_of_batch(config, questions, None) == rows
    mesh = make_mesh({"data": 2, "fsdp": 4})
    assert runner.rows_of_batch(config, questions, mesh) == 8


def target(prompt, chain):
    return chain.evaluation(prompt.source, prompt.index).messages[-1]


def option_lines(prompt):
    return prompt.text.split("<|im_end|>")[0].splitlines()[-4:]


@pytest.mark.parametrize("wording", ["templates", "plain"])
def test_the_targets_of_a_run_are_all_right(monkeypatch, questions, wording):
    result = evaluated(monkeypatch, questions, wording, target)
    assert (result.accuracy, result.by_type) == (1.0, {"place": 1.0})


@pytest.mark.parametrize("wording", ["templates", "plain"])
def test_an_answerer_that_sees_only_the_text_gets_what_guessing_gets(
    monkeypatch, questions, wording
):
    last_option = lambda prompt, _: option_lines(prompt)[-1]  # noqa: E731
    assert evaluated(monkeypatch, questions, wording, last_option).accuracy == 0.25


@pytest.mark.parametrize("wording", ["templates", "plain"])
def test_the_right_answers_to_shuffled_options_are_wrong(monkeypatch, questions, wording):
    def shuffled(prompt, chain):
        lines = option_lines(prompt)
        return lines[lines.index(target(prompt, chain)) - 1]

    assert evaluated(monkeypatch, questions, wording, shuffled).accuracy == 0.0


def test_labels_of_shuffled_options_name_other_ones(monkeypatch, questions):
    label = lambda prompt, chain: chr(ord(target(prompt, chain)[0]) % 4 + ord("A"))  # noqa: E731
    assert evaluated(monkeypatch, questions, "templates", label).accuracy == 0.0


# -------------------------------------------------------------------------------------- free texts

CAPTION = Question("", "A dog runs along the beach and barks at the waves.")
FREE = Prediction(CAPTION, "a.mp4", "a dog runs along the beach")
SHORT = Prediction(Question("Who?", "a dog"), "a.mp4", "dog")


def test_a_caption_is_scored_apart_from_the_accuracy():
    assert (FREE.scored_by, FREE.correct) == (BY_TEXT, None)
    assert 0.5 < text_score([FREE, SHORT]) < 1 and accuracy([FREE, SHORT]) == 1.0
    assert accuracy([FREE]) is None and text_score([SHORT]) is None


@pytest.mark.parametrize(
    ("question", "answer", "rule"),
    [
        ("What happens?", "He opens the door and leaves the room.", BY_TEXT),
        ("What happens?", "他打开门然后离开了房间, 走到外面去了。", BY_TEXT),
        ("What happens?", "He leaves.", BY_EXACT_ANSWER),
        ("Describe this.", "一只白色的兔子", BY_EXACT_ANSWER),
    ],
)
def test_a_long_answer_is_a_free_text(question, answer, rule):
    assert Prediction(Question(question, answer), "a.mp4", "").scored_by == rule


def test_a_long_option_is_scored_as_an_option():
    options = ("He opens the door and leaves the room.", "He sits down on the chair and waits.")
    found = Prediction(Question("What happens?", options[0], options), "a.mp4", "A")
    assert (found.scored_by, found.correct) == (BY_OPTION, True)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    assert rouge_l("the cat sat", "a dog sat there") == pytest.approx(2 * 1 / (2 + 3))
    assert rouge_l("dog bites man", "man bites dog") == pytest.approx(1 / 3)
    assert rouge_l("红色的车", "红色车") == pytest.approx(2 * 3 / 7)
    assert rouge_l("", "a dog") == 0.0


@pytest.mark.parametrize("answer", ["B", "B.", "B. blue"])
def test_the_expected_answer_of_a_benchmark_may_be_a_label(answer):
    question = Question("Which?", "B", ("A. red", "B. blue"))
    assert Prediction(question, "a.mp4", answer).correct
    assert not Prediction(question, "a.mp4", "A").correct


def test_lines_saved_before_there_were_rules_are_scored():
    line = {"video": "a.mp4", "question": "Where?", "answer": "above", "options": list(PLACES)}
    line |= {"type": None, "id": "m:1", "prediction": "C. above", "correct": False}
    saved = {name: line[name] for name in ("question", "answer", "options", "type", "id")}
    assert Prediction(Question(**saved), line["video"], line["prediction"]).correct


# ---------------------------------------------------------------------------------------- results


def evaluation(*predictions, rate=0.0):
    return Evaluation(list(predictions), visual_tokens=8.0, questions_per_s=rate, unreadable=0)


PLACE = Prediction(Question("Where?", "above", PLACES, "place"), "a.mp4", "D")


def test_the_table_says_what_each_type_was_scored_by():
    lines = table({"50 %": evaluation(FREE, SHORT, PLACE)})
    cells = {line.rsplit("  ", 1)[0].rstrip(): line.split()[-1] for line in lines}
    assert cells["place (option)"] == "0.0" and cells["untyped (exact answer)"] == "100.0"
    assert cells["untyped (ROUGE-L)"] == cells["all (ROUGE-L)"] == f"{100 * FREE.score:.1f}"
    assert cells["all (accuracy)"] == "50.0" and cells["questions/s"] == "-"


def test_a_table_of_captions_has_no_accuracy():
    assert not any("accuracy" in line for line in table({"50 %": evaluation(FREE)}))


def test_saved_results_say_what_each_answer_was_scored_by(tmp_path):
    evaluation(FREE, SHORT, PLACE).save(tmp_path, {})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["scored_by"] == {
        "place": {BY_OPTION: 1},
        "untyped": {BY_TEXT: 1, BY_EXACT_ANSWER: 1},
    }
    assert metrics["text_score"] == FREE.score and metrics["questions_per_s"] is None
    lines = map(json.loads, (tmp_path / "predictions.jsonl").read_text().splitlines())
    assert [line["correct"] for line in lines] == [None, True, False]


def test_training_evaluates_by_the_same_rules():
    assert evaluation(SHORT, PLACE).scores() == {"accuracy": 0.5, "place": 0.0, "untyped": 1.0}
    assert evaluation(FREE).scores() == {BY_TEXT: FREE.score, "untyped ROUGE-L": FREE.score}


def test_the_best_checkpoint_goes_by_accuracy_else_by_the_text_score():
    free, mixed = evaluation(FREE).scores(), evaluation(FREE, SHORT).scores()
    assert better_score(free, None) == (BY_TEXT, FREE.score)
    assert better_score(mixed, {BY_TEXT: FREE.score}) == ("accuracy", 1.0)
    assert better_score(free, {"step": 2, BY_TEXT: 0.99}) is None
    assert better_score({"accuracy": float("nan")}, {"accuracy": 0.5}) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"caption": "A dog runs."}, "1 of 1 validation answers are captions or long"),
        ({"question": "Who?", "answer": "a dog"}, ""),
    ],
)
def test_a_run_says_at_its_start_that_free_texts_are_not_in_the_accuracy(
    line, said, tmp_path, capsys
):
    path = tmp_path / "validation.jsonl"
    path.write_text(json.dumps({"video": "a.mp4"} | line))
    train.evaluation(small_config(f"data.validation={path}"), tmp_path)
    printed = without_progress(capsys.readouterr().out)
    assert said in printed and bool(printed) == bool(said)
