"""The settings of a recording."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedunlearn.risk.products import Curvature
from fedunlearn.settings import Settings, Share, TrainingSettings

Count = Annotated[int, Field(gt=0)]


class RecordingSettings(Settings):
    """Settings of a recording.

    Attributes:
        linearise_at: The point where gradients and curvature are taken: the share of the way from
            the initial to the trained weights. Below 1 the forget set's gradient is larger, and
            what training left undone is not followed.
        curvature: ``ggn``, ``hessian``, or ``hessian-abs``: the Hessian with the absolute values
            of its Ritz values.
        groups: The smallest sets of examples for whose removal the subspace is made: ``classes``
            for the examples of one label on one node, ``nodes`` for all examples of a node.
        range: Number of leading directions of the groups' gradient sums.
        krylov_directions: Dimensions of the Krylov space, which holds the range and its multiples
            by the curvature.
        depth: The largest number of multiplications by the curvature; each takes a round.
        directions: The number q of directions of the Krylov space that are recorded: those in which
            removals move the model most.
        product_share: The share of every group's examples from which products are computed.
        node_weights: Whether nodes count by their ``steps``, as in federated averaging, or by their
            ``examples``.
        policy: ``stored``: the server stores each group's summary, so that a node that has
            disappeared can still be removed; ``on-departure``: the server stores only their sums,
            and a node that leaves sends a summary with the request.
        sums_only: Whether nodes answer with random signed sums of gradients, and summaries are
            added up on arrival: with secure aggregation the server sees nothing else. Needs
            ``on-departure``.
        precision: Precision of the stored directions; ``float32`` stores that of the model's
            weights.
    """

    linearise_at: Share = 1.0
    curvature: Literal["ggn", "hessian", "hessian-abs"] = "ggn"
    groups: Literal["classes", "nodes"] = "classes"
    range: Count = 40
    krylov_directions: Count = 80
    depth: Annotated[int, Field(ge=0)] = 4
    directions: Count = 40
    product_share: Share = 1.0
    node_weights: Literal["steps", "examples"] = "steps"
    policy: Literal["stored", "on-departure"] = "stored"
    sums_only: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _sums_are_enough(self) -> RecordingSettings:
        if self.sums_only and self.policy == "stored":
            raise ValueError("sums-only: sees no single summary; it needs policy = 'on-departure'")
        return self

    @model_validator(mode="after")
    def _krylov_space_holds_the_range(self) -> RecordingSettings:
        if self.krylov_directions < self.range:
            raise ValueError(
                f"krylov-directions: {self.krylov_directions} is less than range = {self.range}; "
                "give at least as many, or twice as many for a product"
            )
        return self

    def step_batch(self, training: TrainingSettings) -> int | None:
        """Return the size of the batches whose number weighs a node; None without weights."""
        return training.step_batch if self.node_weights == "steps" else None

    @property
    def kind(self) -> Curvature:
        """The kind of products that nodes compute."""
        return Curvature.GGN if self.curvature == "ggn" else Curvature.HESSIAN

    @property
    def absolute(self) -> bool:
        """Whether Ritz values are replaced by their absolute values."""
        return self.curvature == "hessian-abs"
