"""The engine: many requests at once answer as each does alone."""

from __future__ import annotations

import dataclasses
import threading
import time

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
    CancelledError,
    EngineClosedError,
    MediaRow,
    QueueFullError,
    Request,
    RequestError,
)
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.inference.prefix import empty_prefix, read_media
from stts_jax.inference.questions import answer_questions, question_rows
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import reconfigure
from stts_jax.parallel.mesh import make_mesh, parameter_shardings
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.size_buckets import with_counts

UNTIED = small(llm__tied_head=False)
END = 7
BUDGET = Budget(
    frames=3, examples=1, patches=243, visual=27, visual_before=75, tokens=40, tokens_before=88
)
SETTINGS = EngineSettings(
    slots=3, prefix_tokens=64, question_tokens=64, max_new_tokens=24, cache_bytes=70_000, queue=40
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
        prefix = read.prefix
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


def request(number: int, **changes) -> Request:
    rng = np.random.default_rng(number)
    question = tuple(rng.integers(8, 60, rng.integers(1, 40)).tolist())
    media = (None, *MEDIA)[number % (1 + len(MEDIA))]
    length = int(rng.integers(1, SETTINGS.max_new_tokens))
    return Request(question, media, max_new_tokens=length, **changes)


MEDIA = [media_row(0), media_row(1, frames=2), media_row(2, IMAGE)]


@pytest.fixture(scope="module")
def engine():
    model = small_model(UNTIED)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])  # as the commands load a model on one device
    model = jax.device_put(model, parameter_shardings(model, mesh))
    with Engine(model, END, SETTINGS) as engine:
        yield engine


def test_greedy_answers_are_those_of_each_request_alone(engine):
    requests = [request(seed) for seed in range(12)]
    handles = [engine.submit(each) for each in requests]
    said = [handle.result(120) for handle in handles]
    assert said == [alone(each) for each in requests]
    assert len({tuple(tokens) for tokens in said}) > 6


def test_sampled_answers_are_those_of_each_request_alone(engine):
    warm = [Sampling(1.5), Sampling(0.8, top_k=5), Sampling(1.2, top_p=0.7), Sampling()]
    requests = [request(n, sampling=each, seed=n) for n, each in enumerate(warm)]
    handles = [engine.submit(each) for each in requests]
    assert [handle.result(120) for handle in handles] == [alone(each) for each in requests]
    other = engine.submit(dataclasses.replace(requests[0], seed=99)).result(120)
    assert other != handles[0].result()


def test_media_are_read_once_and_others_leave_when_there_are_too_many(engine):
    def asked(media):
        handle = engine.submit(Request((9, 10), media, max_new_tokens=2))
        handle.result(120)
        return handle.media

    first = media_row(10)
    seen = asked(first)
    assert (seen.cached, asked(first).cached) == (False, True)
    assert seen.keep.shape == seen.scores.shape == (3, UNTIED.tokens_per_frame)
    assert seen.after == seen.keep.sum() < seen.before == seen.keep.size
    one = engine.statistics().cache_bytes / engine.statistics().cache_entries
    room = int(SETTINGS.cache_bytes / one)
    for seed in range(11, 11 + room):
        asked(media_row(seed))
    assert not asked(first).cached
    assert engine.statistics().cache_bytes <= SETTINGS.cache_bytes


@pytest.mark.parametrize("ahead", [1, 3])
def test_answers_are_the_same_with_steps_ahead_of_the_tokens(ahead, engine, monkeypatch):
    monkeypatch.setattr(engine, "_ahead", ahead)
    requests = [request(number) for number in range(8)]
    handles = [engine.submit(each) for each in requests]
    assert [handle.result(120) for handle in handles] == [alone(each) for each in requests]


def test_the_same_pixels_at_another_ratio_are_read_again(engine):
    half = media_row(30)
    fewer = dataclasses.replace(
        half, batch=dataclasses.replace(half.batch, to_prune=half.batch.to_prune + 1)
    )
    counts = []
    for media in (half, fewer):
        handle = engine.submit(Request((9,), media, max_new_tokens=1))
        handle.result(120)
        counts.append(handle.media.after)
    assert counts[1] == counts[0] - 1


