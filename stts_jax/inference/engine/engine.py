"""The engine: a queue, a decode batch, and a thread that moves requests through it.

A request waits in the queue, joins a free slot (its media are read unless their prefix is kept, its
question is prefilled), and leaves when its answer ends, whatever the other slots do.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import jax
import numpy as np

from stts_jax.config import ConfigError
from stts_jax.inference.engine.checks import check_media, check_request
from stts_jax.inference.engine.device_side import DeviceSide
from stts_jax.inference.engine.prefix_cache import content_key
from stts_jax.inference.engine.requests import (
    CancelledError,
    EngineClosedError,
    Handle,
    MediaRow,
    QueueFullError,
    Request,
)
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.inference.engine.statistics import Recorder, Statistics
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.terminal import progress_bar

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Waiting:
    """A request in the queue: its handle, its question as a row, and the key of its media."""

    handle: Handle
    question: np.ndarray
    key: str | None


class Engine:
    """Answers requests of many threads with one model.

    A greedy answer is that of the request alone, whatever shares the batch with it.
    """

    def __init__(
        self,
        model: VideoLanguageModel,
        end_token: int,
        settings: EngineSettings | None = None,
    ) -> None:
        """Takes the memory of slots on the model's devices, and starts the thread.

        Args:
          model: to answer with; `memory.require_engine_memory` says whether it fits.
          end_token: ends an answer.
          settings: see `EngineSettings`.

        Raises:
          ConfigError: if several processes hold the model.
        """
        if jax.process_count() > 1:
            raise ConfigError(
                f"the engine runs in one process, but there are {jax.process_count()}; start one "
                "engine for each machine"
            )
        self.settings, self.model = settings or EngineSettings(), model.config
        self._devices = DeviceSide(model, end_token, self.settings)
        self._end_token = end_token
        self._recorder = Recorder()
        self._owners: list[Handle | None] = [None] * self.settings.slots
        self._queue: deque[_Waiting] = deque()
        self._tasks: deque[tuple[Callable[[], None], Future[None]]] = deque()
        # Tokens of steps that are under way, and whose they are. An accelerator has the next step
        # before they are looked at, so that it doesn't wait; a CPU would only do it in vain.
        self._ahead = 0 if jax.default_backend() == "cpu" else 1
        self._under_way: deque[tuple[jax.Array, list[Handle | None]]] = deque()
        self._changed = threading.Condition()
        self._closing = self._draining = False
        self._thread = threading.Thread(target=self._run, name="stts-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------- any thread

    def submit(self, request: Request, on_change: Callable[[Handle], None] | None = None) -> Handle:
        """Puts a request into the queue; returns at once.

        Args:
          request: what is asked.
          on_change: called with the handle by the engine's thread when there are new tokens, or
            the answer has ended; it must return at once.

        Raises:
          RequestError: if it can't be answered.
          QueueFullError: if too many wait.
          EngineClosedError: after `close`.
        """
        question = check_request(request, self.model, self.settings)
        self._require_room()  # before the media are hashed
        key = None if request.media is None else content_key(request.media, request.seed)
        handle = Handle(request, on_change)
        with self._changed:
            self._require_room()
            self._queue.append(_Waiting(handle, question, key))
            self._changed.notify_all()
        self._recorder.entered()
        return handle

    def warm_up(self, media: Iterable[MediaRow] = (), *, shown: bool = False) -> None:
        """Compiles the programs of these media and of all size buckets of questions.

        Args:
          media: one of each budget and ratio that will be asked about.
          shown: whether to show a bar (on a terminal).

        Raises:
          RequestError: if some can't be asked about.
        """
        rows = list(media)
        for row in rows:
            check_media(row, self.model, self.settings)
        rooms = self.settings.question_rooms
        each: list[MediaRow | None] = [None, *rows]
        for row in progress_bar(each, desc="compiling", unit="buckets", shown=shown):
            self._on_thread(partial(self._devices.warm_up, row, rooms))

    def _on_thread(self, task: Callable[[], None]) -> None:
        """Runs a task on the engine's thread while no slot is taken, and waits for it."""
        done: Future[None] = Future()
        with self._changed:
            if self._draining:
                raise EngineClosedError("the engine is closed; start another one")
            self._tasks.append((task, done))
            self._changed.notify_all()
        done.result()

    def close(self, drain_s: float = 0.0) -> None:
        """Takes no more requests, waits for those that are there, and ends the others.

        Args:
          drain_s: seconds that they have.
        """
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        if drain_s > 0:
            self._thread.join(drain_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def statistics(self) -> Statistics:
        """Returns the counts of this moment."""
        recorder, cache = self._recorder, self._devices.cache
        first, later = recorder.quantiles()
        return Statistics(
            queued=len(self._queue),
            active=sum(owner is not None for owner in self._owners),
            slots=self.settings.slots,
            submitted=recorder.submitted,
            refused=recorder.refused,
            ended=dict(recorder.ended),
            tokens=recorder.tokens,
            tokens_per_s=recorder.tokens_per_s(),
            first_token_s=first,
            token_s=later,
            cache_hits=cache.hits,
            cache_misses=cache.misses,
            cache_bytes=cache.nbytes,
            cache_entries=len(cache),
            visual_before=recorder.visual_before,
            visual_after=recorder.visual_after,
        )

    def _require_room(self) -> None:
        if self._draining or not self._thread.is_alive():
            raise EngineClosedError("the engine is closed; start another one")
        if len(self._queue) >= self.settings.queue + self._owners.count(None):
            self._recorder.refuse()
            raise QueueFullError(
                f"{len(self._queue)} requests wait already; come again, or raise the engine's queue"
            )

    # ----------------------------------------------------------------------- the engine's thread

    def _run(self) -> None:
        error: Exception = EngineClosedError("the engine was closed before the answer ended")
        try:
            while self._has_work():
                self._turn()
        except Exception as raised:
            logger.exception("the engine failed")
            error = raised
        with self._changed:
            self._draining = True
            waiting = [each.handle for each in self._queue]
            self._queue.clear()
            for _, done in self._tasks:
                done.set_exception(error)
            self._tasks.clear()
        for handle in [*waiting, *filter(None, self._owners)]:
            handle.fail(error)
            self._recorder.finish(handle)
        self._owners = [None] * self.settings.slots

    def _has_work(self) -> bool:
        """Waits for something to do; returns whether the thread is to go on."""
        with self._changed:
            while not self._closing:
                if self._queue or self._tasks or self._under_way or any(self._owners):
                    return True
                if self._draining:
                    return False
                self._changed.wait()
            return False

    def _turn(self) -> None:
        """Lets requests join, starts a step, and hands on the tokens of the step before."""
        if not any(self._owners) and not self._under_way:
            self._run_tasks()
        with self._changed:
            self._drop_cancelled()
        self._admit()
        try:
            if any(self._owners):
                self._under_way.append((self._devices.step(), list(self._owners)))
            if len(self._under_way) > self._ahead or not any(self._owners):
                self._deliver()
        except Exception as error:  # of the devices
            self._lose_all(error)

    def _run_tasks(self) -> None:
        while self._tasks:
            task, done = self._tasks.popleft()
            try:
                task()
            except Exception as error:  # of whoever waits for it
                done.set_exception(error)
            else:
                done.set_result(None)

    def _admit(self) -> None:
        """Fills free slots in the order of the queue, reading new media once in a turn."""
        has_read = False
        while None in self._owners:
            with self._changed:
                if not self._queue or self._closing:
                    return
                is_new = self._devices.is_new(self._queue[0].key)
                if is_new and has_read and any(self._owners):
                    return  # the answers under way go on first
                waiting = self._queue.popleft()
            has_read |= is_new
            if not waiting.handle.cancelled:
                self._join(self._owners.index(None), waiting)
            else:
                self._end_cancelled(waiting.handle)

    def _drop_cancelled(self) -> None:
        for waiting in [each for each in self._queue if each.handle.cancelled]:
            self._queue.remove(waiting)
            self._end_cancelled(waiting.handle)

    def _end_cancelled(self, handle: Handle) -> None:
        handle.fail(CancelledError("the request was cancelled"), "cancelled")
        self._recorder.finish(handle)

    def _join(self, slot: int, waiting: _Waiting) -> None:
        handle = waiting.handle
        try:
            seen = self._devices.read(handle.request, waiting.key)
            handle.start(seen)
            token = self._devices.join(slot, handle.request, waiting.question)
        except Exception as error:
            logger.exception("a request failed")
            handle.fail(error)
            self._recorder.finish(handle)
            if not self._devices.is_whole:
                self._lose_all(error)
            return
        self._owners[slot] = handle
        self._hand_on(slot, handle, [token])

    def _lose_all(self, error: Exception) -> None:
        """Fails the requests in all slots, and empties these."""
        logger.error("the answers under way are lost", exc_info=error)
        for handle in filter(None, self._owners):
            handle.fail(error)
            self._recorder.finish(handle)
        self._owners = [None] * self.settings.slots
        self._under_way.clear()
        self._devices.reset()

    def _deliver(self) -> None:
        """Hands on the tokens of the oldest step that is under way; waits for the devices."""
        if not self._under_way:
            return
        tokens, owners = self._under_way.popleft()
        fetched = np.asarray(tokens)
        for slot, handle in enumerate(owners):
            if handle is not None:
                self._hand_on(slot, handle, fetched[:, slot].tolist())

    def _hand_on(self, slot: int, handle: Handle, tokens: list[int]) -> None:
        before = handle.count
        if handle.finish_reason is not None:
            return  # it ended in the step before
        ended = handle.add(tokens, self._end_token)
        self._recorder.chose(handle.count - before)
        if ended:
            self._recorder.finish(handle)
            if self._owners[slot] is handle:
                self._owners[slot] = None
