"""The server speaks as OpenAI's clients do, and lives through what they do wrong."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
from data_video_cases import write
from serving_cases import ask, asking, client_of, data_address, engine, events, service_of
from starlette.testclient import TestClient

from stts_jax.inference.engine.requests import EngineClosedError, Request
from stts_jax.serving.access import Access, loopback_names
from stts_jax.serving.app import Readiness, make_app

LONG = [*asking()["messages"], {"role": "assistant", "content": "no"}] * 99


@pytest.fixture(scope="module")
def running():
    with engine() as running:
        yield running


@pytest.fixture(scope="module")
def client(running):
    with client_of(running) as client:
        yield client


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write(path, np.linspace(20, 220, 40))
    return data_address(path)


def test_a_video_is_asked_about(client, clip):
    said = ask(client, **asking(url=clip, prune=0.5))
    assert said.status_code == 200, said.text
    body = said.json()
    assert (body["object"], body["model"]) == ("chat.completion", "tiny")
    (choice,) = body["choices"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    assert choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert (usage["visual_tokens_before"], usage["visual_tokens_after"]) == (16, 8)
    assert usage["completion_tokens"] <= 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_further_question_finds_the_video_read(client, clip):
    first = ask(client, **asking(url=clip)).json()
    turns = [
        *asking(url=clip)["messages"],
        {"role": "assistant", "content": first["choices"][0]["message"]["content"] or "-"},
        {"role": "user", "content": "And then?"},
    ]
    body = ask(client, model="tiny", messages=turns, max_tokens=4).json()
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] > 16
    assert body["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]


def test_a_stream_says_what_a_whole_answer_does(client, clip):
    wanted = asking(url=clip, max_tokens=8)
    whole = ask(client, **wanted).json()
    stream = ask(client, **wanted, stream=True, stream_options={"include_usage": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    chunks, ended = events(stream)
    assert ended and len({chunk["id"] for chunk in chunks}) == 1
    *pieces, counts = chunks
    text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert text == whole["choices"][0]["message"]["content"]
    assert pieces[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert counts["choices"] == []
    assert counts["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_an_answer_ends_before_a_stop_text(client):
    whole = ask(client, **asking("Say more", max_tokens=30)).json()["choices"][0]["message"]
    stop = whole["content"][6:9]
    cut = ask(client, **asking("Say more", max_tokens=30, stop=[stop])).json()["choices"][0]
    assert cut["message"]["content"] == whole["content"].partition(stop)[0]
    assert cut["finish_reason"] == "stop"


def test_sampling_repeats_with_its_seed(client):
    def said(seed):
        wanted = asking(max_tokens=12, temperature=1.5, seed=seed)
        return ask(client, **wanted).json()["choices"][0]["message"]["content"]

    assert said(1) == said(1) != said(2)


def test_pictures_are_asked_about(client, tmp_path):
    PIL.Image.new("RGB", (90, 60), "red").save(tmp_path / "a.png")
    url = data_address(tmp_path / "a.png", "image/png")
    said = ask(client, **asking(url=url, kind="image"))
    assert said.status_code == 200, said.text
    usage = said.json()["usage"]
    assert usage["visual_tokens_before"] == usage["visual_tokens_after"] > 0


def test_an_upload_is_asked_about_and_shown(client, tmp_path):
    write(tmp_path / "clip.mp4", np.linspace(20, 220, 30))
    content = (tmp_path / "clip.mp4").read_bytes()
    sent = client.post("/v1/media", content=content, headers={"content-type": "video/mp4"})
    assert sent.status_code == 201
    url = sent.json()["url"]
    assert ask(client, **asking(url=url)).status_code == 200
    kept = client.post("/v1/kept", json={"url": url, "prune": 0.5}).json()
    assert (kept["visual_tokens_before"], kept["visual_tokens_after"]) == (16, 8)
    keep, scores = np.array(kept["keep"]), np.array(kept["scores"])
    assert keep.shape == scores.shape == (4, 4) and keep.sum() == 8
    assert keep[0].all()  # of the first frame all stay
    assert scores[1:][keep[1:] == 1].min() >= scores[1:][keep[1:] == 0].max()
    assert len(kept["frames"]) == 4 and kept["frames"][0].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("changes", "status", "word"),
    (
        ({"model": "other"}, 404, "tiny"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "no text"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "assistant"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "role"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"prune": 1.5}, 400, "prune"),
        ({"prune": "auto"}, 400, "threshold"),
        ({"frames": 99}, 400, "frames"),
        ({"n": 2}, 400, "n is 2"),
        ({"tools": [{}]}, 400, "tools"),
        ({"seed": float(2**70)}, 400, "seed"),
        ({"max_tokens": 10**400}, 400, "max_tokens"),
        ({"temperature": 10**400}, 400, "temperature"),
        ({"stop": "a" * 1001}, 400, "stop"),
        (asking("a " * 2000), 400, "tokens"),
        (asking("a" * 100_000), 400, "letters"),
        ({"messages": LONG + asking()["messages"]}, 400, "199 messages"),
        (asking(url="file:///etc/passwd"), 403, "--media-root"),
        (asking(url="http://127.0.0.1/a.mp4"), 403, "fetches nothing"),
        (asking(url="data:video/mp4;base64,AAAA"), 400, "video"),
    ),
)
def test_what_is_wrong_is_said(client, changes, status, word):
    said = ask(client, **{**asking(), **changes})
    error = said.json()["error"]
    assert (said.status_code, word in error["message"]) == (status, True), error
    assert "/etc" not in error["message"] or "file" not in error["message"]


def test_a_body_that_is_no_json_is_refused(client):
    head = {"content-type": "application/json"}
    assert client.post("/v1/chat/completions", content=b"{", headers=head).status_code == 400
    deep = client.post("/v1/chat/completions", content=b"[" * 99_999, headers=head)
    assert deep.status_code == 400
    form = {"content-type": "text/plain"}  # what a page of another site may send
    assert client.post("/v1/chat/completions", content=b"{}", headers=form).status_code == 415
    large = client.post("/v1/chat/completions", content=b" " * 5_000_000, headers=head)
    assert large.status_code == 413


def test_metrics_and_the_list_of_models(client):
    assert client.get("/health").text == "ok\n"
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    ask(client, **asking())
    text = client.get("/metrics").text
    for name in ("stts_queue_length", "stts_slots 2", "stts_first_token_seconds_count",
                 'route="/v1/chat/completions",status="200"', "stts_kept_share"):  # fmt: skip
        assert name in text
    assert client.get("/none").json()["error"]


def test_keys_and_names_are_asked_for(running):
    def client(access, host="http://localhost"):
        # Without its lifespan: it is never ready, and leaves the engine open.
        return TestClient(make_app(service_of(running), access, Readiness()), base_url=host)

    locked = client(Access(["one", "two"]))
    assert locked.get("/health").status_code == 200
    for key, status in ((None, 401), ("three", 401), ("", 401), ("two", 200)):
        head = {} if key is None else {"authorization": f"Bearer {key}"}
        assert locked.get("/v1/models", headers=head).status_code == status
    for host, status in (("http://evil.test", 421), ("http://localhost:8000", 200)):
        assert client(Access((), loopback_names()), host).get("/health").status_code == status


def test_nothing_is_answered_before_it_is_ready(running):
    client = TestClient(make_app(service_of(running), Access(), Readiness()))
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503
    said = client.post("/v1/chat/completions", json=asking())
    assert said.status_code == 503 and said.headers["retry-after"]


def test_a_request_that_is_not_answered_when_the_server_ends_is_told_so(running):
    readiness = Readiness()
    readiness.is_ready = True
    app = make_app(service_of(running), Access(), readiness)
    head = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": head}
    sent = []

    async def run():
        reading = asyncio.Event()

        async def receive():
            reading.set()
            await asyncio.Event().wait()  # half of the body, and no more

        async def send(message):
            sent.append(message)

        request = asyncio.ensure_future(app({**scope, "query_string": b""}, receive, send))
        await reading.wait()
        request.cancel()  # as uvicorn does when the seconds of --drain are over
        await request

    asyncio.run(run())
    assert sent[0]["status"] == 503 and (b"retry-after", b"5") in sent[0]["headers"]
    assert b"the server is closing" in sent[1]["body"]


def test_the_log_has_no_contents(client, clip, caplog):
    with caplog.at_level("INFO"):
        ask(client, **asking("a secret question", url=clip))
        client.get("/none?secret=1")
    said = [each.getMessage() for each in caplog.records if each.name.startswith("stts")]
    assert any(each.startswith("POST /v1/chat/completions 200") for each in said)
    assert not any("secret" in each or "base64" in each for each in said)


def test_a_full_queue_is_one_error_for_whoever_comes_too_late(client, running):
    long = asking("Say more", max_tokens=64)
    with ThreadPoolExecutor(12) as threads:
        said = [*threads.map(lambda _: ask(client, **long), range(12))]
    late = [each for each in said if each.status_code == 429]
    assert late and all(each.headers["retry-after"] for each in late)
    good = [each.json()["choices"][0]["message"]["content"] for each in said if each not in late]
    assert len(good) >= 4 and len(set(good)) == 1
    assert running.statistics().active == 0


def test_the_engine_closes_with_the_server():
    with engine() as own:
        with client_of(own) as client:
            assert client.get("/ready").status_code == 200
        with pytest.raises(EngineClosedError):
            own.submit(Request((1, 2)))
