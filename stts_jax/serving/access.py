"""Who may ask: API keys, and the names that the server is reached by."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from starlette.requests import Request

from stts_jax.serving.errors import ServingError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Access:
    """Says whether a request may be answered."""

    def __init__(self, keys: Iterable[str] = (), hosts: Iterable[str] | None = None) -> None:
        """Remembers the digests of keys.

        Args:
          keys: that clients may have; none where all may ask.
          hosts: names that the server is reached by; None for any.
        """
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._hosts = None if hosts is None else {name.lower() for name in hosts}

    @property
    def needs_key(self) -> bool:
        """Returns whether clients need a key."""
        return bool(self._digests)

    def require_host(self, request: Request) -> None:
        """Refuses names that aren't the server's, which pages of other sites may give it.

        Raises:
          ServingError: if it was reached by such a name.
        """
        if self._hosts is None:
            return
        named = request.headers.get("host", "").lower()
        host = named.rpartition(":")[0] if named[-1:].isdigit() and ":" in named else named
        if host.strip("[]") not in self._hosts:
            raise ServingError(
                "this server has another name; use http://127.0.0.1, or start it with --host-name",
                421,
            )

    def require_key(self, request: Request) -> None:
        """Refuses requests without a key.

        Raises:
          ServingError: if it has none, or a wrong one.
        """
        if not self._digests:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        known = [hmac.compare_digest(given, each) for each in self._digests]
        if kind.lower() != "bearer" or not any(known):
            raise ServingError(
                "the API key is missing or wrong; send 'Authorization: Bearer KEY'",
                401,
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def is_loopback(host: str) -> bool:
    """Returns whether a host to listen at is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def loopback_names() -> tuple[str, ...]:
    """Returns the names that a server of this machine alone is reached by."""
    return _LOOPBACK
