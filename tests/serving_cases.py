"""A served model of the smallest size, and clients of it."""

from __future__ import annotations

import base64
import contextlib
import json

from arbitrary_models import arbitrary_model
from starlette.testclient import TestClient
from training_cases import small_config

from stts_jax.inference.engine.engine import Engine
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.serving.access import Access
from stts_jax.serving.app import Readiness, make_app
from stts_jax.serving.command import end_token_of
from stts_jax.serving.decoding_pool import DecodingPool
from stts_jax.serving.limits import Limits
from stts_jax.serving.media_address import MediaAddresses
from stts_jax.serving.media_files import MediaFiles
from stts_jax.serving.service import Service

LIMITS = Limits(bytes=200_000, frames=4, decoders=1, images=2)
SETTINGS = EngineSettings(
    slots=2, prefix_tokens=192, question_tokens=128, max_new_tokens=64, queue=2
)
CONFIG = (
    "model.vit.patch_size=8",
    "model.prune.pooling=2",
    "model.llm.vocab_size=512",
    "eval.max_new_tokens=6",
)


def config():
    return small_config(*CONFIG)


@contextlib.contextmanager
def engine():
    """An engine with an untrained model, which seldom ends an answer by itself."""
    with Engine(arbitrary_model(config().model), end_token_of(config()), SETTINGS) as running:
        yield running


def service_of(running, limits=LIMITS, root=None):
    files = MediaFiles(limits.stored_bytes)
    addresses = MediaAddresses(files, limits, root)
    return Service("tiny", config(), running, limits, addresses, DecodingPool(limits))


@contextlib.contextmanager
def client_of(running, access=None, limits=LIMITS):
    """A client of a server around an engine, which closes with it."""
    service = service_of(running, limits)
    app = make_app(service, access or Access(), Readiness(), drain_seconds=1.0)
    with TestClient(app, base_url="http://localhost") as client:
        for _ in range(200):
            if client.get("/ready").status_code == 200:
                break
        yield client


def data_address(path, kind="video/mp4"):
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def asking(text="What moves?", url=None, kind="video", **more):
    """The body of a chat request."""
    parts = [{"type": "text", "text": text}]
    if url is not None:
        parts.insert(0, {"type": f"{kind}_url", f"{kind}_url": {"url": url}})
    return {"model": "tiny", "messages": [{"role": "user", "content": parts}], **more}


def ask(client, **body):
    return client.post("/v1/chat/completions", json=body)


def events(response):
    """The objects of a stream, and whether it was ended as it should be."""
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    last = lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"], last
