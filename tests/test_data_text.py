"""Tokenizers, prompts, and the user's JSONL."""

import json

import pytest

from stts_jax.config import SPECIAL_TOKENS
from stts_jax.data import tiny_tokenizer
from stts_jax.data.examples import ExampleError, read_examples
from stts_jax.data.prompts import question_text, timestamp_text, user_turn
from stts_jax.data.tokenizer import TINY_FILE, Tokenizer, TokenizerError

TOKENIZER = Tokenizer.load("tiny", 512)


def test_special_tokens_are_numbered_from_the_vocabulary_size():
    for vocab_size in (512, 600):
        ids = Tokenizer.load("tiny", vocab_size).special_ids
        assert ids == {name: vocab_size + i for i, name in enumerate(SPECIAL_TOKENS)}


@pytest.mark.parametrize("text", ["What colour is it?", "Größe 你好 🙂\t\n  x", "", "0.5 12.75"])
def test_any_text_survives_the_tiny_tokenizer(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_common_words_and_times_are_short():
    for word in ("red", " red", "circle", " circle", " left", " early", " 8.0 "):
        assert len(TOKENIZER.encode(word)) == 1, word
    assert len(TOKENIZER.encode(timestamp_text(0.5, first=False))) <= 3


def test_decoding_stops_at_the_end_of_the_turn():
    eos = TOKENIZER.eos_id
    answer = TOKENIZER.encode("left")
    assert TOKENIZER.decode([eos, *answer, eos, *answer]) == "left"
    assert TOKENIZER.decode([*answer, -1, -1]) == "left"


def test_the_embedded_tokenizer_is_what_its_program_makes():
    assert json.loads(tiny_tokenizer.make().to_str()) == json.loads(TINY_FILE.read_text())


def test_tokenizers_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"more than model.llm.vocab_size=100"):
        Tokenizer.load("tiny", 100)
    with pytest.raises(TokenizerError, match="does not exist"):
        Tokenizer.load(str(tmp_path / "none.json"), 512)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.load(str(tmp_path / "bad.json"), 512)


def test_a_prompt_survives_encoding():
    text = user_turn(question_text("Which?", ["a cat", "a dog"]))
    assert text == (
        "<|im_start|>user\nWhich?\nOnly return the correct answer option.\na cat\na dog"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = TOKENIZER.encode(text)
    assert ids.count(TOKENIZER.eos_id) == 1
    parts = text.split("<|im_end|>")
    cut = ids.index(TOKENIZER.eos_id)
    assert TOKENIZER.decode(ids[:cut]) == parts[0] and TOKENIZER.decode(ids[cut:]) == parts[1]


def test_times_have_one_decimal_and_round_half_to_even():
    assert timestamp_text(0.0, first=True) == "0.0 "
    assert timestamp_text(61.25, first=False) == " 61.2 "


# ---------------------------------------------------------------------------------------- JSONL

GOOD = {"video": "a.mp4", "question": "q?", "answer": "yes"}


def write(path, *lines):
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_lines_of_a_video_are_one_example_up_to_the_limit(tmp_path):
    lines = [{**GOOD, "question": f"q{k}?"} for k in range(5)]
    other = {**GOOD, "video": "b.mp4", "options": ["yes", "no"], "type": "t", "id": 7}
    examples = read_examples(write(tmp_path / "x.jsonl", *lines[:2], other, "", *lines[2:]), 3)
    assert [e.video.name for e in examples] == ["a.mp4", "a.mp4", "b.mp4"]
    assert [len(e.questions) for e in examples] == [3, 2, 1]
    assert examples[0].video == tmp_path / "a.mp4"
    question = examples[2].questions[0]
    assert (question.options, question.type, question.id) == (("yes", "no"), "t", "7")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ({"video": "a.mp4", "question": "q?"}, "'answer' is missing"),
        ({**GOOD, "answer": 3}, "'answer' is 3"),
        ({**GOOD, "question": " "}, "'question' is ' '"),
        ({**GOOD, "frames": 3}, "'frames' is unknown"),
        ({**GOOD, "options": ["no", "maybe"]}, "none of the options"),
        ({**GOOD, "options": ["yes", "yes"]}, "twice"),
        ({**GOOD, "options": "yes"}, "must be a list"),
        ({**GOOD, "question": "see <im_patch>"}, "holds '<im_patch>'"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path, line, reason):
    path = write(tmp_path / "x.jsonl", GOOD, line)
    with pytest.raises(ExampleError, match=reason) as raised:
        read_examples(path, 8)
    assert str(raised.value).startswith(f"{path}:2: ")


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(ExampleError, match="does not exist"):
        read_examples(tmp_path / "none.jsonl", 8)
    with pytest.raises(ExampleError, match="holds no questions"):
        read_examples(write(tmp_path / "x.jsonl", ""), 8)
