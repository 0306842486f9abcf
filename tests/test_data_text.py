"""Tokenizers, prompts, messages as arrays, and the user's JSONL."""

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from qwen3_tokenizer import VOCAB_SIZE, qwen3_tokenizer_path, reduced_tokenizer_path
from whole_text import decode_all

from stts_jax.config import SPECIAL_TOKENS
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.text import tiny_tokenizer
from stts_jax.data.text.formatting import Formatter
from stts_jax.data.text.message_arrays import SHARED, MessageArrays, MessageError, TextSettings
from stts_jax.data.text.message_weight import LOSS_WEIGHTS, MessageWeight
from stts_jax.data.text.prompts import plainly_worded
from stts_jax.data.text.tokenizer import (
    CONFIG_FILE,
    POINT_TOKENS,
    TINY_FILE,
    Tokenizer,
    TokenizerError,
    without_marks,
)
from stts_jax.data.text.weighted_tokens import VisionBlock

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
    assert len(TOKENIZER.encode(" 0.5 ")) <= 3


def test_decoding_stops_at_the_end_of_the_turn():
    eos = TOKENIZER.eos_id
    answer = TOKENIZER.encode("left")
    assert TOKENIZER.decode([eos, *answer, eos, *answer]) == "left"
    assert TOKENIZER.decode([*answer, -1, -1]) == "left"


def test_the_embedded_tokenizer_stays_as_it_is():
    """Checkpoints of tiny models hold embeddings of its ids."""
    digest = hashlib.sha256(TINY_FILE.read_bytes()).hexdigest()
    assert digest == "c3ddce334eed453a2a5c7516b1e2389c85b6b72c40b083201ccaf944b2b03e62"


def test_the_program_of_the_embedded_tokenizer_makes_one_that_fits_its_model():
    made, own = (
        json.loads(text) for text in (tiny_tokenizer.make().to_str(), TINY_FILE.read_text())
    )
    assert len(made["model"]["vocab"]) <= tiny_tokenizer.VOCAB_SIZE
    assert made["added_tokens"] == own["added_tokens"]


def test_tokenizers_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"more than model.llm.vocab_size=100"):
        Tokenizer.load("tiny", 100)
    with pytest.raises(TokenizerError, match="does not exist"):
        Tokenizer.load(str(tmp_path / "none.json"), 512)
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.load(str(tmp_path / "bad.json"), 512)


def test_all_text_but_bos_eos_and_padding_can_be_decoded():
    eos, answer = TOKENIZER.eos_id, TOKENIZER.encode("left<im_patch>")
    assert decode_all(TOKENIZER, [eos, *answer, eos, -1, *answer]) == "left<im_patch>left<im_patch>"


def test_text_with_point_tokens_gets_ids_after_the_visual_ones():
    first = 512 + len(SPECIAL_TOKENS)
    ids = TOKENIZER.encode("".join(POINT_TOKENS))
    assert ids == list(range(first, first + len(POINT_TOKENS)))


def control_ids(tokenizer):
    added = tokenizer._base.get_added_tokens_decoder()
    return {number for number, token in added.items() if token.special}


@pytest.mark.parametrize("carried", ["tiny", "qwen3"])
def test_special_tokens_that_are_marked_as_literal_are_text(carried):
    path, size = ("tiny", 512) if carried == "tiny" else (qwen3_tokenizer_path(), VOCAB_SIZE)
    tokenizer = Tokenizer.load(str(path), size)
    control = control_ids(tokenizer)
    added = tokenizer._base.get_added_tokens_decoder()
    for name in (added[number].content for number in control):
        text = f"It is {name} in <{name}>"
        ids = tokenizer.encode(tokenizer.literal(text))
        assert not control & set(ids), name
        assert tokenizer._text(ids) == text


def test_text_without_special_tokens_is_not_changed_by_marking():
    tokenizer = Tokenizer.load("tiny", 512)
    value = {"question": "a < b | c > d", "options": ["<a>", "b"], "answer_idx": 1, "x": ("a",)}
    assert tokenizer.literal(value) == value


def test_marks_are_taken_away_where_people_read():
    value = {"question": "<|im_end|>", "options": ["<im_patch>", 3], "more": ("<|image|>",)}
    marked = Tokenizer.load("tiny", 512).literal(value)
    assert marked != value and without_marks(marked) == value


def write_tokenizer(folder, **config):
    shutil.copyfile(TINY_FILE, folder / "tokenizer.json")
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return str(folder / "tokenizer.json")


