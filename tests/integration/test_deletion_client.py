"""What the client makes of services that are not what they should be."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from fedunlearn.errors import ServiceError
from fedunlearn.requests.statement import node_scope
from fedunlearn.service.client import DeletionClient
from tests.deletion_house import KEYS, house


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Serve an answer to whatever is asked."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: body)

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("body", [b"\xff\xff", b"\x0a\x02\xff\xfe"])
def test_an_answer_that_is_none(body: bytes) -> None:
    with answering(body) as address, DeletionClient(address, plaintext=True) as client:
        with pytest.raises(ServiceError, match="not a GetServiceInfoResponse; check the address"):
            client.info()


def test_nothing_is_signed_for_another_service(tmp_path: Path) -> None:
    with house(tmp_path / "state") as opened:
        audience = opened.server.audience
        for wanted in (None, audience):
            with DeletionClient(
                opened.address, KEYS["alice"], audience=wanted, plaintext=True
            ) as client:
                assert list(client.list()) == []
        with DeletionClient(
            opened.address, KEYS["alice"], audience="other", plaintext=True
        ) as client:
            for ask in (lambda: client.create(node_scope(["0"])), lambda: list(client.list())):
                with pytest.raises(ServiceError, match=f"audience is {audience}, not other"):
                    ask()
        assert list(opened.client("op").list()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("variable", ["http_proxy", "grpc_proxy", "https_proxy"])
def test_nothing_for_this_machine_goes_to_a_proxy(
    variable: str, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, house(tmp_path / "state") as opened:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        address = f"{host}:{opened.address.rpartition(':')[2]}"
        with DeletionClient(address, KEYS["alice"], plaintext=True, timeout_s=20) as client:
            assert list(client.list()) == []
        proxy.settimeout(0.05)
        with pytest.raises(TimeoutError):
            proxy.accept()
