"""A gRPC stream of the bytes of a round and nothing behind it: what a session cannot beat.

Frames of the session's size, the same options; with TLS, as a session has it, or without.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import grpc

from fedunlearn.federation.transport.session_certificate import SessionCertificate
from fedunlearn.federation.transport.session_server import OPTIONS
from fedunlearn.questions.chunks import CHUNK

METHOD = "/benchmark.Bare/Attend"
FLOAT = 4


def frames(size: int) -> Iterator[bytes]:
    """Return the frames of so many bytes."""
    whole = b"\0" * min(size, CHUNK)
    for start in range(0, size, CHUNK):
        yield whole[: size - start]


class BareServer:
    """Sends a round's bytes to every node and takes theirs, one thread a stream."""

    def __init__(self, nodes: int, *, tls: bool) -> None:
        self.nodes = nodes
        self.certificate = SessionCertificate.for_host("127.0.0.1") if tls else None
        self._joined = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._asked: list[SimpleQueue[int | None]] = []
        self._server = grpc.server(ThreadPoolExecutor(nodes), options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._attend)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("benchmark.Bare", {"Attend": handler}),)
        )
        if self.certificate is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (self.certificate.key, self.certificate.certificate)
            port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def wait(self) -> None:
        for _ in range(self.nodes):
            assert self._joined.acquire(timeout=60.0)

    def round(self, size: int) -> None:
        """Point and vector down, one vector up, for every node."""
        for asked in self._asked:
            asked.put(size)
        for _ in range(self.nodes):
            assert self._done.acquire(timeout=300.0)

    def close(self) -> None:
        for asked in self._asked:
            asked.put(None)
        self._server.stop(2.0).wait()

    def _attend(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        asked: SimpleQueue[int | None] = SimpleQueue()
        self._asked.append(asked)
        self._joined.release()
        while (size := asked.get()) is not None:
            yield size.to_bytes(8, "little")
            yield from frames(2 * FLOAT * size)
            left = FLOAT * size
            while left:
                left -= len(next(requests))
            self._done.release()


def attend(address: str, certificate: bytes | None) -> None:
    """Be a node of it: read what comes, send as much as one vector takes."""
    out: SimpleQueue[int | None] = SimpleQueue()

    def replies() -> Iterator[bytes]:
        while (size := out.get()) is not None:
            yield from frames(size)

    if certificate is None:
        connection = grpc.insecure_channel(address, options=OPTIONS)
    else:
        credentials = grpc.ssl_channel_credentials(certificate)
        connection = grpc.secure_channel(address, credentials, options=OPTIONS)
    with connection as channel:
        call = channel.stream_stream(METHOD)(replies())
        for head in call:
            size = int.from_bytes(head, "little")
            left = 2 * FLOAT * size
            while left:
                left -= len(next(call))
            out.put(FLOAT * size)
        out.put(None)
