"""Decodes in processes that can be killed: nothing that a client sends is decoded in the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from stts_jax.serving.decoding_messages import HEAD, MAX_HEAD, THUMBNAIL, Job
from stts_jax.serving.errors import ServingError, too_busy
from stts_jax.serving.limits import Limits

# A process ends after so many files: what a decoder leaks goes with it.
_JOBS = 200
# A process is given the search paths of modules, and nothing of what else the server is told.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class Decoded:
    """A video or a picture.

    Attributes:
      frames: (T, H, W, 3) uint8, of a video squashed to the model's size.
      thumbnails: (T, h, w, 3) uint8.
      times: (T,) float64 seconds.
      target_fps: see `Video`.
      size: width and height as stored.
    """

    frames: np.ndarray
    thumbnails: np.ndarray
    times: np.ndarray
    target_fps: float | None
    size: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Returns the bytes of the pixels."""
        return self.frames.nbytes + self.thumbnails.nbytes


class _CrashedError(Exception):
    """The process ended, or wrote what is no reply."""


class DecodingPool:
    """Processes that decode, started when they are needed.

    Attributes:
      killed: processes that took too long or ended by themselves.
    """

    def __init__(self, limits: Limits, command: tuple[str, ...] | None = None) -> None:
        """Starts nothing.

        Args:
          limits: on memory, time, processes and what waits.
          command: of a process, instead of the usual one.
        """
        own = (sys.executable, "-m", "stts_jax.serving.decoding_process")
        self._limits, self._command = limits, command or own
        self._idle: list[_Decoder] = []
        self._running: set[_Decoder] = set()
        self._room = asyncio.Semaphore(limits.decoders)
        self._waiting = 0
        self.killed = 0

    async def decode(self, job: Job) -> Decoded:
        """Returns what a file holds.

        Raises:
          ServingError: if it can't be read, takes too much, or too many files wait.
        """
        if self._waiting >= self._limits.waiting:
            raise too_busy("too many videos wait to be decoded; come again")
        self._waiting += 1
        try:
            async with self._room:
                return await self._decode(job)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Kills all processes."""
        for decoder in [*self._idle, *self._running]:
            await decoder.kill()
        self._idle.clear()

    async def _decode(self, job: Job) -> Decoded:
        decoder = self._idle.pop() if self._idle else _Decoder(self._command)
        self._running.add(decoder)
        is_well = False
        try:
            async with asyncio.timeout(self._limits.decode_seconds):
                reply = await decoder.decode(job, self._limits)
            is_well = decoder.jobs < _JOBS
            return reply
        except ServingError:
            is_well = decoder.jobs < _JOBS  # it said so itself
            raise
        except TimeoutError as error:
            self.killed += 1
            raise ServingError(
                f"a file took longer than {self._limits.decode_seconds:g} s to decode; send a "
                "shorter clip, or fewer pixels",
                code="decoding_timed_out",
                param="messages",
            ) from error
        except _CrashedError as error:
            self.killed += 1
            raise ServingError(
                "a file ended the process that decoded it; convert it to mp4 (H.264), jpg or png, "
                "and send it again",
                code="decoding_failed",
                param="messages",
            ) from error
        finally:
            self._running.discard(decoder)
            if is_well:
                self._idle.append(decoder)
            else:  # also if the request was given up: it may be in the middle of a file
                await asyncio.shield(decoder.kill())


class _Decoder:
    """One process."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self.jobs = 0

    async def decode(self, job: Job, limits: Limits) -> Decoded:
        """Returns the reply to a job."""
        self.jobs += 1
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(limits.decode_bytes),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(),
                limit=2**22,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(job.packed())
            await stdin.drain()
            head = await _head(stdout)
            if "error" in head:
                raise _refused(head, job)
            return await _decoded(head, stdout, job)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise _CrashedError from error  # a RuntimeError of a pipe that is closed already

    async def kill(self) -> None:
        """Ends the process at once."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def _environment() -> dict[str, str]:
    known = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # So that numeric libraries take no memory for threads.
    return known | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


async def _head(stdout: asyncio.StreamReader) -> dict[str, Any]:
    (size,) = HEAD.unpack(await stdout.readexactly(HEAD.size))
    if size > MAX_HEAD:
        raise ValueError("no head")
    head = json.loads(await stdout.readexactly(size))
    if not isinstance(head, dict):
        raise ValueError("no head")
    return head


async def _decoded(head: dict[str, Any], stdout: asyncio.StreamReader, job: Job) -> Decoded:
    """Reads arrays; believes no size that the job couldn't have."""
    shape, small = _shape(head["frames"]), _shape(head["thumbnails"])
    times = np.array(head["times"], np.float64)
    most = job.frames if job.kind == "video" else 1
    count = shape[0]
    if not 1 <= count <= most or small[0] != count or times.shape != (count,):
        raise ValueError("frames")
    if not np.isfinite(times).all() or max(small[1:3]) > THUMBNAIL:
        raise ValueError("thumbnails")
    squashed = job.kind == "image" or shape[1:3] == (job.size, job.size)
    if not squashed or shape[1] * shape[2] > max(job.pixels, job.size**2):
        raise ValueError("pixels")
    rate = head["target_fps"]
    frames = await stdout.readexactly(math.prod(shape))
    thumbnails = await stdout.readexactly(math.prod(small))
    width, height = map(int, head["size"])
    return Decoded(
        np.frombuffer(frames, np.uint8).reshape(shape),
        np.frombuffer(thumbnails, np.uint8).reshape(small),
        times,
        None if rate is None else float(rate),
        (width, height),
    )


def _shape(value: Any) -> tuple[int, ...]:
    shape = tuple(map(int, value))
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise ValueError("shape")
    return shape


def _refused(head: dict[str, Any], job: Job) -> ServingError:
    what = "picture" if job.kind == "image" else "video"
    why, text = head["error"], str(head.get("text", ""))[:500]
    if why == "memory":
        text = (
            f"the {what} takes more memory to decode than this server gives; send fewer pixels, or "
            "convert it to mp4 (H.264)"
        )
    form = "jpg or png" if job.kind == "image" else "mp4 (H.264)"
    fallback = f"the {what} can't be read; convert it to {form}"
    status = 413 if why == "too_large" else 400
    return ServingError(text or fallback, status, f"media_{why}", "messages")
