"""The server of DeletionService: its event loop, its health service, its start and its stop.

One event loop in its own thread answers all calls. A call that waits for its body, for a change to
watch or for the disk therefore occupies no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedunlearn.errors import InputError, StoreError
from fedunlearn.requests.store import RequestStore
from fedunlearn.service.audits import Audits
from fedunlearn.service.calls import Calls
from fedunlearn.service.handlers import Handlers, Parts
from fedunlearn.service.metrics import Figures, Metrics
from fedunlearn.service.names import SERVICE
from fedunlearn.service.pulse import Pulse
from fedunlearn.service.service_settings import ServiceSettings
from fedunlearn.service.tls import server_credentials
from fedunlearn.service.watch import Watches
from fedunlearn.service.writer import Writer

THREADS = 8  # for calls of the store
SPARE_CALLS = 512  # simultaneous calls besides the watches
KEEPALIVE_MS = 30_000
FIGURES_S = 30.0
HEALTH_S = 0.5
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _now() -> datetime:
    return datetime.now(UTC)


class DeletionServer:
    """A server that runs from ``start`` to ``stop``; both are called from ordinary threads."""

    def __init__(
        self,
        store: RequestStore,
        settings: ServiceSettings | None = None,
        *,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        """Set up a server that does not listen yet.

        Args:
            store: The request store, opened with the issuer's key; it stays open when the server
                stops.
            settings: Settings of the service; by default, those of a service without a settings
                file.
            clock: Function that returns the current time.

        Raises:
            StoreError: The store was opened without the issuer's key.
        """
        if store.issuer is None:
            raise StoreError("the service needs a store that was opened with the issuer's key")
        self._store = store
        self._settings = settings or ServiceSettings()
        self._clock = clock
        self._issuer = store.issuer.public
        self.audience = self._settings.audience or f"fedunlearn:{self._issuer.id[:16]}"
        self._figures = Figures(store, clock, self._settings.near_due)
        self.metrics = Metrics(self._figures)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._grace = self._settings.stop_s

    def start(self) -> str:
        """Start to listen.

        Returns:
            The address, ``host:port``.

        Raises:
            InputError: The server cannot listen on the address, or a TLS file cannot be used.
            StoreError: The store does not answer.
        """
        credentials = server_credentials(self._settings)
        started: _Started = _Started()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(credentials, started)), name="deletion-server"
        )
        self._thread.start()
        return started.wait()

    def stop(self, grace: float | None = None) -> None:
        """Report "not serving", finish the running calls, and stop listening.

        Args:
            grace: How long running calls may take to finish, in seconds; by default, the value of
                the settings.
        """
        if self._thread is None or self._loop is None or self._stop is None:
            return
        if grace is not None:
            self._grace = grace
        # The loop may have ended by itself.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        """Return the server, which is stopped at the end of the block."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Stop the server."""
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the server has started and has neither been stopped nor failed."""
        return self._thread is not None and self._thread.is_alive()

    async def _run(self, credentials: grpc.ServerCredentials | None, started: _Started) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="deletion-store") as pool:
            try:
                await self._serve(pool, credentials, started)
            except BaseException as error:
                started.fail(error)

    async def _serve(
        self,
        pool: ThreadPoolExecutor,
        credentials: grpc.ServerCredentials | None,
        started: _Started,
    ) -> None:
        assert self._stop is not None

        async def blocking(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
            call = functools.partial(function, *args, **named)
            return await asyncio.get_running_loop().run_in_executor(pool, call)

        store, settings = self._store, self._settings
        pulse = Pulse(store, blocking)
        watches = Watches(store, settings, pulse, blocking, self.metrics)
        writer = Writer(store, settings)
        handlers = Handlers(
            Parts(
                store=store,
                settings=settings,
                audience=self.audience,
                issuer=(self._issuer.pem, self._issuer.id),
                clock=self._clock,
                blocking=blocking,
                pulse=pulse,
                writer=writer,
                watches=watches,
                figures=self._figures,
            )
        )
        calls = Calls(self.metrics, Audits(store), blocking, self._clock)
        beats: list[asyncio.Task[None]] = []
        try:
            server, health_of, port = self._listening(credentials, handlers.method_handlers(calls))
            beats.append(asyncio.create_task(pulse.run()))
            beats.append(asyncio.create_task(self._read_figures(blocking)))
            await server.start()
            await _set_health(health_of, _SERVING)
            beats.append(asyncio.create_task(_watch_health(health_of, pulse)))
            started.report(f"{settings.listen.rpartition(':')[0]}:{port}")
            await self._stop.wait()
            await health_of.enter_graceful_shutdown()
            watches.stop()
            await server.stop(self._grace)
        finally:
            for beat in beats:
                beat.cancel()
            await asyncio.gather(*beats, return_exceptions=True)
            await blocking(writer.close)

    def _listening(
        self, credentials: grpc.ServerCredentials | None, handlers: dict[str, Any]
    ) -> tuple[grpc.aio.Server, health.aio.HealthServicer, int]:
        settings = self._settings
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", settings.most_bytes),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 3),
                # With port reuse, a second server on the port would get half of the calls.
                ("grpc.so_reuseport", 0),
            ),
            maximum_concurrent_rpcs=settings.most_watches + SPARE_CALLS,
        )
        generic = grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)
        server.add_generic_rpc_handlers((generic,))
        health_of = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_of, server)
        if settings.reflection:
            _reflect(server)
        try:
            if credentials is None:
                port = server.add_insecure_port(settings.listen)
            else:
                port = server.add_secure_port(settings.listen, credentials)
        except RuntimeError:
            raise InputError(
                f"listen: cannot listen on {settings.listen}; is another server using the port?"
            ) from None
        return server, health_of, port

    async def _read_figures(self, blocking: Callable[..., Any]) -> None:
        while True:
            try:
                await blocking(self._figures.statistics)
            except StoreError:
                pass  # the calls that need the store report it
            await asyncio.sleep(FIGURES_S)


class _Started:
    """Reports to the waiting thread the address of the server, or why it did not start."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._address = ""
        self._error: BaseException | None = None

    def report(self, address: str) -> None:
        self._address = address
        self._done.set()

    def fail(self, error: BaseException) -> None:
        if self._done.is_set():
            raise error
        self._error = error
        self._done.set()

    def wait(self) -> str:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._address


async def _set_health(health_of: health.aio.HealthServicer, status: Any) -> None:
    for name in ("", SERVICE.full_name):
        await health_of.set(name, status)


async def _watch_health(health_of: health.aio.HealthServicer, pulse: Pulse) -> None:
    """Report "not serving" while the store does not answer."""
    reported = True
    while True:
        await asyncio.sleep(HEALTH_S)
        if pulse.fresh is not reported:
            reported = pulse.fresh
            await _set_health(health_of, _SERVING if reported else _NOT_SERVING)


def _reflect(server: grpc.aio.Server) -> None:
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError:
        raise InputError(
            "reflection: needs grpcio-reflection; pip install 'fedunlearn[reflection]'"
        ) from None
    names = (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
