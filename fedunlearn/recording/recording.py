"""A recording: what the server keeps of the end of training, and of the removals since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from fedunlearn.errors import ForgetSetError
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.questions.subspace_summary import FloatArray, Summary
from fedunlearn.recording.basis import Basis
from fedunlearn.recording.reduced import ReducedProblem


class Group(NamedTuple):
    """Examples whose summary is kept by itself.

    Attributes:
        node: Whose they are.
        label: Their label; None where all of the node's are one group.
    """

    node: int
    label: int | None


@dataclass(frozen=True, eq=False)
class Recording:
    """Directions, sums and summaries of one model version. Immutable; a removal makes a new one.

    Attributes:
        basis: Q' (q, d).
        share: Of the way from w0 to w^ where it was recorded: u.
        point: Q'u, shape (q,).
        weight_decay: lambda.
        horizon: T, the sum of training's step sizes.
        absolute: Whether Ritz values are used by their absolute values.
        by_label: Whether groups are labels.
        examples: n, when training ended.
        stays: Sums over all that has not left.
        groups: The summary of each group that has not left; empty where only sums are kept.
        left: Q'g_f of all that left, shape (q,). It is what the weights before and after tell
            anyhow; of the curvature of what left nothing is kept.
        coordinates: y: the weights are w^ + Q y.
        gone: What has been removed, in this order.
        model: Digest of the weights it belongs to.
    """

    basis: Basis
    share: float
    point: FloatArray
    weight_decay: float
    horizon: float
    absolute: bool
    by_label: bool
    examples: int
    stays: Summary
    groups: Mapping[Group, Summary]
    left: FloatArray
    coordinates: FloatArray
    model: bytes
    gone: tuple[ForgetSet, ...] = field(default=())

    def place(self, weights: Tensor, initial: Tensor) -> Tensor:
        """Return u, shape (d,), from the weights (d,) as they are now and w0 (d,)."""
        trained = self.basis.moved(weights, -self.coordinates)
        return trained if self.share == 1.0 else initial + self.share * (trained - initial)

    def stored(self, forget: ForgetSet) -> dict[Group, Summary] | None:
        """Return the summaries of what leaves, where they are at hand; None where nodes must tell.

        Raises:
            ForgetSetError: None of the groups belongs to it.
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
        """Return what is kept once some examples have left; their summaries are not.

        Its coordinates and its model are still those of before: whoever takes the step sets them.

        Args:
            leaving: Their summaries, by the groups they belong to.
            forget: The rule that names them.

        Raises:
            ForgetSetError: Nothing would stay, or more would leave than there is.
        """
        total = sum(leaving.values(), Summary.nothing(self.basis.size))
        stays = self.stays - total
        if stays.examples <= 0:
            raise ForgetSetError(f"forget: {forget} is all there is; something must stay")
        groups = dict(self.groups)
        for group, summary in leaving.items():
            if group in groups:
                groups[group] = groups[group] - summary
                if groups[group].examples <= 0:
                    del groups[group]
        return replace(
            self,
            stays=stays,
            groups=groups,
            left=self.left + total.gradient,
            gone=(*self.gone, replace(forget, after=())),
        )

    def problem(self) -> ReducedProblem:
        """Return the cubic model of all that left so far."""
        return ReducedProblem.of(
            self.stays,
            self.left,
            self.examples - self.stays.examples,
            self.point,
            weight_decay=self.weight_decay,
            absolute=self.absolute,
        )

    def linear(self) -> FloatArray:
        """Return Q'b, shape (q,), of the influence objective G(w) = F_r(w) - <b, w> around u."""
        gradient = (self.stays.gradient + self.left) / self.stays.examples
        ratio = self.examples / self.stays.examples
        return gradient + ratio * self.weight_decay * self.point
