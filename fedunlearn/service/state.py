"""The state folder of a service: its settings, the issuer's key, and the request store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedunlearn.errors import KeyFileError, StoreError
from fedunlearn.files import private_files, write_whole
from fedunlearn.requests.keys import PrivateKey
from fedunlearn.requests.store import RequestStore, state_url
from fedunlearn.service.service_settings import ServiceSettings, load_settings

SETTINGS, ISSUER, ISSUER_PUBLIC, MODELS = "service.toml", "issuer.key", "issuer.pub", "models"


@dataclass(frozen=True)
class ServiceState:
    """The contents of a state folder.

    Attributes:
        folder: Path of the folder.
        settings: Settings in ``service.toml``.
        store: The request store, opened with the issuer's key.
        issuer: The key that signs the log and the receipts.
    """

    folder: Path
    settings: ServiceSettings
    store: RequestStore
    issuer: PrivateKey

    @property
    def models(self) -> Path:
        """Folder of the model files."""
        return self.folder / MODELS


@contextmanager
def open_state(
    folder: Path,
    database: str | None = None,
    *,
    create: bool = True,
    changes: Mapping[str, object] | None = None,
) -> Iterator[ServiceState]:
    """Open a state folder; all files made in the block are readable by their owner only.

    Args:
        folder: Path of the folder.
        database: URL of the request store; by default, that of the settings, or a file in the
            folder.
        create: Whether to create what is missing: the folder, the issuer's key, the store.
        changes: Settings that replace those of the file.

    Yields:
        The state; its store is closed at the end.

    Raises:
        InputError: The settings, the key or the store are missing or damaged, or cannot be made.
        StoreError: There is no such folder.
        KeyFileError: The log was signed with another key than the issuer's key in the folder.
    """
    if create:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"--state {folder} cannot be created: {error.strerror}") from None
    elif not (folder / ISSUER).is_file():
        raise StoreError(f"--state {folder} is not a state folder; 'fedunlearn serve' creates one")
    with private_files(), _opened_store(folder, database, create, changes) as state:
        yield state


@contextmanager
def _opened_store(
    folder: Path, database: str | None, create: bool, changes: Mapping[str, object] | None
) -> Iterator[ServiceState]:
    settings = load_settings(folder / SETTINGS, changes)
    url = database or settings.database or state_url(folder)
    issuer = _issuer(folder, create=create and not (folder / "requests.db").exists())
    with RequestStore.open(url, issuer=issuer, create=create) as store:
        head = store.last_head()
        if head is not None and head.key_id != issuer.public.id:
            raise KeyFileError(
                f"{folder / ISSUER} is not the key that signed the log of the store (key "
                f"{head.key_id}); use that key, or another store"
            )
        yield ServiceState(folder, settings, store, issuer)


def _issuer(folder: Path, *, create: bool) -> PrivateKey:
    """Read the issuer's key; a new key is made only if there is no log that another key signed."""
    path = folder / ISSUER
    if create and not path.exists():
        PrivateKey.generate("ed25519").write(path)
    issuer = PrivateKey.read(path)
    public = folder / ISSUER_PUBLIC
    if not public.exists():
        write_whole(public, issuer.public.pem)
    return issuer