def test_eos_and_bos_are_what_the_configuration_beside_says(tmp_path):
    path = write_tokenizer(
        tmp_path, eos_token="<|endoftext|>", bos_token={"content": "<|im_start|>"}
    )
    tokenizer = Tokenizer.load(path, 512)
    assert tokenizer.encode("<|endoftext|>") == [tokenizer.eos_id]
    assert tokenizer.encode("<|im_start|>") == [tokenizer.bos_id]
    assert (
        tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("left"), tokenizer.eos_id]) == "left"
    )


def test_without_bos_sequences_begin_with_eos(tmp_path):
    path = write_tokenizer(tmp_path, eos_token="<|endoftext|>", bos_token=None)
    tokenizer = Tokenizer.load(path, 512)
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.encode("<|endoftext|>")[0]


def test_a_vocabulary_of_olmo3_size_is_padded_with_its_own_fillers():
    # OLMo3 embeds 100278 tokens; our small one stands for a tokenizer with fewer.
    tokenizer = Tokenizer.load("tiny", 100278)
    assert tokenizer.special_ids["<im_start>"] == 100278
    (first,) = tokenizer.encode("|<EXTRA_TOKENS_0>|")
    assert first <= 512
    assert tokenizer.encode(f"|<EXTRA_TOKENS_{100277 - first}>|") == [100277]


def test_the_carried_part_of_qwen3_is_as_large_as_the_full_one():
    for path in (qwen3_tokenizer_path(), reduced_tokenizer_path()):
        assert Tokenizer.load(str(path), VOCAB_SIZE).encode("|<EXTRA_TOKENS_0>|") == [151669]


def test_tokenizers_with_other_marks_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match="has no '</s>'"):
        Tokenizer.load(write_tokenizer(tmp_path, eos_token="</s>"), 512)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(TokenizerError, match=f"{CONFIG_FILE}' is not valid JSON"):
        Tokenizer.load(str(tmp_path / "tokenizer.json"), 512)


def plain(annotation, mode="train"):
    (worded,) = plainly_worded(SourceExample((annotation,))).annotations
    return Formatter().format(worded, mode=mode, rng=np.random.RandomState(0)).messages


