"""The schema of results.json: what one run of one scenario measured, as typed models."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedunlearn.reporting.documents import (
    Count,
    Document,
    JsonObject,
    Measured,
    Sparse,
    Versioned,
)


class Floor(Sparse):
    """Mean Jensen-Shannon divergence (nats) over pairs of independently retrained models."""

    forget_js: Measured = None
    retain_js: Measured = None
    test_js: Measured = None


class Metrics(Sparse):
    """The metrics of one model; the table's legend says what each of them means."""

    forget_accuracy: Measured = None
    forget_js: Measured = None
    retain_accuracy: Measured = None
    retain_js: Measured = None
    test_accuracy: Measured = None
    test_js: Measured = None
    forget_loss: Measured = None
    tow: Measured = None
    mia_auc: Measured = None
    worst_node_accuracy: Measured = None
    node_accuracy_spread: Measured = None
    ulira_auc: Measured = None
    update_norm: Measured = None
    weight_distance: Measured = None
    backdoor_success: Measured = None
    relearn_epochs: Measured = None
    klom: Measured = None
    klom_retain: Measured = None
    klom_test: Measured = None
    ulira_pair_auc: Measured = None


class Spent(Sparse):
    """The cost of a removal, of a recording or of retraining."""

    rounds: Count
    bytes_up: Count
    bytes_down: Count
    gradient_equivalents: float
    seconds: float


class TrainedModelResults(Metrics):
    """The trained model, before the removal.

    Attributes:
        gradient_norm: Norm of the gradient of the whole objective at its weights.
    """

    gradient_norm: Measured = None


class RetrainedModelResults(Metrics, Spent):
    """The first model retrained without the forget set, and the cost of retraining."""


class CurvePoint(Sparse):
    """The divergence on the forget set after so many rounds of a method."""

    rounds: Count
    forget_js: Measured = None


class MethodResults(Metrics):
    """The model after one method, with its cost.

    Attributes:
        rounds: Number of broadcasts; absent, as the rest of the cost, for a model of other code.
        bytes_up: Bytes from the nodes to the server.
        bytes_down: Bytes from the server to the nodes.
        gradient_equivalents: Client compute.
        seconds: Wall time.
        status: How the method ended, with the remedy where there is one.
        claim: What may be claimed of the model.
        recording: The cost of recording for the method when training ended, not counted above.
        before_recovery: The metrics before recovery rounds, where there were any.
        curve: The divergence on the forget set along the method's rounds.
        details: What the method reports of its own computation.
    """

    rounds: Count | None = None
    bytes_up: Count | None = None
    bytes_down: Count | None = None
    gradient_equivalents: float | None = None
    seconds: float | None = None
    status: str
    claim: str
    recording: Spent | None = None
    before_recovery: Metrics | None = None
    curve: tuple[CurvePoint, ...] | None = None
    details: JsonObject = Field(default_factory=dict)


class ForgetSetResults(Sparse):
    """The forget set of one request.

    Attributes:
        kind: node, samples, records or class.
        description: The forget set in words.
        nodes: Names of the nodes that are concerned, where the scenario names them.
        fraction: samples: the share of each node's examples.
        seed: samples: the seed of the draw.
        class_: class: the label, or several.
        forgotten_examples: Number of examples that leave.
        retained_examples: Number of examples that stay.
    """

    kind: str
    fraction: float | None = None
    seed: int | None = None
    class_: str | tuple[str, ...] | None = Field(None, alias="class")
    nodes: tuple[str, ...] | None = None
    description: str
    forgotten_examples: Count
    retained_examples: Count


class RequestResults(Sparse):
    """The results of one request.

    Attributes:
        forget: The forget set.
        floor: The divergence between retrained models; empty where there is only one.
        shadow_oracles: Number of retrained models behind U-LiRA.
        klom_oracles: Number of retrained models behind KLoM.
        trained: The model before.
        retrained: The model retrained without the forget set.
        methods: The models after each method, by its name.
    """

    forget: ForgetSetResults
    floor: Floor
    shadow_oracles: Count | None = None
    klom_oracles: Count | None = None
    trained: TrainedModelResults
    retrained: RetrainedModelResults
    methods: dict[str, MethodResults]


class NodeAndClassNames(Document):
    """The names of nodes and classes, in the order of the numbers used inside."""

    nodes: tuple[str, ...]
    classes: tuple[str, ...]


class Environment(Sparse):
    """The software and hardware of a run.

    Attributes:
        transport: What carried the rounds.
        session_join_seconds: Time until all nodes of a deployment had joined.
    """

    transport: str
    python: str
    torch: str
    flwr: str
    cores: int | None = None
    threads: int
    session_join_seconds: float | None = None


class DeletionEvent(Document):
    """One transition of a deletion request."""

    time: str
    state: str
    stage: str | None
    actor: str
    reason: str


class ReceiptResults(Document):
    """A receipt as the client verified it.

    Attributes:
        file: Name of the file beside the report.
        verified: Whether it verifies with the issuer's key.
        predicate: The signed statement's predicate.
        envelope: The whole receipt as text.
    """

    file: str
    verified: bool
    predicate: JsonObject
    envelope: str


class DeletionResults(Sparse):
    """A deletion request that the demonstration filed with the deletion service.

    Attributes:
        due: When the request has to be completed (ISO 8601).
        model_before: SHA-256 of the model file before the removal.
        model_after: SHA-256 of the model file after it.
        same_as_comparison: Whether the new model is bit for bit the one that was measured.
    """

    id: str
    request_id: str
    owner: str
    description: str
    state: str
    reason: str
    due: str
    events: tuple[DeletionEvent, ...]
    model_before: str | None = None
    model_after: str | None = None
    receipt: ReceiptResults | None = None
    same_as_comparison: bool | None = None


class Results(Versioned):
    """results.json: one run of one scenario.

    Attributes:
        schema_version: Version of this schema.
        fedunlearn: Version of the package.
        name: Name of the scenario.
        scenario: Its settings as run, defaults included.
        names: Names of nodes and classes.
        environment: Software and hardware.
        requests: One entry, or several where the scenario is sequential.
        deletions: The demonstration's deletion requests.
    """

    version: ClassVar[int] = 1
    what: ClassVar[str] = "results"

    schema_version: Literal[1] = Field(1, alias="schema")
    fedunlearn: str
    name: str
    scenario: JsonObject
    names: NodeAndClassNames
    environment: Environment
    requests: Annotated[tuple[RequestResults, ...], Field(min_length=1)]
    deletions: tuple[DeletionResults, ...] | None = None
