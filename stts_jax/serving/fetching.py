"""Fetches from named hosts alone, from addresses that were checked, never from private ones."""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from stts_jax.serving.errors import ServingError
from stts_jax.serving.limits import Limits

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS = {"http": 80, "https": 443}
# All that is global in IPv6; neither site-local addresses nor those that stand for others.
_UNICAST = ipaddress.ip_network("2000::/3")
_REDIRECTS = 3
_CHUNK = 2**16


def is_public(address: IpAddress) -> bool:
    """Returns whether an address is one of the public internet.

    Of an IPv6 address that stands for one of IPv4 that one is asked about.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """Returns all addresses of a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


@dataclass(frozen=True)
class MediaHosts:
    """Hosts that may be fetched from.

    Attributes:
      names: `media.example.org`, which has the usual ports, or `media.example.org:8443`.
      resolve: returns the addresses of a host at a port.
      is_public: says whether an address may be connected to.
    """

    names: frozenset[str] = frozenset()
    resolve: Callable[[str, int], list[str]] = resolve
    is_public: Callable[[IpAddress], bool] = is_public

    def target(self, address: str) -> Target:
        """Returns where to fetch an address from.

        Raises:
          ServingError: if its host is not named, or has an address that is not public.
        """
        split = _split(address)
        host, port = (split.hostname or "").rstrip(".").lower(), split.port
        port = PORTS[split.scheme] if port is None else port
        usual = port == PORTS[split.scheme]
        if f"{host}:{port}" not in self.names and not (usual and host in self.names):
            raise _refused("this server fetches nothing from that host")
        try:
            found = [ipaddress.ip_address(each) for each in self.resolve(host, port)]
        except (OSError, ValueError) as error:
            raise _unreachable() from error
        if not found or not all(map(self.is_public, found)):
            raise _refused("that host is not on the public internet")
        path = split.path or "/"
        path = f"{path}?{split.query}" if split.query else path
        return Target(split.scheme, host, port, str(found[0]), path)


@dataclass(frozen=True)
class Target:
    """Where to fetch from: the address is the one that was checked.

    Attributes:
      scheme: http or https.
      host, port: as they were named.
      address: of the host, in numbers.
      path: with its query.
    """

    scheme: str
    host: str
    port: int
    address: str
    path: str


async def fetch(address: str, hosts: MediaHosts, limits: Limits) -> bytes:
    """Returns what an address holds.

    Args:
      address: http or https.
      hosts: that may be fetched from.
      limits: on bytes and time.

    Raises:
      ServingError: if it may not be fetched, isn't there, is too large or takes too long.
    """
    return await asyncio.to_thread(_fetch, address, hosts, limits)


def _fetch(address: str, hosts: MediaHosts, limits: Limits) -> bytes:
    deadline = time.monotonic() + limits.fetch_seconds
    for _ in range(_REDIRECTS + 1):
        found = _one(hosts.target(address), limits, deadline)
        if isinstance(found, bytes):
            return found
        address = urljoin(address, found)
    raise ServingError("the address leads on too often; give the one that it ends at")


def _one(target: Target, limits: Limits, deadline: float) -> bytes | str:
    """Returns the content, or the address that leads on."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise _too_slow(limits)
    connection = _Connection(target, left)
    # Whatever it is waiting for then, however little comes each time.
    timer = threading.Timer(left, connection.stop)
    timer.start()
    try:
        connection.request("GET", target.path, headers={"Accept-Encoding": "identity"})
        return _content(connection.getresponse(), limits, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise _too_slow(limits) from error
        raise _unreachable() from error
    finally:
        timer.cancel()
        connection.close()


def _content(response: http.client.HTTPResponse, limits: Limits, deadline: float) -> bytes | str:
    location = response.getheader("Location")
    if response.status in (301, 302, 303, 307, 308) and location:
        return location
    if response.status != 200:
        raise ServingError(
            f"the address answers with status {response.status}; check it", param="messages"
        )
    if (response.length or 0) > limits.bytes:
        raise _too_large(limits)
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > limits.bytes:
            raise _too_large(limits)
        if time.monotonic() >= deadline:
            raise _too_slow(limits)
    if response.length:  # of what was promised; the other side, or the timer, ended it early
        raise OSError("cut off")
    if not content:
        raise ServingError("the address holds nothing; check it", param="messages")
    return bytes(content)


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was checked, whatever its name means by now."""

    def __init__(self, target: Target, timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self.target = target

    def connect(self) -> None:
        """Connects."""
        sock = socket.create_connection((self.target.address, self.port), self.timeout)
        if self.target.scheme == "https":
            context = ssl.create_default_context()
            sock = context.wrap_socket(sock, server_hostname=self.target.host)
        self.sock = sock

    def stop(self) -> None:
        """Ends what is under way."""
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return


def _split(address: str) -> SplitResult:
    try:
        split = urlsplit(address)
        _ = split.port
    except ValueError as error:
        raise _refused("the address can't be read") from error
    if split.scheme not in PORTS or split.username is not None or split.password is not None:
        raise _refused("an address begins with http or https, without a user")
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in address):
        raise _refused("the address has a space or a control character")
    return split


def _refused(why: str) -> ServingError:
    return ServingError(
        f"{why}; send a data: address, upload the file, or have the server started with "
        "--media-host",
        403,
        "not_allowed",
        "messages",
    )


def _unreachable() -> ServingError:
    return ServingError("the address can't be fetched; check it, or upload the file")


def _too_large(limits: Limits) -> ServingError:
    return ServingError(
        f"the address holds more than the {limits.bytes:,} bytes that this server takes; cut the "
        "video, or scale it down",
        413,
        "too_large",
        "messages",
    )


def _too_slow(limits: Limits) -> ServingError:
    return ServingError(
        f"the address took longer than {limits.fetch_seconds:g} s to fetch; upload the file"
    )