def test_tokens_come_one_by_one_and_a_cancelled_request_frees_its_slot(engine):
    long = dataclasses.replace(request(3), max_new_tokens=24)
    expected = alone(long)
    assert len(expected) == 24, "choose a request without an early end"
    taken = [engine.submit(long) for _ in range(SETTINGS.slots)]
    behind = engine.submit(Request((11,), max_new_tokens=1))
    stream = taken[0].tokens(120)
    assert [next(stream) for _ in range(3)] == expected[:3]
    taken[0].cancel()
    with pytest.raises(CancelledError):
        list(stream)
    assert behind.result(120) == alone(behind.request)
    assert [handle.result(120) for handle in taken[1:]] == [expected] * 2
    assert (taken[0].finish_reason, taken[1].finish_reason) == ("cancelled", "length")
    assert taken[0].count < 24


def test_a_request_that_was_cancelled_in_the_queue_never_starts(engine):
    long = dataclasses.replace(request(3), max_new_tokens=24)
    taken = [engine.submit(long) for _ in range(SETTINGS.slots)]
    waiting = engine.submit(request(1))
    waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result(120)
    assert waiting.times.started is None
    assert not all(handle.finish_reason for handle in taken)
    assert all(handle.result(120) for handle in taken)


def wrong_media(**changes) -> MediaRow:
    return dataclasses.replace(MEDIA[0], **changes)


def wrong_array(name: str, value) -> MediaRow:
    arrays = MEDIA[0].batch.to_arrays()
    arrays[name] = value(arrays[name].copy())
    return wrong_media(batch=type(MEDIA[0].batch).from_arrays(arrays))


def filled(value: int):
    def change(array):
        array[0, 0] = value
        return array

    return change


def asking(question, media=None, max_new_tokens=1, **changes) -> Request:
    return Request(question, media, max_new_tokens, **changes)


VISUAL = UNTIED.llm.special_token("<im_patch>")
MALFORMED = {
    "no tokens": asking(()),
    "no text": asking((5, VISUAL)),
    "below 80": asking((5, 10**6)),
    "at most 64": asking((5,) * 65),
    "takes 1 to 24": asking((5,), max_new_tokens=25),
    "temperature is -1": asking((5,), sampling=Sampling(-1.0)),
    "top_p is 0": asking((5,), sampling=Sampling(1.0, top_p=0.0)),
    "'images' of the media": asking((5,), wrong_array("images", lambda x: x[:, :2])),
    "'to_prune' of the media": asking((5,), wrong_array("to_prune", lambda x: x.astype(np.int64))),
    "visual tokens in the text": asking((5,), wrong_array("input_ids", filled(VISUAL))),
    "no id below": asking((5,), wrong_array("input_ids", filled(10**6))),
    "beyond their last frame": asking((5,), wrong_array("token_pooling", filled(243))),
    "drop fewer": asking((5,), wrong_array("to_prune", filled(10**6))),
    "of the budget": asking((5,), wrong_media(budget=dataclasses.replace(BUDGET, visual=10))),
    "take fewer frames": asking((5,), wrong_media(budget=dataclasses.replace(BUDGET, tokens=65))),
    "another model": asking((5,), wrong_media(model=small(llm__width=32))),
}


@pytest.mark.parametrize("sentence", MALFORMED)
def test_a_malformed_request_is_refused_at_once(sentence, engine):
    with pytest.raises(RequestError, match=sentence):
        engine.submit(MALFORMED[sentence])


def test_a_request_that_fails_on_the_devices_fails_alone(engine, monkeypatch):
    devices = engine._devices
    good = engine.submit(dataclasses.replace(request(3), max_new_tokens=24))
    monkeypatch.setattr(devices, "_read", lambda *_: 1 / 0)
    bad = engine.submit(asking((5,), media_row(40)))
    with pytest.raises(ZeroDivisionError):
        bad.result(120)
    monkeypatch.undo()
    assert bad.finish_reason == "failed"
    assert good.result(120) == alone(good.request)
    assert engine.submit(request(1)).result(120) == alone(request(1))


