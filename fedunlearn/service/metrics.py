"""Metrics for the operator's monitoring, in Prometheus' text format.

Metrics of requests are read from the store at each scrape; metrics of calls are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fedunlearn.errors import InputError, StoreError
from fedunlearn.requests.deletion import OPEN
from fedunlearn.requests.statistics import Statistics
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.tls import address_of

CACHE_S = 1.0  # simultaneous scrapes cost the store no more than one
BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class Figures(Collector):
    """Statistics of the requests in the store."""

    def __init__(self, store: RequestStore, clock: Callable[[], datetime], near: timedelta) -> None:
        """Prepare to read from a store.

        Args:
            store: The request store.
            clock: Function that returns the current time.
            near: Time before the due date from which a request counts as nearly due.
        """
        self._store = store
        self._clock = clock
        self._near = near
        self._lock = threading.Lock()
        self._read: tuple[float, Statistics] | None = None

    def statistics(self) -> Statistics:
        """Return the statistics of the store, at most one second old."""
        with self._lock:
            if self._read is None or time.monotonic() - self._read[0] > CACHE_S:
                found = self._store.statistics(self._clock(), near=self._near)
                self._read = (time.monotonic(), found)
            return self._read[1]

    def usual(self) -> timedelta | None:
        """Return the mean duration of requests as last read; None if no request is completed."""
        found = self._read[1] if self._read else None
        if found is None or not found.completions:
            return None
        return timedelta(seconds=found.completion_seconds / found.completions)

    def collect(self) -> Iterable[Metric]:
        """Return all metrics; only the store's availability if the store does not answer.

        Yields:
            One metric after the other.
        """
        up = GaugeMetricFamily("fedunlearn_store_up", "Whether the request store answers.")
        try:
            found = self.statistics()
        except StoreError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        states = GaugeMetricFamily(
            "fedunlearn_deletions_open", "Requests that have not ended.", labels=["state"]
        )
        for state in sorted(OPEN):
            states.add_metric([state.value], found.open.get(state, 0))
        yield states
        age = 0.0
        if found.oldest is not None:
            age = max(0.0, (self._clock() - found.oldest).total_seconds())
        yield GaugeMetricFamily(
            "fedunlearn_deletion_oldest_open_age_seconds",
            "Age of the oldest request that has not ended; 0 if there is none.",
            value=age,
        )
        yield GaugeMetricFamily(
            "fedunlearn_deletions_near_due",
            "Requests that have not ended and are due soon.",
            value=found.near_due,
        )
        yield GaugeMetricFamily(
            "fedunlearn_deletions_overdue",
            "Requests that have not ended and were due already.",
            value=found.overdue,
        )
        yield CounterMetricFamily(
            "fedunlearn_deletion_failures", "How often a removal failed.", value=found.failures
        )
        yield SummaryMetricFamily(
            "fedunlearn_deletion_completion_seconds",
            "From creation to success, of the requests that succeeded.",
            count_value=found.completions,
            sum_value=found.completion_seconds,
        )


class Metrics:
    """All metrics of one service."""

    def __init__(self, figures: Figures) -> None:
        """Start all counters at zero.

        Args:
            figures: Statistics of the requests.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(figures)
        self._calls = Counter(
            "fedunlearn_calls",
            "Calls that were answered.",
            ["method", "code"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "fedunlearn_calls_refused",
            "Calls that were answered with an error.",
            ["reason"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "fedunlearn_call_seconds",
            "From a call's arrival to its answer, without watches.",
            ["method"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.watches = Gauge(
            "fedunlearn_watches", "Calls that watch a request.", registry=self.registry
        )
        self._endpoint: tuple[WSGIServer, threading.Thread] | None = None

    def answered(self, method: str, code: str, reason: str, seconds: float | None) -> None:
        """Count a call.

        Args:
            method: Name of the method.
            code: Status code of the answer.
            reason: Reason of the refusal; empty if the call was not refused.
            seconds: Duration of the call in seconds; None for a watch.
        """
        self._calls.labels(method, code).inc()
        if reason:
            self._refusals.labels(reason).inc()
        if seconds is not None:
            self._seconds.labels(method).observe(seconds)

    def text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()

    def listen(self, address: str) -> str:
        """Answer scrapes over HTTP.

        Args:
            address: ``HOST:PORT``.

        Returns:
            The address; port 0 is replaced by the port that was chosen.

        Raises:
            InputError: The service cannot listen on the address.
        """
        host, port = address_of(address, "metrics")
        try:
            self._endpoint = start_http_server(port, host, self.registry)
        except UnicodeError:
            raise InputError(
                f"metrics: {address!r} has no valid host name; use HOST:PORT"
            ) from None
        except OSError as error:
            raise InputError(f"metrics: cannot listen on {address}: {error.strerror}") from None
        return f"{address.rpartition(':')[0]}:{self._endpoint[0].server_port}"

    def close(self) -> None:
        """Stop answering scrapes."""
        if self._endpoint is not None:
            server, thread = self._endpoint
            server.shutdown()
            thread.join()
            server.server_close()
            self._endpoint = None
