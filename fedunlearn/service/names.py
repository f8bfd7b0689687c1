"""Names on the wire that server and client share."""

from __future__ import annotations

from fedunlearn.rpc.v1 import deletion_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["DeletionService"]
# Key of the metadata with a call's credential.
CALL_KEY = "fedunlearn-call-bin"


def path_of(method: str) -> str:
    """Return the full name of a method, which is called and signed."""
    return f"/{SERVICE.full_name}/{method}"
