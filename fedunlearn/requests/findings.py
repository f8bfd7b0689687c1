"""Findings: the errors that checks of a request store report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedunlearn.errors import KeyFileError
from fedunlearn.requests.keys import PublicKey
from fedunlearn.requests.quotes import quoted
from fedunlearn.requests.replay import Replay

_MOST = 500


@dataclass(frozen=True)
class Finding:
    """An error that a check has found; characters that are not printable are replaced.

    Attributes:
        what: Description of the error.
        where: Place of the error.
    """

    what: str
    where: str

    def __post_init__(self) -> None:
        """Limit both texts, which may contain forged values, to one line each."""
        for name in ("what", "where"):
            object.__setattr__(self, name, quoted(getattr(self, name), _MOST))

    def __str__(self) -> str:
        """Return place and description as one line."""
        return f"{self.where}: {self.what}"


def check_key(
    id: str, principal: str, pem: str, revoked: str | None, replay: Replay
) -> Iterator[Finding]:
    """Check that a key is the one that was registered.

    Args:
        id: Id of the key.
        principal: Name of the principal to whom the key belongs.
        pem: The public key in PEM.
        revoked: Time of the revocation; None if the key is not revoked.
        replay: State that follows from the log.

    Yields:
        The errors found.
    """
    where = f"key {id}"
    if replay.keys.get(id, ("", ""))[0] != principal:
        yield Finding(f"the log has no registration of it for {principal}", where)
    if revoked != replay.revoked.get(id):
        yield Finding("the log disagrees on whether and when it was revoked", where)
    try:
        same = PublicKey.from_pem(pem)
    except KeyFileError:
        same = None
    if same is None or (same.id, same.pem) != (id, pem):
        yield Finding("its id is not that of its public key", where)
