"""Alembic's environment: migrations run in the transaction that the request store has opened."""

from __future__ import annotations

from alembic import context

from fedunlearn.requests.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
