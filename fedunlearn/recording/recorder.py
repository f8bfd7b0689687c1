"""The recorder of a subspace and of the groups' summaries in it, at the end of training.

1. Range: the leading directions of the groups' gradient sums at u, or of random signed sums.
2. Block Krylov: these directions, multiplied by the federation's curvature at u, once or more.
3. Every group's summary in that Krylov space.
4. Compression, by the server alone: q directions of the Krylov space are retained, those in which
   possible removals would move the model most. The removal of each group, each node and each label
   is solved; the leading left singular vectors of the steps are the directions. Where only sums are
   seen, the removals are those of the signed sums, and nothing is subtracted from the curvature.

Rounds: 3 where the range is half of the Krylov space, 2 + depth at most. Source of the range:
Halko, Martinsson, Tropp 2011; the rest is this project's own. For alternatives that were tried, see
simulations/README.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fedunlearn.errors import TaskError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.objective import FederatedObjective
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.parameters import digest
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import Signs
from fedunlearn.questions.question import Sample
from fedunlearn.questions.subspace_summary import FloatArray, Summary
from fedunlearn.recording.basis import MemoryBasis
from fedunlearn.recording.recording import Group, Recording
from fedunlearn.recording.recording_settings import RecordingSettings
from fedunlearn.recording.reduced import ReducedProblem, natural_damping
from fedunlearn.solvers.range_finder import LeadingDirections, block_krylov, orthonormal
from fedunlearn.vectors import dot

T = TypeVar("T")

# Signed sums beyond the size of the range, as Halko, Martinsson, Tropp advise (section 4.2).
OVERSAMPLING = 8


@dataclass(frozen=True)
class SubspaceRecorder:
    """A request for a recording.

    Attributes:
        settings: Settings of the recording.
    """

    settings: RecordingSettings

    def __str__(self) -> str:
        """Return the name for messages."""
        return "summaries with these settings"

    def record(self, trained: TrainedModel, federation: Federation) -> Recording:
        """Run the rounds of the recording over all nodes.

        Returns:
            The recording.

        Raises:
            TaskError: No example has a gradient at the point of the recording.
        """
        settings = self.settings
        decay = trained.settings.weight_decay
        horizon = trained.settings.horizon(federation.examples.values())
        step_batch = settings.step_batch(trained.settings)
        everything = federation.objective(
            ForgetSet.of_nodes(), weight_decay=decay, step_batch=step_batch
        )
        point = trained.interpolated(settings.linearise_at)
        sample = Sample.of(settings.product_share, seed=0)
        products = min(settings.depth, math.ceil(settings.krylov_directions / settings.range) - 1)
        with federation.progress.piece("recording", 2 + products):
            start, signed = self._range(everything, point)
            if not len(start):
                raise TaskError(
                    f"model: all gradients are zero at linearise-at = {settings.linearise_at:g}, "
                    "so that no direction can be recorded; choose another linearise-at"
                )
            curvature = everything.curvature(point, settings.kind, sample)
            krylov = block_krylov(curvature, start, settings.depth, settings.krylov_directions)
            total, groups = self._summaries(everything, point, krylov, sample)
        trial = _Trial(
            total,
            np.array([dot(row, point) for row in krylov]),
            decay,
            natural_damping(horizon),
            settings.absolute,
            settings.linearise_at == 1.0,
        )
        moves = trial.moves(groups) if signed is None else trial.moves_of_sums(signed, krylov)
        chosen = _leading(moves, settings.directions, len(krylov))
        precision = getattr(torch, settings.precision)
        rows = torch.from_numpy(chosen.T).to(krylov.dtype) @ krylov
        if precision is torch.bfloat16:
            rows = rows.to(precision)
        return Recording(
            basis=MemoryBasis(rows),
            share=settings.linearise_at,
            point=chosen.T @ trial.point,
            weight_decay=decay,
            horizon=horizon,
            absolute=settings.absolute,
            by_label=settings.groups == "classes",
            examples=total.examples,
            mass=total.mass,
            batch_size=step_batch,
            stays=total.within(chosen),
            groups={g: s.within(chosen) for g, s in groups.items()}
            if settings.policy == "stored"
            else {},
            left=np.zeros(chosen.shape[1]),
            coordinates=np.zeros(chosen.shape[1]),
            model=digest(trained.weights),
        )

    def _range(self, everything: FederatedObjective, point: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the range (r, d), and the signed sums from which it was found, if any."""
        settings = self.settings
        by_label = settings.groups == "classes"
        if settings.sums_only:
            signs = Signs(settings.range + OVERSAMPLING, seed=0)
            sums = everything.signed_gradients(point, by_label=by_label, signs=signs)
            return orthonormal(sums, settings.range), sums
        leading = LeadingDirections(settings.range)
        answers = everything.group_gradients(point, by_label=by_label)
        for _, _, rows in _in_turn(answers, everything.cohort.nodes):
            leading.add(rows)
        return leading.basis(), None

    def _summaries(
        self, everything: FederatedObjective, point: Tensor, krylov: Tensor, sample: Sample | None
    ) -> tuple[Summary, dict[Group, Summary]]:
        """Return the sum of all groups' summaries, and each of them unless only sums are seen."""
        settings = self.settings
        total = Summary.nothing(len(krylov))
        groups: dict[Group, Summary] = {}
        answers = everything.summaries(
            point,
            krylov,
            settings.kind,
            part=Part.RETAIN,
            by_label=settings.groups == "classes" and not settings.sums_only,
            sample=sample,
        )
        for node, labels, summaries in _in_turn(answers, everything.cohort.nodes):
            for label, summary in zip(labels or (None,), summaries, strict=True):
                total += summary
                if not settings.sums_only:
                    groups[Group(node, label)] = summary
        return total, groups


