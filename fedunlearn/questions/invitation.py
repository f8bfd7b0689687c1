"""How a node joins a session: the service it calls, and the invitation that lets it in."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedunlearn.questions.chunks import MAX_MESSAGE
from fedunlearn.rpc.v1 import session_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["SessionService"]
ATTEND = SERVICE.methods_by_name["Attend"]
TOKEN_KEY = "authorization"
BEARER = "Bearer "

KEEPALIVE_MS = 20_000  # a peer that does not even answer pings is lost after twice as long
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    # A second server on the port would take half of the nodes.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True)
class Invitation:
    """What a node needs to open its stream.

    Attributes:
        node: Its number.
        address: ``host:port``.
        token: Good once.
        certificate: PEM, the only one that is to be trusted.
    """

    node: int
    address: str
    token: str = field(repr=False)
    certificate: bytes = field(repr=False)
