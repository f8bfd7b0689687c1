"""The server's endpoint, to which each node connects with a token for one job.

TLS is always used, with a certificate of the session's own. A token is valid for one node and one
stream; the server stores only its digest.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from fedunlearn.errors import FederationError, NodeLostError
from fedunlearn.federation.transport.session_certificate import SessionCertificate
from fedunlearn.federation.transport.session_link import Link
from fedunlearn.questions.invitation import (
    ATTEND,
    BEARER,
    OPTIONS,
    SERVICE,
    TOKEN_KEY,
    Invitation,
)

# Bytes of answers that gRPC reads ahead of the server, for all nodes together. With gRPC's own
# probing a fast network would fill the memory of a server of many nodes.
AHEAD = 8 * 2**20
LEAST_AHEAD, MOST_AHEAD = 2**16, 2**22
# Streams that are refused, or whose end has not been noticed yet, need threads too.
SPARE_THREADS = 8
STOP_S = 2.0


@dataclass(frozen=True)
class Endpoint:
    """The address on which the server listens and that nodes connect to.

    Attributes:
        listen: IP address of the interface; the loopback address by default.
        port: Port; 0 for any free one.
        reach: Host name or address that nodes connect to. If it is left out, ``listen``.
    """

    listen: str = "127.0.0.1"
    port: int = 0
    reach: str | None = None


class SessionServer:
    """A server that listens for the streams of one job."""

    def __init__(self, nodes: Iterable[int], endpoint: Endpoint | None = None) -> None:
        """Start to listen.

        Args:
            nodes: The nodes that may be invited.
            endpoint: The endpoint.

        Raises:
            FederationError: The port is not available.
        """
        where = endpoint or Endpoint()
        self.nodes = tuple(sorted(nodes))
        self.on_join: Callable[[int], None] = lambda node: None
        self._changed = threading.Condition()
        self._tokens: dict[bytes, int] = {}
        self._links: dict[int, Link] = {}
        host = where.reach or where.listen
        self._certificate = SessionCertificate.for_host(host)
        threads = 2 * len(self.nodes) + SPARE_THREADS
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="session"),
            options=(
                *OPTIONS,
                ("grpc.http2.bdp_probe", 0),
                (
                    "grpc.http2.lookahead_bytes",
                    min(max(AHEAD // max(1, len(self.nodes)), LEAST_AHEAD), MOST_AHEAD),
                ),
            ),
            maximum_concurrent_rpcs=threads,
            compression=grpc.Compression.NoCompression,
        )
        handler = grpc.stream_stream_rpc_method_handler(self._attend)  # frames as raw bytes
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE.full_name, {ATTEND.name: handler}),)
        )
        listen = f"{_in_url(where.listen)}:{where.port}"
        credentials = grpc.ssl_server_credentials(
            [(self._certificate.key, self._certificate.certificate)]
        )
        try:
            port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise FederationError(
                f"session: {listen} cannot be listened on; is another server there?"
            ) from error
        self.address = f"{_in_url(host)}:{port}"
        self._server.start()

    def invite(self, node: int) -> Invitation:
        """Return an invitation with a new token for a node, which invalidates its earlier one."""
        token = secrets.token_urlsafe(32)
        with self._changed:
            self._tokens = {key: of for key, of in self._tokens.items() if of != node}
            self._tokens[_digest(token)] = node
        return Invitation(node, self.address, token, self._certificate.certificate)

    def link(self, node: int) -> Link:
        """Return the stream of a node.

        Raises:
            NodeLostError: The node never opened one.
        """
        with self._changed:
            if node not in self._links:
                raise NodeLostError(f"node {node} has no session", nodes=(node,))
            return self._links[node]

    def missing(self) -> tuple[int, ...]:
        """Return the nodes that have no open stream."""
        with self._changed:
            return tuple(n for n in self.nodes if n not in self._links or not self._links[n].alive)

    def wait(self, seconds: float) -> tuple[int, ...]:
        """Wait for every node to open its stream until time is up; return the missing nodes."""
        end = time.monotonic() + seconds
        with self._changed:
            while self.missing() and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
        return self.missing()

    def close(self) -> None:
        """End every stream, which ends the job on the nodes, and stop listening."""
        with self._changed:
            self._tokens.clear()
            links = list(self._links.values())
        for link in links:
            link.close()
        self._server.stop(STOP_S).wait()

    def _attend(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        node = self._redeem(context)
        if node is None:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "the session token is unknown or was used; ask the server for another",
            )
            return
        link = Link(node)
        with self._changed:
            before = self._links.get(node)
            self._links[node] = link
            self._changed.notify_all()
        if before is not None:
            before.close()
        reader = threading.Thread(
            target=link.read, args=(requests,), name=f"session-node-{node}", daemon=True
        )
        reader.start()
        self.on_join(node)
        yield from link.frames()
        if link.fault is not None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(link.fault))

    def _redeem(self, context: Any) -> int | None:
        """Return the node whose token the call carries, and invalidate the token."""
        metadata = dict(context.invocation_metadata())
        given = str(metadata.get(TOKEN_KEY, ""))
        with self._changed:
            return self._tokens.pop(_digest(given.removeprefix(BEARER)), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
