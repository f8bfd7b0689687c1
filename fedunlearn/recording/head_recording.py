"""Recordings of linear heads: sums of a ridge head, and what certifies a perturbed one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedunlearn.errors import ForgetSetError, InputError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.head import (
    AT_MINIMISER,
    NOT_AT_MINIMISER,
    group_moments,
    head_of,
    ridge_solution,
    to_flat,
)
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.parameters import digest
from fedunlearn.questions.forget import ForgetSet, OfRecords, Part
from fedunlearn.questions.head_moments import Moments
from fedunlearn.questions.subspace_summary import FloatArray
from fedunlearn.recording.recording import Group
from fedunlearn.vectors import norm


@dataclass(frozen=True, eq=False)
class HeadRecording:
    """Sums of one model version; immutable, replaced by each removal.

    Attributes:
        by_label: Whether groups are labels.
        stays: Sums over all examples that have not been removed.
        groups: The sums of each group that has not been removed; empty where none are stored.
        model: Digest of the weights to which the recording belongs.
        gone: The forget sets of all removals so far, in order.
    """

    by_label: bool
    stays: Moments
    groups: Mapping[Group, Moments]
    model: bytes
    gone: tuple[ForgetSet, ...] = field(default=())

    def stored(self, forget: ForgetSet) -> dict[Group, Moments] | None:
        """Return the stored sums of a forget set; None where nodes must compute them.

        Raises:
            ForgetSetError: No recorded group belongs to the forget set.
        """
        takes = {group: forget.takes_group(group.node, group.label) for group in self.groups}
        if not takes or None in takes.values():
            return None
        found = {group: moments for group, moments in self.groups.items() if takes[group]}
        if unknown := forget.nodes - {group.node for group in found}:
            raise ForgetSetError(
                f"forget: node {', '.join(map(str, sorted(unknown)))} has left already, or was "
                "never recorded; leave it out"
            )
        if not found:
            raise ForgetSetError(f"forget: no node has any example of {forget}")
        return found

    def without(self, leaving: Mapping[Group, Moments], forget: ForgetSet) -> HeadRecording:
        """Return the recording without some examples; the caller sets its model.

        Args:
            leaving: Sums of the removed examples, by group.
            forget: The forget set.

        Raises:
            ForgetSetError: Nothing would stay.
        """
        stays, groups = self.stays, dict(self.groups)
        for group, moments in leaving.items():
            stays = stays - moments
            if group in groups:
                groups[group] = groups[group] - moments
                if groups[group].examples <= 0:
                    del groups[group]
        if stays.examples <= 0:
            raise ForgetSetError(f"forget: {forget} is all there is; something must stay")
        return replace(self, stays=stays, groups=groups, gone=joined(self.gone, forget))


@dataclass(frozen=True, eq=False)
class CertifiedRecording:
    """What the server stores of a model that can be certified; replaced by each removal.

    Attributes:
        weights: W (k, p) in float64.
        perturbation: b (k, p).
        square: X'X (p, p) over all examples of training, at least that over those that stay.
        spent: The sum of the bounds of what is left of the gradient of L_b.
        model: Digest of the model's weights.
        gone: The forget sets of all removals so far.
        draws: How often b has been drawn anew since training.
    """

    weights: FloatArray
    perturbation: FloatArray
    square: FloatArray
    spent: float
    model: bytes
    gone: tuple[ForgetSet, ...] = ()
    draws: int = 0


def joined(gone: tuple[ForgetSet, ...], forget: ForgetSet) -> tuple[ForgetSet, ...]:
    """Return the forget sets of all removals, with all single records in one.

    Questions to nodes carry them, and a long history is mostly of single records.
    """
    rule = replace(forget, after=())
    if not isinstance(rule, OfRecords):
        return (*gone, rule)
    places: dict[int, set[int]] = defaultdict(set)
    for one in (*gone, rule):
        for node, some in one.records if isinstance(one, OfRecords) else ():
            places[node].update(some)
    others = tuple(one for one in gone if not isinstance(one, OfRecords))
    return (*others, ForgetSet.of_records(places))


@dataclass(frozen=True)
class HeadRecorder:
    """A request for a recording of a ridge head; with another solver, nothing is recorded.

    Attributes:
        stored: Whether the sums of each group are stored, so that no node need answer later.
        by_label: Whether the groups of a node are its labels.
    """

    stored: bool
    by_label: bool

    def __str__(self) -> str:
        """Return the name for messages."""
        return "sums of a linear head with these settings"

    def record(self, trained: TrainedModel, federation: Federation) -> HeadRecording | None:
        """Request the sums from all nodes: one round.

        Returns:
            The recording; None where the solver is not ridge.

        Raises:
            InputError: The model is not the minimiser.
        """
        settings = trained.settings
        if settings.solver != "ridge":
            return None
        head = head_of(federation.layout, settings)
        objective = federation.objective(ForgetSet.of_nodes(), weight_decay=settings.weight_decay)
        with federation.progress.piece("recording", 1):
            answers = group_moments(
                objective,
                head,
                trained.weights,
                Part.RETAIN,
                by_label=self.stored and self.by_label,
            )
        groups = {
            Group(node, label): moments
            for node, label, moments in sorted(answers, key=lambda one: (one[0], one[1] or 0))
        }
        first, *others = groups.values()
        total = sum(others, first)
        best = to_flat(head, ridge_solution(total, settings.weight_decay).weights, trained.weights)
        if norm(trained.weights - best) > AT_MINIMISER * norm(best):
            raise InputError(NOT_AT_MINIMISER)
        return HeadRecording(
            by_label=self.by_label,
            stays=total,
            groups=groups if self.stored else {},
            model=digest(trained.weights),
        )
