"""gcsfs with more patience: what a bucket doesn't answer for minutes is asked for again.

gcsfs itself tries six times, which takes half a minute, and waits five for an answer. Everything
that goes to a bucket by fsspec, ours and Orbax's, goes through this class; TensorStore retries by
itself, and is told here to give up on connections that transfer nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from functools import cache
from typing import Any

import aiohttp
import fsspec
import gcsfs
from gcsfs.retry import is_retriable

# Seconds for which a bucket may fail to answer before an operation fails.
PATIENCE_SECONDS = 600.0
# Seconds without a byte after which a connection is given up, and the request made again.
SILENCE_SECONDS = 60
_MOST_PAUSE = 30.0
_making = threading.Lock()
_TENSORSTORE = {
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": str(SILENCE_SECONDS),
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "30",
}


class PatientFileSystem(gcsfs.GCSFileSystem):
    """gcsfs, without a cache of listings, since other processes write to the same folders."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        silence = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_SECONDS)
        options.setdefault("requests_timeout", silence)  # its None stands for no end at all
        options["use_listings_cache"] = False
        super().__init__(*arguments, **options)

    async def _request(self, *arguments: Any, **options: Any) -> Any:
        end, pause = time.monotonic() + PATIENCE_SECONDS, 1.0
        while True:
            try:
                return await super()._request(*arguments, **options)
            except Exception as error:
                if not _may_pass(error) or time.monotonic() > end:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, TimeoutError | ConnectionError) or is_retriable(error)


def file_system() -> Any:
    """Returns the file system of all buckets in this process."""
    with _making:  # threads that ask at once would log in several times
        return _made()


@cache
def _made() -> Any:
    for name, value in _TENSORSTORE.items():
        os.environ.setdefault(name, value)
    # Its tracebacks of retries; what fails in the end is raised.
    logging.getLogger("gcsfs").addHandler(logging.NullHandler())
    logging.getLogger("gcsfs").propagate = False
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, PatientFileSystem, clobber=True)
    return fsspec.filesystem("gcs", finalize_on_close=True)
