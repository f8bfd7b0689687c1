"""Settings of the service, which an operator writes into the state folder's ``service.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from fedunlearn.errors import InputError
from fedunlearn.scenario.loading import first_complaint
from fedunlearn.settings import Positive, Settings, Share
from fedunlearn.toml import read_toml

Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=1, le=10**9)]
File = Annotated[Path, Field(strict=False)]
FILES = ("tls-certificate", "tls-key", "client-ca")


class ServiceSettings(Settings):
    """Settings of the service; the defaults let it start without a file."""

    federation: Name = "default"
    # The name of the service that clients sign. By default it is derived from the issuer's key, so
    # that two services do not share a name by mistake: a signature for one is invalid at another.
    audience: Name | None = None
    listen: Name = "127.0.0.1:50061"
    metrics: Name | None = None
    database: Name | None = None
    # One month, GDPR Art. 12(3).
    due_days: Annotated[int, Field(ge=1, le=30)] = 30
    near_due_days: Annotated[int, Field(ge=0, le=30)] = 7
    require_approval: bool = False
    # An owner's request for more than this share of all registered records needs approval.
    approval_share: Share = 0.5
    quota_open: Count = 100
    quota_per_day: Count = 1000
    most_records: Annotated[int, Field(ge=1, le=100_000)] = 1000
    most_bytes: Annotated[int, Field(ge=4096, le=2**26)] = 2**20
    watches_per_principal: Count = 8
    most_watches: Count = 1000
    longest_watch_s: Positive = 3600.0
    stop_s: Positive = 5.0
    tls_certificate: File | None = None
    tls_key: File | None = None
    client_ca: File | None = None
    reflection: bool = False

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServiceSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls-certificate: must be given together with tls-key")
        if self.client_ca is not None and self.tls_certificate is None:
            raise ValueError("client-ca: needs tls-certificate and tls-key too")
        return self

    @property
    def due_in(self) -> timedelta:
        """Time from the storage of a request to its due date."""
        return timedelta(days=self.due_days)

    @property
    def near_due(self) -> timedelta:
        """Time before the due date from which a request counts as nearly due."""
        return timedelta(days=self.near_due_days)


def load_settings(path: Path, changes: Mapping[str, object] | None = None) -> ServiceSettings:
    """Read the settings of a service.

    Args:
        path: A TOML file; if it does not exist, all settings have their defaults.
        changes: Settings that replace those of the file; the keys are those of the file.

    Returns:
        The settings; relative paths in the file refer to the file's folder.

    Raises:
        InputError: The file cannot be read, or a key or value cannot be used.
    """
    try:
        table = read_toml(path, InputError)
    except FileNotFoundError:
        table = {}
    for key in FILES:
        if isinstance(file := table.get(key), str):
            table[key] = str(path.parent / file)
    try:
        return ServiceSettings.model_validate({**table, **(changes or {})})
    except ValidationError as error:
        raise InputError(f"{path}: {first_complaint(error, ServiceSettings)}") from None
