"""Addresses of servers, as gRPC and people write them."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def proxy_option(address: str) -> tuple[str, int]:
    """Return gRPC's channel option that keeps connections to this machine off any proxy.

    gRPC follows ``http_proxy`` for every address that ``no_proxy`` does not name.

    Args:
        address: The address, as ``host:port``.
    """
    host = address.rpartition(":")[0]
    return ("grpc.enable_http_proxy", 0 if is_loopback(host) else 1)