@dataclass(frozen=True, eq=False)
class _Trial:
    """Trial removals in the Krylov space, which show in which directions they move the model."""

    total: Summary
    point: FloatArray
    weight_decay: float
    damping: float
    absolute: bool
    at_trained: bool

    def moves(self, groups: dict[Group, Summary]) -> FloatArray:
        """Return the steps, as columns, of every removal of a group, a node or a label."""
        wholes: dict[tuple[str, int], list[Summary]] = defaultdict(list)
        for group, summary in groups.items():
            wholes["node", group.node].append(summary)
            if group.label is not None:
                wholes["label", group.label].append(summary)
        nothing = Summary.nothing(len(self.point))
        leaving = [*groups.values(), *(sum(parts, nothing) for parts in wholes.values())]
        moves = [
            self._move(self.total - one, one.gradient, one.mass, one.examples)
            for one in leaving
            if one.examples < self.total.examples
        ]
        # A single group cannot leave completely. There is no move then, and any directions will do.
        return np.stack(moves, axis=1) if moves else np.zeros((len(self.point), 0))

    def moves_of_sums(self, sums: Tensor, krylov: Tensor) -> FloatArray:
        """Return the steps, as columns, along random signed sums (m, d) of gradients."""
        return np.stack(
            [self._move(self.total, along, 0.0, 0) for along in (sums @ krylov.T).double().numpy()],
            axis=1,
        )

    def _move(self, stays: Summary, left: FloatArray, mass: float, examples: int) -> FloatArray:
        problem = ReducedProblem.of(
            stays,
            left,
            mass,
            self.point,
            weight_decay=self.weight_decay,
            absolute=self.absolute,
            completion=examples / self.total.examples if self.at_trained else 0.0,
        )
        return problem.damped(self.damping).coordinates


def _in_turn(
    answers: Iterator[tuple[int, tuple[int, ...], T]], nodes: Sequence[int]
) -> Iterator[tuple[int, tuple[int, ...], T]]:
    """Yield answers in the order of the nodes, so that the result does not depend on arrival.

    Answers that arrive before their turn are held.

    Yields:
        All answers.
    """
    early: dict[int, tuple[int, tuple[int, ...], T]] = {}
    turns = iter(nodes)
    turn = next(turns, None)
    for answer in answers:
        early[answer[0]] = answer
        while turn in early:
            yield early.pop(turn)
            turn = next(turns, None)
    yield from (early[node] for node in sorted(early))  # after a node that did not answer


def _leading(moves: FloatArray, columns: int, size: int) -> FloatArray:
    """Return the leading directions (size, q) of moves (size, m); all if there are few."""
    if size <= columns:
        return np.eye(size)
    left, _, _ = np.linalg.svd(moves, full_matrices=True)
    return np.ascontiguousarray(left[:, :columns])
