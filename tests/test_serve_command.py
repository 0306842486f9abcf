"""What `stts serve` refuses before a model is loaded."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from stts_jax.config import ConfigError
from stts_jax.serving.command import KEYS, access_of, limits_of, parse
from stts_jax.serving.errors import ServingError

HERE = ("--checkpoint", "run")


def asked(*pairs):
    """A request with these headers."""
    return Request({"type": "http", "headers": [(k.encode(), v.encode()) for k, v in pairs]})


def test_other_machines_are_served_only_with_keys_or_by_will(monkeypatch, tmp_path):
    monkeypatch.delenv(KEYS, raising=False)
    everywhere = (*HERE, "--host", "0.0.0.0")
    with pytest.raises(ConfigError, match="--api-keys"):
        access_of(parse(everywhere))
    assert not access_of(parse((*everywhere, "--open"))).needs_key
    (tmp_path / "keys").write_text("one\n\ntwo\n")
    access = access_of(parse((*everywhere, "--api-keys", str(tmp_path / "keys"))))
    access.require_key(asked(("authorization", "Bearer two")))
    with pytest.raises(ServingError):
        access.require_key(asked(("authorization", "Bearer three")))
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(ConfigError, match="no API keys"):
        access_of(parse((*HERE, "--api-keys", str(tmp_path / "keys"))))


def test_a_server_of_this_machine_goes_by_its_names(monkeypatch):
    monkeypatch.delenv(KEYS, raising=False)
    access = access_of(parse((*HERE, "--host-name", "box")))
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "BOX"):
        access.require_host(asked(("host", host)))
    for host in ("evil.test", "evil.test:8000", "", "localhost.evil.test"):
        with pytest.raises(ServingError):
            access.require_host(asked(("host", host)))


def test_limits_are_above_nothing():
    assert limits_of(parse((*HERE, "--max-mib", "1"))).bytes == 2**20
    with pytest.raises(ConfigError, match="frames"):
        limits_of(parse((*HERE, "--max-frames", "0")))
