"""Sends requests to the engine as they arrive, and says what came of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stts_jax.bench.serving_load import Arrival, malformed
from stts_jax.inference.engine.engine import Engine
from stts_jax.inference.engine.requests import Handle, MediaRow, Request, RequestError
from stts_jax.inference.engine.statistics import quantiles

Quantiles = tuple[float, float, float] | None
# Seconds that all answers of a run may take.
_PATIENCE = 3600.0


@dataclass(frozen=True)
class Outcome:
    """What came of the requests of a run.

    Attributes:
      seconds: from the first arrival to the last answer.
      core_seconds: of all threads of the process, in that time.
      ended: requests by how they ended, malformed ones as `refused`.
      lost: requests that neither ended nor were refused.
      wrong: answers that differ from those of the question alone, and malformed requests that were
        answered.
      tokens: of all answers.
      first_token_s: (p50, p95, p99) from arrival to the first token.
      token_s: the same between later tokens, the mean of an answer.
      resident_mb: of the process, at ten moments of the run.
    """

    seconds: float
    core_seconds: float
    ended: dict[str, int]
    lost: int
    wrong: int
    tokens: int
    first_token_s: Quantiles
    token_s: Quantiles
    resident_mb: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        """Returns the tokens of all answers by the second."""
        return self.tokens / self.seconds

    @property
    def tokens_per_core_s(self) -> float:
        """Returns the same by the second of core time, steadier where others compute too."""
        return self.tokens / self.core_seconds

    @property
    def requests_per_s(self) -> float:
        """Returns the requests that were answered whole by the second."""
        return (self.ended.get("stop", 0) + self.ended.get("length", 0)) / self.seconds

    def __str__(self) -> str:
        ended = ", ".join(f"{count} {name}" for name, count in sorted(self.ended.items()))
        rates = f"{self.tokens_per_s:.1f} tokens/s ({self.tokens_per_core_s:.1f} of core time)"
        first, later = map(_milliseconds, (self.first_token_s, self.token_s))
        return (
            f"{rates}, {self.requests_per_s:.2f} requests/s; first token {first}, later ones "
            f"{later} (p50/p95/p99); {ended}, {self.lost} lost, {self.wrong} wrong; "
            f"{self.resident_mb[0]:.0f} to {self.resident_mb[-1]:.0f} MB"
        )


def send(
    engine: Engine,
    asked: Sequence[Request],
    answers: Sequence[list[int]],
    arriving: Sequence[Arrival],
) -> Outcome:
    """Sends requests at their times, waits for all of them, and compares the answers.

    Args:
      engine: whose queue holds all of them.
      asked: the questions.
      answers: of each question alone, as long as any is wanted.
      arriving: see `serving_load.arrivals`.
    """
    handles: list[tuple[Arrival, Handle]] = []
    ended: Counter[str] = Counter()
    wrong, start, cores = 0, time.monotonic(), time.process_time()
    memory = [resident_mb()]
    for index, each in enumerate(arriving):
        if len(memory) < 10 * index / len(arriving):
            memory.append(resident_mb())
        time.sleep(max(0.0, start + each.at - time.monotonic()))
        request = replace(asked[each.number], max_new_tokens=each.new_tokens)
        try:
            if each.malformed:
                request = malformed(request, index, engine.settings)
            handle = engine.submit(request)
        except RequestError:
            ended["refused"] += 1
            wrong += not each.malformed
            continue
        wrong += each.malformed
        if each.cancel_after is not None:
            threading.Timer(each.cancel_after, handle.cancel).start()
        handles.append((each, handle))
    lost = 0
    for each, handle in handles:
        said, reason = _wait(handle)
        lost += reason is None
        ended[str(reason)] += 1
        expected = answers[each.number][: each.new_tokens]
        wrong += said != (expected if reason == "length" else expected[: len(said)])
    memory.append(resident_mb())
    times = [handle.times for _, handle in handles if handle.times.first_token is not None]
    last = max((own.finished or start for own in times), default=start)
    return Outcome(
        seconds=last - start,
        core_seconds=time.process_time() - cores,
        ended=dict(ended),
        lost=lost,
        wrong=wrong,
        tokens=sum(handle.count for _, handle in handles),
        first_token_s=quantiles([_since(t.submitted, t.first_token) for t in times]),
        token_s=quantiles(
            [
                _since(h.times.first_token, h.times.finished) / (h.count - 1)
                for _, h in handles
                if h.count > 1
            ]
        ),
        resident_mb=memory,
    )


def follow_up(engine: Engine, media: Sequence[MediaRow]) -> dict[str, float]:
    """Measures the first token of a new video's question and of the next one, with nothing else."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for row in media:
        for spent in seconds:
            request = Request(tuple(range(1, 20)), row, max_new_tokens=2)
            handle = engine.submit(request)
            handle.result()
            spent.append(_since(handle.times.submitted, handle.times.first_token))
    first, later = (float(np.median(spent)) for spent in seconds)
    return {"first_s": first, "follow_up_s": later, "share": later / first}


def resident_mb() -> float:
    """Returns the memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def _wait(handle: Handle) -> tuple[list[int], str | None]:
    with contextlib.suppress(Exception):  # its reason says how it ended
        handle.result(_PATIENCE)
    return handle.so_far(), handle.finish_reason


def _since(start: float | None, end: float | None) -> float:
    assert start is not None and end is not None
    return end - start


def _milliseconds(seconds: Quantiles) -> str:
    return "/".join(f"{1e3 * each:.1f}" for each in seconds or ()) + " ms"
