"""A recording: the data that the server stores about the end of training and later removals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from fedunlearn.errors import ForgetSetError
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.step_weights import StepWeights
from fedunlearn.questions.subspace_summary import FloatArray, Summary
from fedunlearn.recording.basis import Basis
from fedunlearn.recording.reduced import ReducedProblem


class Group(NamedTuple):
    """Examples that have a summary of their own.

    Attributes:
        node: Number of the node that holds them.
        label: Their label; None where all examples of the node are one group.
    """

    node: int
    label: int | None


@dataclass(frozen=True, eq=False)
class Recording:
    """Directions, sums and summaries of one model version; immutable, replaced by each removal.

    Attributes:
        basis: The basis Q' (q, d).
        share: The share of the way from w0 to w^ at which it was recorded, which gives u.
        point: The point Q'u, shape (q,).
        weight_decay: The weight decay lambda.
        horizon: The sum T of training's step sizes.
        absolute: Whether Ritz values are replaced by their absolute values.
        by_label: Whether groups are labels.
        examples: The number n of examples when training ended.
        mass: Their mass q (questions/step_weights.py).
        batch_size: The size of the batches in training, where nodes are weighted by their numbers
            of steps; None where every example counts once.
        stays: Sums over all examples that have not been removed.
        groups: The weighted summary of each group that has not been removed; empty where only sums
            are stored.
        left: The sum Q'g_f over all removed examples, shape (q,). The weights before and after a
            removal reveal it in any case; nothing is stored of the curvature of removed examples.
        coordinates: The coordinates y; the weights are w^ + Q y.
        gone: The forget sets of all removals so far, in order.
        model: Digest of the weights to which the recording belongs.
    """

    basis: Basis
    share: float
    point: FloatArray
    weight_decay: float
    horizon: float
    absolute: bool
    by_label: bool
    examples: int
    mass: float
    batch_size: int | None
    stays: Summary
    groups: Mapping[Group, Summary]
    left: FloatArray
    coordinates: FloatArray
    model: bytes
    gone: tuple[ForgetSet, ...] = field(default=())

    def place(self, weights: Tensor, initial: Tensor) -> Tensor:
        """Return u, shape (d,), from the current weights (d,) and w0 (d,)."""
        trained = self.basis.moved(weights, -self.coordinates)
        return trained if self.share == 1.0 else initial + self.share * (trained - initial)

    def stored(self, forget: ForgetSet) -> dict[Group, Summary] | None:
        """Return the stored summaries of a forget set; None where nodes must compute them.

        Raises:
            ForgetSetError: No recorded group belongs to the forget set.
        """
        takes = {group: forget.takes_group(group.node, group.label) for group in self.groups}
        if not takes or None in takes.values():
            return None
        found = {group: summary for group, summary in self.groups.items() if takes[group]}
        if not any(summary.examples for summary in found.values()):
            raise ForgetSetError(f"forget: no node has any example of {forget}")
        if unknown := forget.nodes - {group.node for group in found}:
            raise ForgetSetError(
                f"forget: node {', '.join(map(str, sorted(unknown)))} has left already, or was "
                "never recorded; leave it out"
            )
        return found

    def without(self, leaving: Mapping[Group, Summary], forget: ForgetSet) -> Recording:
        """Return the recording without some examples and their summaries.

        Its coordinates and its model are not changed: the caller sets them when it takes the step.

        Args:
            leaving: Summaries of the removed examples, by group.
            forget: The forget set.

        Raises:
            ForgetSetError: Nothing would stay, or more would be removed than exists.
        """
        total = sum(leaving.values(), Summary.nothing(self.basis.size))
        if self.stays.examples <= total.examples:
            raise ForgetSetError(f"forget: {forget} is all there is; something must stay")
        groups = dict(self.groups)
        for group, summary in leaving.items():
            if group in groups:
                groups[group] = groups[group] - summary
                if groups[group].examples <= 0:
                    del groups[group]
        for node in {group.node for group in leaving if group.label is not None}:
            total += self._lost_by_others(node, groups)
        stays = self.stays - total
        return replace(
            self,
            stays=stays,
            groups=groups,
            left=self.left + total.gradient,
            gone=(*self.gone, replace(forget, after=())),
        )

    def _lost_by_others(self, node: int, groups: dict[Group, Summary]) -> Summary:
        """Reduce the weights of a node's groups that stay, since the node takes fewer steps.

        Args:
            node: The node.
            groups: The groups after the removal, which are replaced.

        Returns:
            What the groups lose, with no examples.
        """
        weights = StepWeights(self.batch_size)
        others = [group for group in groups if group.node == node]
        before = weights.of(sum(s.examples for g, s in self.groups.items() if g.node == node))
        after = weights.of(sum(groups[group].examples for group in others))
        lost = Summary.nothing(self.basis.size)
        for group in others:
            reduced = groups[group].times(after / before)
            lost += groups[group] - reduced
            groups[group] = reduced
        return lost

    @property
    def time(self) -> float:
        """The sum of the step sizes in training on the retain set, which takes fewer steps."""
        each = self.stays.mass / self.stays.examples
        return self.horizon * each / (self.mass / self.examples)

    @property
    def completion(self) -> float:
        """The completion n_f/n of all removals so far; 0 where u is not the trained model."""
        return 1.0 - self.stays.examples / self.examples if self.share == 1.0 else 0.0

    def problem(self) -> ReducedProblem:
        """Return the cubic model of all removals so far."""
        return ReducedProblem.of(
            self.stays,
            self.left,
            self.mass - self.stays.mass,
            self.point,
            weight_decay=self.weight_decay,
            absolute=self.absolute,
            completion=self.completion,
        )

    def linear(self) -> FloatArray:
        """Return Q'b, shape (q,), of the influence objective G(w) = F_r(w) - <b, w> around u."""
        retain = self.stays.gradient / self.stays.mass + self.weight_decay * self.point
        linear: FloatArray = retain - self.problem().gradient
        return linear