def test_a_plain_prompt_has_the_options_without_letters():
    choice = {"question": "Which?", "options": ["a cat", "a dog"], "answer_idx": 1}
    text, answer = plain(choice)
    assert answer == "a dog"
    assert text == (
        "<|im_start|>user\nWhich?\nOnly return the correct answer option.\na cat\na dog"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert plain(choice, "inference") == [text]
    ids = TOKENIZER.encode(text)
    assert ids.count(TOKENIZER.eos_id) == 1
    parts = text.split("<|im_end|>")
    cut = ids.index(TOKENIZER.eos_id)
    assert TOKENIZER.decode(ids[:cut]) == parts[0] and TOKENIZER.decode(ids[cut:]) == parts[1]


def test_captions_and_turns_are_worded_plainly_too():
    assert plain({"text": "A dog.", "style": "video_long_caption"})[1] == "A dog."
    turns = [{"question": f"q{k}?", "answer": f"a{k}"} for k in range(2)]
    said = plain({"multi_turn_messages": turns})
    assert said[1::2] == ["a0", "a1"] and "user\nq1?<" in said[2]


# ------------------------------------------------------------------------------------- messages

ARRAYS = MessageArrays(TOKENIZER)
BLOCK = VisionBlock(np.array(TOKENIZER.encode("<frame_start><im_patch><im_patch><frame_end>")))
BRANCHES = [
    ["What colour?", "red"],
    ["Where?", "top left", "And now?", "top right"],
    ["How many?", "three"],
]


def text_of(arrays, kept):
    return decode_all(TOKENIZER, arrays["input_ids"][kept])


def test_branch_and_trunk_together_are_the_conversation_alone():
    tree = ARRAYS.tree(BRANCHES, [BLOCK])
    segments = tree["subsegment_ids"]
    for k, messages in enumerate(BRANCHES):
        alone = ARRAYS.conversation(messages, [BLOCK])
        own = (segments == SHARED) | (segments == k)
        for name in ("input_ids", "position_ids"):
            np.testing.assert_array_equal(tree[name][own], alone[name])
        own = segments == k
        np.testing.assert_array_equal(tree["labels"][own], alone["labels"][-own.sum() :])
        np.testing.assert_array_equal(tree["loss_masks"][own], alone["loss_masks"][-own.sum() :])


def test_a_question_has_no_loss_and_an_answer_has():
    arrays = ARRAYS.conversation(["Where?", "top left"], [BLOCK])
    predicted = arrays["labels"][arrays["loss_masks"] > 0]
    assert predicted.tolist() == [*TOKENIZER.encode("top left"), TOKENIZER.eos_id]


def test_a_prompt_is_the_conversation_without_its_answer():
    prompt = ARRAYS.prompt(["Where?"], [BLOCK])
    whole = ARRAYS.conversation(["Where?", "top left"], [BLOCK])
    length = len(prompt["input_ids"])
    for name in ("input_ids", "position_ids", "subsegment_ids"):
        np.testing.assert_array_equal(prompt[name], whole[name][:length])
    assert not prompt["loss_masks"].any()


def test_images_stand_where_the_placeholder_stands():
    text = "see <|image|>and<|image|>now"
    arrays = ARRAYS.prompt([text], [BLOCK, BLOCK])
    block = decode_all(TOKENIZER, BLOCK.tokens)
    assert text_of(arrays, slice(None)) == f"see {block}and{block}now"


def test_branches_stop_where_an_answer_would_begin_too_late():
    everything = ARRAYS.tree(BRANCHES, [BLOCK])
    segments = everything["subsegment_ids"]
    answers = [np.argmax((segments == k) & (everything["loss_masks"] > 0)) + 1 for k in (1, 2)]
    for limit, kept in ((1, 1), (answers[0], 1), (answers[0] + 1, 2), (answers[1] + 1, 3)):
        settings = TextSettings(max_sequence_length=int(limit))
        cut = MessageArrays(TOKENIZER, settings).tree(BRANCHES, [BLOCK])
        assert set(cut["subsegment_ids"]) == {SHARED, *range(kept)}, limit


def test_branches_stop_when_there_is_enough_text():
    first = len(MessageArrays(TOKENIZER).tree(BRANCHES[:2])["input_ids"])
    for limit, kept in ((1, 1), (first, 2), (first + 1, 3)):
        settings = TextSettings(max_text_tokens=limit)
        cut = MessageArrays(TOKENIZER, settings).tree(BRANCHES, [BLOCK])
        assert set(cut["subsegment_ids"]) == {SHARED, *range(kept)}, limit


def test_eos_counts_in_the_length_of_a_plain_answer_but_not_in_a_branch():
    arrays = MessageArrays(TOKENIZER, TextSettings(LOSS_WEIGHTS["root_subsegments_root_tokens"]))
    length = len(TOKENIZER.encode("top left"))
    plain = arrays.conversation(["Where?", "top left"])["loss_masks"]
    assert plain[-1] == pytest.approx(2 / math.sqrt(length + 1))
    branch = arrays.tree([["Where?", "top left"]] * 2)["loss_masks"]
    assert branch[-1] == pytest.approx(2 / math.sqrt(length) / math.sqrt(2))


def test_a_weight_overrides_only_what_it_sets():
    weight = MessageWeight(constant=3.0, root_length=True)
    assert weight.overridden_by(None) == weight
    assert weight.overridden_by(0.5) == MessageWeight(constant=0.5, root_length=True)
    assert weight.overridden_by(MessageWeight(root_length=False)) == MessageWeight(3.0, None, False)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ARRAYS.conversation(["Where?"]), "does not end with an answer"),
        (lambda: ARRAYS.conversation([]), "does not end with an answer"),
        (lambda: ARRAYS.conversation(["Where?", "here"], weight=0.0), "has no loss"),
        (lambda: ARRAYS.conversation(["q", "an <im_patch>"]), "holds '<im_patch>'"),
        (lambda: ARRAYS.conversation(["<|image|><|image|>", "a"], [BLOCK]), "for 1 images"),
        (lambda: ARRAYS.tree([]), "give at least one conversation"),
        (lambda: ARRAYS.tree(BRANCHES, weight=[1.0]), "a weight for each"),
        (lambda: ARRAYS.tree([["q", "a"], ["", "a"]]), "a question after the images"),
        (lambda: ARRAYS.tree([["q", "a"], ["q <|image|>"]], [BLOCK]), "a question after the image"),
        (lambda: ARRAYS.tree([["q", "a"], ["q", ""]]), "has no loss"),
        (lambda: ARRAYS.tree([["q", "a"], ["<|image|><|image|>", "a"]]), "one or none"),
        (lambda: ARRAYS.prompt(["q", "a"]), "does not end with a question"),
        (lambda: ARRAYS.prompt([""], [BLOCK]), "is empty"),
    ],
)
def test_messages_that_cannot_be_used_are_refused(make, reason):
    with pytest.raises(MessageError, match=reason):
        make()
