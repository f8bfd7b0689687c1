import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_PENDING: _ClassVar[State]
    STATE_AWAITING_APPROVAL: _ClassVar[State]
    STATE_RUNNING: _ClassVar[State]
    STATE_SUCCEEDED: _ClassVar[State]
    STATE_REJECTED: _ClassVar[State]
    STATE_CANCELLED: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_COLLECTING: _ClassVar[Stage]
    STAGE_SOLVING: _ClassVar[Stage]
    STAGE_VERIFYING: _ClassVar[Stage]
    STAGE_COMMITTING: _ClassVar[Stage]
STATE_UNSPECIFIED: State
STATE_PENDING: State
STATE_AWAITING_APPROVAL: State
STATE_RUNNING: State
STATE_SUCCEEDED: State
STATE_REJECTED: State
STATE_CANCELLED: State
STATE_FAILED: State
STAGE_UNSPECIFIED: Stage
STAGE_COLLECTING: Stage
STAGE_SOLVING: Stage
STAGE_VERIFYING: Stage
STAGE_COMMITTING: Stage

class NodeScope(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("index", "commitment", "path")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    index: int
    commitment: bytes
    path: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, index: _Optional[int] = ..., commitment: _Optional[bytes] = ..., path: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RecordScope(_message.Message):
    __slots__ = ("node", "records")
    NODE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    node: str
    records: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, node: _Optional[str] = ..., records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class ClassScope(_message.Message):
    __slots__ = ("labels", "nodes")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, labels: _Optional[_Iterable[str]] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class Scope(_message.Message):
    __slots__ = ("node", "records")
    NODE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    node: NodeScope
    records: RecordScope
    def __init__(self, node: _Optional[_Union[NodeScope, _Mapping]] = ..., records: _Optional[_Union[RecordScope, _Mapping]] = ..., **kwargs) -> None: ...

class DeletionStatement(_message.Message):
    __slots__ = ("audience", "federation", "model_sha256", "request_id", "issued", "expires", "scope_sha256")
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ISSUED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    SCOPE_SHA256_FIELD_NUMBER: _ClassVar[int]
    audience: str
    federation: str
    model_sha256: bytes
    request_id: str
    issued: _timestamp_pb2.Timestamp
    expires: _timestamp_pb2.Timestamp
    scope_sha256: bytes
    def __init__(self, audience: _Optional[str] = ..., federation: _Optional[str] = ..., model_sha256: _Optional[bytes] = ..., request_id: _Optional[str] = ..., issued: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scope_sha256: _Optional[bytes] = ...) -> None: ...

class CallStatement(_message.Message):
    __slots__ = ("audience", "method", "request_sha256", "issued", "expires", "nonce")
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    ISSUED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    audience: str
    method: str
    request_sha256: bytes
    issued: _timestamp_pb2.Timestamp
    expires: _timestamp_pb2.Timestamp
    nonce: bytes
    def __init__(self, audience: _Optional[str] = ..., method: _Optional[str] = ..., request_sha256: _Optional[bytes] = ..., issued: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Signed(_message.Message):
    __slots__ = ("payload", "key_id", "signature")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    key_id: str
    signature: bytes
    def __init__(self, payload: _Optional[bytes] = ..., key_id: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Deletion(_message.Message):
    __slots__ = ("id", "request_id", "owner", "state", "stage", "kind", "count", "scope_sha256", "created", "due", "expected", "ended", "near_due", "reason", "attempts", "last_event", "model_before_sha256", "model_after_sha256", "nodes", "labels")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SCOPE_SHA256_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    NEAR_DUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_BEFORE_SHA256_FIELD_NUMBER: _ClassVar[int]
    MODEL_AFTER_SHA256_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    id: str
    request_id: str
    owner: str
    state: State
    stage: Stage
    kind: str
    count: int
    scope_sha256: bytes
    created: _timestamp_pb2.Timestamp
    due: _timestamp_pb2.Timestamp
    expected: _timestamp_pb2.Timestamp
    ended: _timestamp_pb2.Timestamp
    near_due: bool
    reason: str
    attempts: int
    last_event: int
    model_before_sha256: bytes
    model_after_sha256: bytes
    nodes: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., request_id: _Optional[str] = ..., owner: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., stage: _Optional[_Union[Stage, str]] = ..., kind: _Optional[str] = ..., count: _Optional[int] = ..., scope_sha256: _Optional[bytes] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., due: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expected: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., near_due: _Optional[bool] = ..., reason: _Optional[str] = ..., attempts: _Optional[int] = ..., last_event: _Optional[int] = ..., model_before_sha256: _Optional[bytes] = ..., model_after_sha256: _Optional[bytes] = ..., nodes: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("number", "time", "state", "stage", "actor", "reason")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    number: int
    time: _timestamp_pb2.Timestamp
    state: State
    stage: Stage
    actor: str
    reason: str
    def __init__(self, number: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[State, str]] = ..., stage: _Optional[_Union[Stage, str]] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class GetServiceInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServiceInfoResponse(_message.Message):
    __slots__ = ("audience", "federation", "version", "model_sha256", "issuer_key", "issuer_key_id", "scopes", "most_records", "most_open_requests", "most_bytes", "longest_statement_s", "longest_call_s")
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    ISSUER_KEY_FIELD_NUMBER: _ClassVar[int]
    ISSUER_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    MOST_RECORDS_FIELD_NUMBER: _ClassVar[int]
    MOST_OPEN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    LONGEST_STATEMENT_S_FIELD_NUMBER: _ClassVar[int]
    LONGEST_CALL_S_FIELD_NUMBER: _ClassVar[int]
    audience: str
    federation: str
    version: str
    model_sha256: bytes
    issuer_key: str
    issuer_key_id: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    most_records: int
    most_open_requests: int
    most_bytes: int
    longest_statement_s: int
    longest_call_s: int
    def __init__(self, audience: _Optional[str] = ..., federation: _Optional[str] = ..., version: _Optional[str] = ..., model_sha256: _Optional[bytes] = ..., issuer_key: _Optional[str] = ..., issuer_key_id: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., most_records: _Optional[int] = ..., most_open_requests: _Optional[int] = ..., most_bytes: _Optional[int] = ..., longest_statement_s: _Optional[int] = ..., longest_call_s: _Optional[int] = ...) -> None: ...

class CreateDeletionRequest(_message.Message):
    __slots__ = ("statement", "scope")
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    statement: Signed
    scope: bytes
    def __init__(self, statement: _Optional[_Union[Signed, _Mapping]] = ..., scope: _Optional[bytes] = ...) -> None: ...

class CreateDeletionResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: Deletion
    def __init__(self, deletion: _Optional[_Union[Deletion, _Mapping]] = ...) -> None: ...

class GetDeletionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetDeletionResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: Deletion
    def __init__(self, deletion: _Optional[_Union[Deletion, _Mapping]] = ...) -> None: ...

class ListDeletionsRequest(_message.Message):
    __slots__ = ("states", "page_size", "page_token")
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[State]
    page_size: int
    page_token: str
    def __init__(self, states: _Optional[_Iterable[_Union[State, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDeletionsResponse(_message.Message):
    __slots__ = ("deletions", "next_page_token")
    DELETIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    deletions: _containers.RepeatedCompositeFieldContainer[Deletion]
    next_page_token: str
    def __init__(self, deletions: _Optional[_Iterable[_Union[Deletion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelDeletionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelDeletionResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: Deletion
    def __init__(self, deletion: _Optional[_Union[Deletion, _Mapping]] = ...) -> None: ...

class ApproveDeletionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ApproveDeletionResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: Deletion
    def __init__(self, deletion: _Optional[_Union[Deletion, _Mapping]] = ...) -> None: ...

class RejectDeletionRequest(_message.Message):
    __slots__ = ("id", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: str
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RejectDeletionResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: Deletion
    def __init__(self, deletion: _Optional[_Union[Deletion, _Mapping]] = ...) -> None: ...

class RetryDeletionRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RetryDeletionResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: Deletion
    def __init__(self, deletion: _Optional[_Union[Deletion, _Mapping]] = ...) -> None: ...

class ExtendDeletionRequest(_message.Message):
    __slots__ = ("id", "due", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    DUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    due: _timestamp_pb2.Timestamp
    reason: str
    def __init__(self, id: _Optional[str] = ..., due: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class ExtendDeletionResponse(_message.Message):
    __slots__ = ("deletion",)
    DELETION_FIELD_NUMBER: _ClassVar[int]
    deletion: Deletion
    def __init__(self, deletion: _Optional[_Union[Deletion, _Mapping]] = ...) -> None: ...

class WatchDeletionRequest(_message.Message):
    __slots__ = ("id", "after_event")
    ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_EVENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    after_event: int
    def __init__(self, id: _Optional[str] = ..., after_event: _Optional[int] = ...) -> None: ...

class WatchDeletionResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: Event
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ...) -> None: ...

class GetReceiptRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetReceiptResponse(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...
