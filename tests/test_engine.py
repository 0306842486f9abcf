"""The engine: many requests at once answer as each does alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from model_cases import small_model
from model_cases import small_model_config as small
from random_batches import IMAGE, VIDEO, random_example

from stts_jax.budget import Budget
from stts_jax.data.packing.rows import pack_row, stack_rows
from stts_jax.inference.decoding import decoding_keys
from stts_jax.inference.engine.engine import Engine
from stts_jax.inference.engine.requests import (
    MediaRow,
    Request,
)
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.inference.prefix import empty_prefix, fitted, read_media
from stts_jax.inference.questions import answer_questions, question_rows
from stts_jax.model.video_language_model import reconfigure
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.size_buckets import with_counts

UNTIED = small(llm__tied_head=False)
END = 7
BUDGET = Budget(
    frames=3, examples=1, patches=243, visual=27, visual_before=75, tokens=40, tokens_before=88
)
SETTINGS = EngineSettings(
    slots=3, prefix_tokens=64, question_tokens=64, max_new_tokens=24, cache_bytes=200_000, queue=40
)


def media_row(seed: int, kind=VIDEO, frames: int = 3) -> MediaRow:
    rng = np.random.default_rng(seed)
    example = random_example(rng, UNTIED, kind, frames)
    end = int(np.flatnonzero(example["input_ids"] == UNTIED.llm.special_token("<frame_end>"))[-1])
    text = ("input_ids", "labels", "loss_masks", "position_ids", "subsegment_ids")
    example |= {name: example[name][: end + 1] for name in text}
    example["subsegment_ids"] = np.zeros(end + 1, np.int32)
    batch = with_counts(stack_rows([pack_row([example], BUDGET, UNTIED)]), UNTIED)
    return MediaRow(batch, BUDGET, UNTIED)


def alone(request: Request) -> list[int]:
    """The answer to a request without the engine, up to its end."""
    model = small_model(UNTIED)
    key = jax.random.fold_in(key_of_seed(request.seed), 0)
    prefix = empty_prefix(model)
    if request.media is not None:
        media = request.media
        read = read_media(
            reconfigure(model, media.model), media.batch, media.budget, decoding_keys(key)[0]
        )
        prefix = fitted(read.prefix)
    said = answer_questions(
        model,
        prefix,
        question_rows([request.question], UNTIED.llm),
        max_new_tokens=SETTINGS.max_new_tokens,
        end_token=END,
        sampling=request.sampling,
        key=key,
    ).tokens
    tokens = np.asarray(said)[0].tolist()
    end = tokens.index(END) if END in tokens else len(tokens)
    return tokens[: min(end, request.max_new_tokens)]


def request(seed: int, **changes) -> Request:
    rng = np.random.default_rng(seed)
    question = tuple(rng.integers(8, 60, rng.integers(1, 40)).tolist())
    media = (None, *MEDIA)[seed % (1 + len(MEDIA))]
    length = int(rng.integers(1, SETTINGS.max_new_tokens))
    return Request(question, media, max_new_tokens=length, **changes)


MEDIA = [media_row(0), media_row(1, frames=2), media_row(2, IMAGE)]


@pytest.fixture(scope="module")
def engine():
    with Engine(small_model(UNTIED), END, SETTINGS) as engine:
        yield engine


def test_greedy_answers_are_those_of_each_request_alone(engine):
    requests = [request(seed) for seed in range(12)]
    handles = [engine.submit(each) for each in requests]
    said = [handle.result(120) for handle in handles]
    assert said == [alone(each) for each in requests]
    assert len({tuple(tokens) for tokens in said}) > 6
