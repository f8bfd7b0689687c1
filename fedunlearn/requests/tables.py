"""The tables of a request store. Times are microseconds since the epoch, digests hexadecimal."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# SQLite finds rows by their number without an index only if the column is an INTEGER.
_Number = BigInteger().with_variant(Integer, "sqlite")


def _digest() -> String:
    return String(64)


PRINCIPALS = Table(
    "principals",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("role", String(10), nullable=False),
    Column("created", BigInteger, nullable=False),
)
KEYS = Table(
    "keys",
    METADATA,
    Column("id", _digest(), primary_key=True),
    Column("principal", ForeignKey("principals.name"), nullable=False, index=True),
    Column("pem", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)
NODES = Table(
    "nodes",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("owner", ForeignKey("principals.name"), index=True),
    Column("commitment_root", _digest()),
    Column("commitment_size", BigInteger),
    Column("left", BigInteger),
)
CLASSES = Table(
    "classes",
    METADATA,
    Column("name", String(200), primary_key=True),
)
MODELS = Table(
    "models",
    METADATA,
    Column("sha256", _digest(), primary_key=True),
    Column("parent", ForeignKey("models.sha256")),
    Column("kind", String(10), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),  # orders models created in the same microsecond
    Column("file", String(10), nullable=False),
    Column("rolled_back", Boolean, nullable=False),
    Column("facts", Text, nullable=False),
)
CURRENT = Table(
    "current",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("model", ForeignKey("models.sha256"), nullable=False),
)
JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("base", ForeignKey("models.sha256"), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("worker", String(200), nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Index(
        "ix_jobs_running",
        "until",
        sqlite_where=text("ended IS NULL"),
        postgresql_where=text("ended IS NULL"),
    ),
)
DELETIONS = Table(
    "deletions",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("owner", ForeignKey("principals.name"), nullable=False),
    Column("request_id", String(36), nullable=False),
    Column("key_id", ForeignKey("keys.id"), nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("scope", LargeBinary, nullable=False),
    Column("statement_sha256", _digest(), nullable=False),
    Column("scope_sha256", _digest(), nullable=False),
    Column("parsed", Text, nullable=False),  # the scope without its proofs, as JSON
    Column("family", Text, nullable=False),  # one job may remove requests of the same family
    Column("model", _digest(), nullable=False),
    Column("state", String(20), nullable=False),
    Column("stage", String(20)),
    Column("created", BigInteger, nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("extended", Boolean, nullable=False),
    Column("ended", BigInteger),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("job", ForeignKey("jobs.id"), index=True),
    Column("last_event", BigInteger, nullable=False),
    Column("model_before", _digest()),
    Column("model_after", _digest()),
    # The order of the columns lets a batch be found by its request ids.
    UniqueConstraint("request_id", "owner"),
    Index("ix_deletions_owner_state", "owner", "state"),
    Index("ix_deletions_created_id", "created", "id"),
    Index("ix_deletions_owner_created_id", "owner", "created", "id"),
    Index("ix_deletions_state_due_created_id", "state", "due", "created", "id"),
)
EVENTS = Table(
    "events",
    METADATA,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("deletion", ForeignKey("deletions.id"), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),
    Column("stage", String(20)),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("ix_events_deletion_number", "deletion", "number"),
    Index(
        "ix_events_failed",
        "number",
        sqlite_where=text("state = 'FAILED'"),
        postgresql_where=text("state = 'FAILED'"),
    ),
)
LOG = Table(
    "log",
    METADATA,
    Column("index", _Number, primary_key=True, autoincrement=False),
    Column("entry", Text, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("time", BigInteger, nullable=False),
)
HEADS = Table(
    "heads",
    METADATA,
    Column("size", _Number, primary_key=True, autoincrement=False),
    Column("root", _digest(), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("key_id", _digest(), nullable=False),
    Column("signature", LargeBinary, nullable=False),
)
# The peaks of the log's tree, so that an append need not read all leaves. They are checked against
# the last head before they are used.
FRONTIER = Table(
    "frontier",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    Column("peaks", LargeBinary, nullable=False),
)
APPLIED = Table(
    "applied",
    METADATA,
    Column("index", ForeignKey("log.index"), primary_key=True, autoincrement=False),
    Column("deletion", ForeignKey("deletions.id"), nullable=False),
    Column("job", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("base", ForeignKey("models.sha256"), nullable=False),
    Column("new", ForeignKey("models.sha256"), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("rolled_back", Boolean, nullable=False),
    Column("receipt", Text),
    # Exactly once: a request is applied at most once, unless it was rolled back.
    Index(
        "uq_applied_deletion",
        "deletion",
        unique=True,
        sqlite_where=text("NOT rolled_back"),
        postgresql_where=text("NOT rolled_back"),
    ),
)
AUDIT = Table(
    "audit",
    METADATA,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
NONCES = Table(
    "nonces",
    METADATA,
    Column("key_id", _digest(), primary_key=True),
    Column("nonce", LargeBinary, primary_key=True),
    Column("expires", BigInteger, nullable=False, index=True),
)
