"""What checks find that does not hold."""

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
    """Something that does not hold; what is not printable in either is replaced.

    Attributes:
        what: It is.
        where: It was found.
    """

    what: str
    where: str

    def __post_init__(self) -> None:
        """Keep what was found, which may be made up, to one line each."""
        for name in ("what", "where"):
            object.__setattr__(self, name, quoted(getattr(self, name), _MOST))

    def __str__(self) -> str:
        """Return both, as one line."""
        return f"{self.where}: {self.what}"


def check_key(
    id: str, principal: str, pem: str, revoked: str | None, replay: Replay
) -> Iterator[Finding]:
    """Check that a key is the one that was registered.

    Args:
        id: Its own.
        principal: For whom it speaks.
        pem: The key.
        revoked: When it was.
        replay: What the log leads to.

    Yields:
        What does not hold.
    """
    where = f"key {id}"
    if replay.keys.get(id, ("", ""))[0] != principal:
        yield Finding(f"the log does not say that it was registered for {principal}", where)
    if revoked != replay.revoked.get(id):
        yield Finding("the log disagrees on whether and when it was revoked", where)
    try:
        same = PublicKey.from_pem(pem)
    except KeyFileError:
        same = None
    if same is None or (same.id, same.pem) != (id, pem):
        yield Finding("it is another key than its id says", where)
