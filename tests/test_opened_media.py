"""Media that are opened once and asked about many times answer as they do when asked alone."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from reference_cases import worst

from stts_jax.config import override
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import least_budget
from stts_jax.data.packing.rows import pack_row, stack_rows
from stts_jax.data.text.message_arrays import MessageError
from stts_jax.evaluation import single
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.opened_media import OpenedMedia, open_media
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import decode, decoding_keys, first_state
from stts_jax.inference.prefill import prefill
from stts_jax.inference.questions import QuestionError, question_rows, read_question
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import reconfigure
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.size_buckets import with_counts
from stts_jax.training.checkpointing.load import load_model

pytest_plugins = ["command_fixtures"]
NEW = 3
QUESTION = "Which shape is seen?"
LONGER = "What colour is it, and where does it go after that?"
# Of the largest logit; worst seen 3e-7.
LOGITS = 2e-5
# The same in bfloat16, whose steps are 4e-3; worst seen 0.
HALF_LOGITS = 5e-2


@pytest.fixture(scope="module")
def trained(checkpoint):
    model, config = load_model(checkpoint)
    return model, override(config, [f"eval.max_new_tokens={NEW}"])


@pytest.fixture(scope="module")
def opened(trained, video):
    return open_media(*trained, Asked(video))


@pytest.fixture(scope="module")
def pictures(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [folder / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return open_media(*trained, Asked(None, images=tuple(paths)))


@pytest.fixture(scope="module")
def text_alone(trained):
    return open_media(*trained, SourceExample(({},)))


def whole_prompt(opened: OpenedMedia, tokens):
    """The batch of media and text in one prompt, and its budget: one for all cases."""
    model, arrays = opened.chain.model, opened.chain.before_questions(opened.source, opened.media)
    if opened.read is None:
        tokens = tokens[1:]  # BOS is in the arrays
    first = arrays["position_ids"][-1] + 1
    more = {
        "input_ids": np.array(tokens, np.int32),
        "labels": np.zeros(len(tokens), np.int32),
        "loss_masks": np.zeros(len(tokens), np.float32),
        "position_ids": first + np.arange(len(tokens), dtype=np.int32),
        "subsegment_ids": np.zeros(len(tokens), np.int32),
    }
    arrays = arrays | {name: np.concatenate([arrays[name], more[name]]) for name in more}
    budget = least_budget(opened.config)
    budget = dataclasses.replace(
        budget,
        patches=budget.frames * model.vit.patches,
        visual=budget.visual_before,
        tokens=300,
        tokens_before=300,
    )
    return with_counts(stack_rows([pack_row([arrays], budget, model)]), model), budget


def key_of(opened: OpenedMedia, number: int = 0) -> jax.Array:
    return jax.random.fold_in(key_of_seed(opened.config.train.seed), number)


@partial(jit_to_answer, static_argnums=(2, 3))
def whole(model, batch, budget, end_token, key):
    """The logits of the first token of an answer to a whole prompt, and the answer."""
    read = prefill(model, batch, budget, NEW, decoding_keys(key)[0])
    state = first_state(read, end_token, Sampling(), key)
    return read.logits, decode(model, state, NEW, end_token, Sampling())


def asked_whole(opened: OpenedMedia, tokens, number: int = 0):
    batch, budget = whole_prompt(opened, tokens)
    batch, end = jax.tree.map(jnp.asarray, batch), opened.chain.tokenizer.eos_id
    return whole(opened.model, batch, budget, end, key_of(opened, number))


def whole_answer(opened: OpenedMedia, tokens, number: int = 0):
    return np.asarray(asked_whole(opened, tokens, number)[1])[0].tolist()


@jit_to_answer
def parted_logits(model, prefix, question):
    return read_question(model, prefix, question, NEW).logits


def error_of_logits(opened: OpenedMedia) -> float:
    """Of the first token of an answer after the prefix, against the whole prompt."""
    tokens = opened.tokens_of(QUESTION)[-1]
    rows = question_rows([tokens], opened.config.model.llm)
    logits = parted_logits(opened.model, opened.prefix, rows)
    return worst(logits, np.asarray(asked_whole(opened, tokens)[0]))


# ---------------------------------------------------------------------------------- one question


@pytest.mark.parametrize("kind", ["opened", "pictures", "text_alone"])
@pytest.mark.parametrize("question", [QUESTION, LONGER])
def test_an_answer_is_that_of_the_whole_prompt(kind, question, request):
    opened = request.getfixturevalue(kind)
    tokens = opened.tokens_of(question)[-1]
    said = opened.chain.tokenizer.decode(whole_answer(opened, tokens))
    assert opened.ask(question) == said != ""


def test_the_tokens_of_a_question_are_those_that_asking_alone_reads(opened, trained, video):
    asked = Asked(video, QUESTION, ("circle", "a square"))
    prompt = opened.chain.prompt(asked.example(trained[1]), 0).arrays
    media = opened.chain.before_questions(opened.source, opened.media)
    tokens = opened.tokens_of(QUESTION, asked.options)[-1]
    np.testing.assert_array_equal([*media["input_ids"], *tokens], prompt["input_ids"])
    for name in ("images", "token_pooling", "num_images"):
        np.testing.assert_array_equal(media[name], prompt[name])


def test_an_opened_video_answers_as_asking_alone_does(opened, trained, video):
    assert opened.ask(QUESTION) == single.ask(*trained, video, QUESTION)


@pytest.mark.slow
def test_an_opened_video_chooses_as_asking_alone_does(opened, trained, video):
    options = ("circle", "a square")
    assert opened.ask(QUESTION, options) == single.ask(*trained, video, QUESTION, options)


def test_what_stays_is_what_show_shows(opened, trained, video):
    kept, shown = opened.kept(), single.kept_tokens(*trained, Asked(video))
    np.testing.assert_array_equal(kept.keep, shown.keep)
    np.testing.assert_allclose(kept.scores, shown.scores, atol=1e-6)
    before, after = opened.visual_tokens
    assert after == kept.keep.sum() < before == kept.keep.size


LIKE_ALONE = {
    "a ratio": (),
    "nothing dropped": ("model.prune.topk=0",),
    "a threshold": ("model.prune.threshold=0.5",),
    "within images": ("model.llm.bidirectional=within_image",),
    "causal": ("model.llm.bidirectional=none",),
    "random": ("model.prune.method=random",),
    "bfloat16": ("model.compute_dtype=bfloat16",),
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c == "a ratio" else pytest.mark.slow) for c in LIKE_ALONE]
)
def test_logits_after_a_prefix_are_those_of_the_whole_prompt(case, trained, video, report_error):
    model, config = trained
    config = override(config, LIKE_ALONE[case])
    opened = open_media(reconfigure(model, config.model), config, Asked(video))
    error = error_of_logits(opened)
    limit = HALF_LOGITS if case == "bfloat16" else LOGITS
    report_error(f"logits after a prefix, {case}", error, limit)
    assert error < limit


# --------------------------------------------------------------------------------- several turns


def test_a_conversation_goes_on_from_what_was_said(opened):
    conversation = opened.conversation()
    tokens, end = [], opened.chain.tokenizer.eos_id
    for number, question in enumerate((QUESTION, LONGER, "And then?")):
        earlier = tuple(conversation.turns)
        tokens += opened.tokens_of(question, earlier=earlier)[-1]
        said = whole_answer(opened, tokens, number)
        assert conversation.ask(question) == opened.chain.tokenizer.decode(said)
        tokens += [*said[: said.index(end) if end in said else NEW], end]
    assert len(conversation.turns) == 3


def test_two_conversations_about_a_video_do_not_meet(opened):
    first, second = opened.conversation(), opened.conversation()
    alone = opened.conversation()
    alone.ask(QUESTION)
    first.ask(LONGER)
    assert second.ask(QUESTION) == alone.turns[0][1]


# -------------------------------------------------------------------------------- what is refused


def test_a_question_with_visual_tokens_is_refused(opened):
    llm = opened.config.model.llm
    for wrong in (llm.special_token("<im_patch>"), -1, 10**6):
        with pytest.raises(QuestionError, match=f"token id {wrong}"):
            question_rows([[5, wrong]], llm)
    with pytest.raises(QuestionError, match="no tokens"):
        question_rows([[]], llm)


def test_a_place_for_an_image_in_a_question_is_refused_or_is_text(opened):
    assert opened.ask("What is <|image|> and <im_patch>?")
    source = dataclasses.replace(
        opened.source,
        annotations=({"style": "user_qa", "prompt": "<|image|> What?"},),
        literal=False,
    )
    with pytest.raises(MessageError, match="come before all text"):
        opened.chain.questions(source, 0, opened.media)
