"""The weights that federated averaging gives to examples: the numbers of steps of their nodes.

A node with n_k examples takes ceil(n_k / B) steps in an epoch, of size eta each, along the mean
gradient of its examples, and the server averages the nodes by n_k (McMahan et al. 2017, algorithm
1). So a round moves the model by about -eta sum_k (n_k / n) v_k grad F_k with v_k = ceil(n_k / B):
training follows

    F(w) = (1/q) sum_k v_k sum over the examples of k of loss + (lambda/2)|w|^2,
    q = sum_k v_k n_k, the **mass** of the examples,

which is the mean over all examples only where all nodes take as many steps. Local epochs change all
v_k by one factor, which cancels.

A removal changes the v_k of a node that loses some of its examples, to v_k'. So it takes away

    v_k (sum over all examples of k) - v_k' (sum over those that stay)
        = v_k (sum over those that leave) + (v_k - v_k') (sum over those that stay),

which is the answer of a node for the forget set. With it sums and masses of both parts add up to
those before the removal, and those of several removals to those of all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedunlearn.questions.forget import Part


@dataclass(frozen=True)
class StepWeights:
    """The weights of a node's examples.

    Attributes:
        batch_size: The size B of the batches in training; None where every example counts once.
    """

    batch_size: int | None

    def of(self, examples: int) -> int:
        """Return v_k, the weight of each example of a node with this many examples."""
        return 1 if self.batch_size is None else math.ceil(examples / self.batch_size)

    def terms(self, counts: Mapping[Part, int], part: Part) -> dict[Part, int]:
        """Return the weights with which a node's two parts enter its answer for a part.

        Args:
            counts: The node's number of examples in each part.
            part: The part that is asked for.

        Returns:
            The weights that are not zero, of parts that are not empty.
        """
        after = self.of(counts[Part.RETAIN])
        if part is Part.RETAIN:
            return {Part.RETAIN: after} if counts[Part.RETAIN] else {}
        if not counts[Part.FORGET]:
            return {}
        before = self.of(sum(counts.values()))
        terms = {Part.FORGET: before}
        if counts[Part.RETAIN] and before != after:
            terms[Part.RETAIN] = before - after
        return terms

    def mass(self, counts: Mapping[Part, int], part: Part) -> int:
        """Return the sum of the weights of a node's examples in its answer for a part."""
        terms = self.terms(counts, part)
        return sum(weight * counts[of] for of, weight in terms.items())

    def used(self, counts: Mapping[Part, int], parts: Collection[Part]) -> int:
        """Return how many examples a node computes on for its answers for some parts."""
        used = {of for part in parts for of in self.terms(counts, part)}
        return sum(counts[part] for part in used)
