"""The load on the engine: what arrives when, and what is measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stts_jax.bench import serving
from stts_jax.bench.model import small_config
from stts_jax.bench.serving_load import (
    ANSWER_TOKENS,
    QUESTION_TOKENS,
    arrivals,
    malformed,
    media_rows,
    questions,
)
from stts_jax.bench.serving_run import Outcome
from stts_jax.inference.engine.checks import check_request
from stts_jax.inference.engine.requests import RequestError
from stts_jax.inference.engine.settings import EngineSettings

CONFIG = small_config(0.5)
MEDIA = media_rows(CONFIG, 3, 2)
SETTINGS = EngineSettings(
    prefix_tokens=MEDIA[0].budget.tokens, question_tokens=64, max_new_tokens=ANSWER_TOKENS[-1]
)


def test_videos_and_questions_are_requests_that_an_engine_takes():
    asked = questions(CONFIG, MEDIA, 6)
    for request in asked:
        check_request(request, CONFIG.model, SETTINGS)
    assert {len(request.question) for request in asked} <= set(QUESTION_TOKENS)
    assert {request.media.digest for request in asked} == {row.digest for row in MEDIA}
    assert MEDIA[0].digest != MEDIA[1].digest and MEDIA[0].budget == MEDIA[1].budget


@pytest.mark.parametrize("kind", range(5))
def test_a_malformed_request_is_one_that_an_engine_refuses(kind):
    wrong = malformed(questions(CONFIG, MEDIA, 1)[0], kind, SETTINGS)
    with pytest.raises(RequestError):
        check_request(wrong, CONFIG.model, SETTINGS)


def test_requests_arrive_at_the_rate_that_is_asked_for():
    arriving = arrivals(2000, 50.0, 12, cancelled=0.1, malformed=0.05)
    assert arriving == arrivals(2000, 50.0, 12, cancelled=0.1, malformed=0.05)
    assert arriving[-1].at == pytest.approx(2000 / 50, rel=0.1)
    shares = [
        np.mean([each.cancel_after is not None for each in arriving]),
        np.mean([each.malformed for each in arriving]),
    ]
    assert shares == pytest.approx([0.1, 0.05], abs=0.02)
    numbers = np.bincount([each.number for each in arriving], minlength=12)
    assert numbers.argmax() in (0, 11) and numbers.min() > 0


def test_an_outcome_says_what_was_lost_and_wrong():
    outcome = Outcome(
        seconds=2.0,
        core_seconds=1.0,
        ended={"length": 3, "cancelled": 1},
        lost=1,
        wrong=2,
        tokens=80,
        first_token_s=(0.01, 0.02, 0.03),
        token_s=None,
        resident_mb=[100.0, 104.0],
    )
    assert (outcome.tokens_per_s, outcome.tokens_per_core_s, outcome.requests_per_s) == (
        40,
        80,
        1.5,
    )
    said = str(outcome)
    for part in ("first token 10.0/20.0/30.0 ms", "3 length", "1 lost, 2 wrong", "100 to 104 MB"):
        assert part in said


@pytest.mark.slow
def test_the_command_finds_every_answer_right_and_writes_figures(tmp_path):
    given = ["--model", "small", "--frames", "3", "--slots", "3", "--requests", "20"]
    serving.main([*given, "--rates", "0.5", "--stress", "40", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "serving.json").read_text())
    for run in ("saturation", "rate 0.5", "stress"):
        assert (results[run]["lost"], results[run]["wrong"]) == (0, 0)
    assert results["stress"]["ended"]["refused"] > 0
    assert results["follow_up"]["share"] > 0
