"""Numbers for Prometheus at `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from stts_jax.serving.service import Service, Submitted

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counts of one server."""

    def __init__(self, service: Service) -> None:
        """Starts at 0."""
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(service))
        self._requests = Counter(
            "stts_http_requests", "Responses.", ("route", "status"), registry=self._registry
        )
        self._first_token = Histogram(
            "stts_first_token_seconds",
            "From the engine's queue to the first token of an answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._answer = Histogram(
            "stts_answer_seconds",
            "From the engine's queue to the last token of an answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def responded(self, route: str, status: int) -> None:
        """Counts a response."""
        self._requests.labels(route, str(status)).inc()

    def answered(self, submitted: Submitted) -> None:
        """Counts an answer that has ended."""
        times = submitted.answer.handle.times
        if times.first_token is not None:
            self._first_token.observe(times.first_token - times.submitted)
        if times.finished is not None:
            self._answer.observe(times.finished - times.submitted)

    def text(self) -> bytes:
        """Returns what Prometheus reads."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """What the engine and the pool of decoders say of themselves."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yields nothing, so that registering doesn't ask the engine."""
        yield from ()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yields the numbers of this moment."""
        now, service = self._service.engine.statistics(), self._service
        gauges = {
            "queue_length": ("Requests that wait for a slot.", now.queued),
            "slots": ("Slots of the decode batch.", now.slots),
            "slots_taken": ("Slots that are taken.", now.active),
            "tokens_per_second": ("Tokens of answers over ten seconds.", now.tokens_per_s),
            "prefix_cache_bytes": ("Bytes of kept prefixes.", now.cache_bytes),
            "prefix_cache_entries": ("Kept prefixes.", now.cache_entries),
            "kept_share": ("Share of visual tokens that stayed.", now.kept_share or 0.0),
            "prepared_bytes": ("Bytes of frames that are kept.", service.prepared.nbytes),
            "upload_bytes": ("Bytes of uploads that are kept.", service.addresses.files.nbytes),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"stts_{name}", text, value)
        counters = {
            "requests_submitted": ("Requests that entered the queue.", now.submitted),
            "requests_refused": ("Requests that the queue was too full for.", now.refused),
            "tokens": ("Tokens of answers.", now.tokens),
            "prefix_cache_hits": ("Prefixes that were there.", now.cache_hits),
            "prefix_cache_misses": ("Prefixes that were read.", now.cache_misses),
            "visual_tokens_before": ("Visual tokens before the drop.", now.visual_before),
            "visual_tokens_after": ("Visual tokens after the drop.", now.visual_after),
            "decoders_killed": ("Decoding processes that were killed.", service.pool.killed),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"stts_{name}", text, value)
        ended = CounterMetricFamily("stts_requests_ended", "Requests by their end.", labels=["by"])
        for reason, count in now.ended.items():
            ended.add_metric([reason], count)
        yield ended