def test_a_lost_batch_fails_those_in_it_and_the_engine_goes_on(engine, monkeypatch):
    monkeypatch.setattr(engine._devices, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.submit(dataclasses.replace(request(3), max_new_tokens=24)).result(120)
    monkeypatch.undo()
    assert engine.submit(request(1)).result(120) == alone(request(1))


def test_an_engine_compiles_a_program_for_each_size_once(engine):
    """What a warm-up compiles is what requests run, whichever came first."""
    engine.warm_up(MEDIA[:1])
    requests = [Request((9, 10, number), MEDIA[0], max_new_tokens=6) for number in range(11, 16)]
    for handle in [engine.submit(each) for each in requests]:
        handle.result(120)
    programs = engine._devices._programs
    counts = programs.join.func._cache_size(), programs.step.func._cache_size()
    assert counts == (2, 1)  # a prompt joins after media, or after none


def test_a_listener_hears_of_tokens_and_may_fail(engine):
    heard, done = [], threading.Event()

    def listen(handle):
        heard.append(handle.count)
        if handle.finish_reason:
            done.set()
        raise ValueError("of a listener")

    handle = engine.submit(dataclasses.replace(request(3), max_new_tokens=5), listen)
    assert handle.result(120) and done.wait(60)
    assert heard == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"fsdp": 2, "tensor": 2}, {"data": 3}])
def test_an_engine_over_a_mesh_answers_alike(shape):
    """Slots are shared over `data` and `fsdp` where they divide, heads over `tensor`."""
    model = small_model(UNTIED)
    mesh = make_mesh(shape, jax.devices()[: int(np.prod(list(shape.values())))])
    model = jax.device_put(model, parameter_shardings(model, mesh))
    requests = [request(number) for number in range(6)]
    with Engine(model, END, dataclasses.replace(SETTINGS, steps=2)) as engine:
        engine.warm_up(MEDIA[:1])
        handles = [engine.submit(each) for each in requests]
        said = [handle.result(300) for handle in handles]
    assert said == [alone(each) for each in requests]


@pytest.mark.slow
def test_a_video_below_a_threshold_is_kept_in_the_bucket_of_what_stays():
    config = small(llm__tied_head=False, prune__threshold=0.57)
    model, media = small_model(config), dataclasses.replace(MEDIA[0], model=config)
    asked = Request((9, 10, 11), media, max_new_tokens=12)
    with Engine(model, END, SETTINGS) as engine:
        engine.warm_up([media])
        handle = engine.submit(asked)
        said = handle.result(300)
    assert said == alone(asked)
    assert handle.media.after == handle.media.keep.sum() < handle.media.before


def statistics_at_rest(engine):
    """The counts when nothing is under way; an answer may end before it is counted."""
    while (found := engine.statistics()).active or found.queued:
        time.sleep(0.001)
    return found


def test_the_statistics_count_what_happened(engine):
    before = statistics_at_rest(engine)
    handles = [engine.submit(request(number)) for number in range(4)]
    tokens = sum(len(handle.result(120)) for handle in handles)
    after = statistics_at_rest(engine)
    assert after.submitted - before.submitted == 4
    assert after.tokens - before.tokens == tokens
    assert sum(after.ended.values()) - sum(before.ended.values()) == 4
    assert after.slots == SETTINGS.slots and after.cache_bytes > 0
    assert after.first_token_s[0] > 0 and 0 < after.kept_share < 1


def test_a_full_queue_refuses_and_a_closed_engine_ends_what_waits(engine, monkeypatch):
    monkeypatch.setattr(engine, "settings", dataclasses.replace(SETTINGS, queue=0))
    long = dataclasses.replace(request(3), max_new_tokens=24)
    handles = [engine.submit(long) for _ in range(SETTINGS.slots)]
    refused = engine.statistics().refused
    with pytest.raises(QueueFullError, match="come again"):
        for _ in range(40):
            handles.append(engine.submit(long))
    assert engine.statistics().refused == refused + 1
    engine.close()
    for handle in handles:
        if handle.finish_reason != "length":
            with pytest.raises(EngineClosedError):
                handle.result(5)
    with pytest.raises(EngineClosedError):
        engine.submit(long)
