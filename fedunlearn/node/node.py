"""A node over a user's Task: it answers with sums over its own examples."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from fedunlearn.commitments import Commitments
from fedunlearn.errors import (
    EmptyNodeError,
    FedunlearnError,
    ForgetSetError,
    OwnCodeError,
    TaskError,
)
from fedunlearn.model_state import ModelState
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.node.checks import read_examples, require_same_reads, require_usable
from fedunlearn.node.enrolment import Enrolment
from fedunlearn.node.tombstones import Tombstones
from fedunlearn.parameters import require_finite
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.kinds import (
    Evaluations,
    Gradient,
    GroupGradients,
    Products,
    Statistics,
    Summaries,
)
from fedunlearn.questions.question import Answer, Question, Sample
from fedunlearn.questions.subspace_summary import pack
from fedunlearn.risk.causes import owned
from fedunlearn.risk.examples import Examples, Form, TensorExamples, as_examples
from fedunlearn.risk.local_rules import LocalPlan, LocalRule
from fedunlearn.risk.local_training import ORDINARY, train_locally
from fedunlearn.risk.objective import EmpiricalRisk, RiskCurvature
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.statistics import batches, statistics
from fedunlearn.risk.task import HoldsOut, Task

MEMORY = 256 * 2**20
PRODUCTS_AT_ONCE = 8

log = logging.getLogger(__name__)


class Records(Protocol):
    """What a node remembers of removals, and how it commits to its records."""

    @property
    def tombstones(self) -> Tombstones:
        """What was removed."""
        ...

    def commitments(self, records: Iterable[bytes], /) -> Commitments | None:
        """Return the commitments to records, in the order of the data; None without any."""
        ...


_CurvatureKey = tuple[bytes, ForgetSet, Part, Curvature, Sample | None]


class TaskNode:
    """One participant's share of a Task."""

    def __init__(
        self,
        task: Task,
        number: int,
        *,
        memory: int = MEMORY,
        records: Records | None = None,
        tried: set[Form] | None = None,
        sent: Collection[str] = (),
    ) -> None:
        """Take the node's share.

        Args:
            task: The Task.
            number: The node's number, handed to ``task.data``.
            memory: Bytes that the node may hold between the products of one basis.
            records: Its commitments, and what was removed from it; None keeps neither.
            tried: Shared by the nodes of a process that have the same Task, so that what does not
                depend on their examples is tried once; see ``require_usable``.
            sent: Names in ``state_dict`` of tensors beside the trainable weights of which the
                server has the trained values, so that they may differ from one build to the next.
        """
        self.task = task
        self.number = number
        self.memory = memory
        self.records = records
        self._curvature: tuple[_CurvatureKey, RiskCurvature] | None = None
        self._usable = False
        self._sent = sent
        self._state = ModelState()
        self._tried = set() if tried is None else tried

    @cached_property
    def examples(self) -> Examples:
        """The node's examples, removed ones included.

        Raises:
            EmptyNodeError: There are none.
            TaskError: They cannot be used, or are not those that the node has committed to: the
                list of removed ones would name others.
        """
        examples = read_examples(self.task, self.number)
        if len(examples) == 0:
            raise EmptyNodeError("data: no examples; a node needs at least one")
        if self.records is not None:
            self.records.commitments(examples.record_bytes())
        return examples

    @cached_property
    def held_out(self) -> Examples | None:
        """What the node evaluates on and does not train on; None where the Task has none."""
        if not isinstance(self.task, HoldsOut):
            return None
        found = self.task.held_out(self.number)
        return None if found is None else as_examples(found)

    @property
    def batch_size(self) -> int | None:
        """Of the user's loader; None where the Task has none."""
        return getattr(self.task, "batch_size", None)

    @property
    def classes(self) -> int:
        """How many classes the labels have: the largest and one more; 0 where there are none."""
        labels = self.examples.labels
        if labels is None or labels.is_floating_point() or not len(labels):
            return 0
        return max(0, int(labels.max()) + 1)

    @cached_property
    def model(self) -> nn.Module:
        """A workspace whose weights do not matter."""
        return build_model(self.task.model)

    @cached_property
    def _network(self) -> NetworkDigest:
        """What the model is as it was built, whatever state it was given since."""
        return NetworkDigest.of(self.model)

    def _take_state(self, state: ModelState) -> None:
        """Load what travels of the model beside its weights, unless it has been loaded."""
        if state == self._state:
            return
        self._curvature = None  # its graphs hold the tensors that are written to
        _ = self._network
        if not self._state.keys() <= state.keys():
            del self.model  # back to what was built
            self._state = ModelState()
        state.load(self.model)
        self._state = state

    def enrol(self) -> Enrolment:
        """Say who this is, how much it holds, and, where it keeps records, what they are.

        Returns:
            That, and what network it computes on.

        Raises:
            TaskError: Model, loss or data cannot be used, which is tried here on a few examples.
        """
        self._require_usable()
        network = self._network
        if self.records is None:
            return Enrolment(self.number, len(self.examples), network=network)
        self.records.tombstones.refresh()
        commitments = self.records.commitments(self.examples.record_bytes())
        return Enrolment(
            self.number,
            int(self.records.tombstones.stays(len(self.examples)).sum()),
            root=None if commitments is None else commitments.root,
            records=len(self.examples),
            left=self.records.tombstones.has_left,
            network=network,
        )

    def _require_usable(self) -> None:
        """Try what rounds will ask, once, on examples that were not removed."""
        if self._usable:
            return
        require_same_reads(self.task, self.number, self.examples)
        staying = self._staying(torch.arange(len(self.examples)))
        left = self.records is not None and self.records.tombstones.has_left
        if len(staying) and not left:
            require_usable(self.task, self.model, self._take(staying), self._tried, self._sent)
        self._usable = True

    def record_tombstones(self, deletion: str, forget: ForgetSet) -> int:
        """Never use again what a removal has removed, nor, where the node left, anything.

        Args:
            deletion: Its id.
            forget: What it removed.

        Returns:
            How many examples that is.

        Raises:
            TaskError: The node keeps no list of what was removed.
        """
        if self.records is None:
            raise TaskError(
                "keeps no list of removed examples; give it a folder (records in its node config)"
            )
        self._curvature = None
        places = self.places_of(forget)
        if forget.of_whole_nodes:
            if self.number in forget.nodes:
                self.records.tombstones.leave(deletion)
        else:
            self.records.tombstones.record(deletion, places.tolist())
        return len(places)

    def places_of(self, forget: ForgetSet) -> Tensor:
        """Return the places (m,) of the node's examples that a rule, or one before it, forgets."""
        return torch.nonzero(forget.forgotten_by_now(self.number, self._targets(forget)))[:, 0]

    def expect(self, sent: Iterable[str]) -> None:
        """Expect tensors from the server, by their names in ``state_dict``; see ``sent``."""
        self._sent = tuple(sent)

    def use_records(self, records: Records | None) -> None:
        """Look for what was removed from the node in another place from now on."""
        self.records = records

    def answer(self, question: Question) -> Answer:
        """Answer with sums over the parts that were asked for."""
        self._require_present()
        self._take_state(question.carried)
        indices = {part: self._indices(question.forget, part) for part in Part}
        values: dict[Part, Tensor] = {}
        labels: dict[Part, tuple[int, ...]] = {}
        for part in question.parts:
            if not len(indices[part]):
                continue
            match question.ask:
                case Statistics():
                    values[part] = self._statistics(question, question.ask, indices[part])
                case GroupGradients() | Summaries():
                    labels[part], values[part] = self._by_group(question, part, indices[part])
                case _:
                    values[part] = self._estimate(question, part, indices[part])
        return Answer(
            node=self.number,
            job=question.job,
            round=question.round,
            model_digest=question.model_digest,
            vectors_digest=question.vectors_digest,
            counts={part: len(chosen) for part, chosen in indices.items()},
            values=values,
            labels=labels if question.in_groups else {},
        )

    def train(
        self,
        weights: Tensor,
        plan: LocalPlan,
        without: ForgetSet | None = None,
        part: Part = Part.RETAIN,
        rule: LocalRule = ORDINARY,
        reference: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """Train on a part of what the node holds.

        Args:
            weights: Start, shape (d,).
            plan: Epochs, batches and step size.
            without: Cuts the examples in two; None for all of them.
            part: Which of the two.
            rule: What is done with them.
            reference: Weights (d,) that some rules need beside the start.

        Returns:
            The new weights (d,) and the number of examples they were trained on; with none, the
            weights that came in.
        """
        self._require_present()
        self._curvature = None  # its memory is better spent on training
        chosen = self._staying(torch.arange(len(self.examples)))
        if without is not None:
            chosen = self._indices(without, part)
        examples = self._take(chosen)
        if len(examples) == 0:
            return weights, 0
        trained = train_locally(
            self.model, self.task.loss, examples, weights, plan, rule, reference
        )
        require_finite(trained, f"training on node {self.number}")
        return trained, len(examples)

    def _indices(self, forget: ForgetSet, part: Part) -> Tensor:
        return self._staying(forget.select(part, self.number, self._targets(forget)))

    def _require_present(self) -> None:
        """Refuse where the node has left; forget what was kept of examples that were removed."""
        if self.records is not None:
            if self.records.tombstones.refresh():
                self._curvature = None
            self.records.tombstones.require_present()

    def _staying(self, indices: Tensor) -> Tensor:
        """Return those of some examples' places (m,) that were not removed before."""
        if self.records is None:
            return indices
        return indices[self.records.tombstones.stays(len(self.examples))[indices]]

    def _take(self, indices: Tensor) -> Examples:
        return self.examples if len(indices) == len(self.examples) else self.examples.at(indices)

    def _targets(self, forget: ForgetSet) -> Tensor:
        """Return what a forget set selects by: one entry an example, the label where it counts.

        Raises:
            ForgetSetError: It names a class and the examples have no labels.
        """
        if isinstance(self.examples, TensorExamples):
            return self.examples.targets
        if not forget.by_class:
            return torch.zeros(len(self.examples), dtype=torch.int64)
        labels = self.examples.labels
        if labels is None:
            raise ForgetSetError(
                "forget: a class needs whole-number targets of shape (n,), this node's data have "
                "none; name nodes or records, or say which key is the label"
            )
        return labels

    def _group_targets(self) -> Tensor:
        if isinstance(self.examples, TensorExamples):
            return self.examples.targets
        labels = self.examples.labels
        return torch.zeros(len(self.examples), 0) if labels is None else labels

    def _estimate(self, question: Question, part: Part, indices: Tensor) -> Tensor:
        """Sum over a part's examples, or scale up the sum over a sample of them."""
        if question.sample is None:
            return self._values(question, part, indices)
        drawn = question.sample.draw(indices, self.number, part)
        return self._values(question, part, drawn) * (len(indices) / len(drawn))

    def _values(self, question: Question, part: Part, indices: Tensor) -> Tensor:
        if isinstance(question.ask, Products):
            return self._curvature_of(question, question.ask, part, indices).products(
                question.vectors
            )
        risk = self._risk(question, indices)
        if isinstance(question.ask, Gradient):
            return risk.gradient(question.point)
        points = [question.point, *(question.point + step for step in question.vectors)]
        if isinstance(question.ask, Evaluations):
            own = torch.stack([risk.evaluation(point) for point in points])
            return torch.stack([own, self._on_held_out(question, part, points)])
        return torch.tensor([risk.value(w) for w in points], dtype=torch.float64)

    def _statistics(self, question: Question, ask: Statistics, indices: Tensor) -> Tensor:
        """Answer what normalisation layers see of batches of a part's examples."""
        self._curvature = None  # its graphs hold the buffers that are written to
        places = batches(indices, ask.batch_size, [ask.seed, self.number])
        # A batch of one has no variance: where a node has but one example, it counts as two.
        inputs = (
            (len(some), self.examples.batch(some if len(some) > 1 else some.repeat(2))[0])
            for some in places
        )
        return statistics(self.model, question.point, question.carried, inputs, ask.seed)

    def _on_held_out(self, question: Question, part: Part, points: list[Tensor]) -> Tensor:
        """Evaluate models (m,) on what is held out and belongs to a part: (m, 4)."""
        nothing = torch.zeros(len(points), 4, dtype=torch.float64)
        if self.held_out is None:
            return nothing
        held_out = self.held_out
        gone = torch.zeros(len(held_out), dtype=torch.bool)
        labels = held_out.labels if question.forget.everywhere else None
        if labels is not None:
            gone = torch.isin(labels, labels.new_tensor(sorted(question.forget.everywhere)))
        chosen = torch.nonzero(gone if part is Part.FORGET else ~gone)[:, 0]
        if not len(chosen):
            return nothing
        risk = EmpiricalRisk(self.model, self.task.loss, held_out.at(chosen))
        return torch.stack([risk.evaluation(point) for point in points])

    def _by_group(
        self, question: Question, part: Part, indices: Tensor
    ) -> tuple[tuple[int, ...], Tensor]:
        """Answer for each group of a part's examples; returns labels and rows."""
        ask = question.ask
        assert isinstance(ask, GroupGradients | Summaries)
        groups = split_by_label(self._group_targets(), indices) if ask.by_label else {}
        chosen = list(groups.values()) or [indices]
        labels = tuple(groups)
        if isinstance(ask, Summaries):
            rows = [self._summary(question, ask.curvature, part, group) for group in chosen]
            return labels, torch.stack(rows)
        gradients = [self._risk(question, group).gradient(question.point) for group in chosen]
        if ask.signs is None:
            return labels, torch.stack(gradients)
        signs = ask.signs.draw(self.number, labels, question.point.dtype)
        return labels, signs @ torch.stack(gradients)

    def _summary(self, question: Question, kind: Curvature, part: Part, indices: Tensor) -> Tensor:
        """Summarise the gradient of all examples of a group, and the curvature of the sample."""
        basis = question.vectors
        gradient = self._risk(question, indices).gradient(question.point)
        drawn = indices
        if question.sample is not None:
            drawn = question.sample.draw(indices, self.number, part)
        risk = self._risk(question, drawn)
        curvature = risk.curvature(question.point, kind, budget=self.memory)
        scale = len(indices) / len(drawn)
        # A few products at a time: the memory of Q is enough.
        images = [curvature.products(some) @ basis.T for some in basis.split(PRODUCTS_AT_ONCE)]
        return pack(len(indices), gradient, basis @ gradient, torch.cat(images) * scale)

    def _curvature_of(
        self, question: Question, ask: Products, part: Part, indices: Tensor
    ) -> RiskCurvature:
        """Return the curvature that a basis is built from, kept from one product to the next."""
        key = (question.model_digest, question.forget, part, ask.curvature, question.sample)
        if self._curvature is None or self._curvature[0] != key:
            self._curvature = None  # frees the old before the new takes its place
            risk = self._risk(question, indices)
            kept = risk.curvature(question.point, ask.curvature, budget=self.memory)
            self._curvature = (key, kept)
        return self._curvature[1]

    def _risk(self, question: Question, indices: Tensor) -> EmpiricalRisk:
        risk = EmpiricalRisk(self.model, self.task.loss, self._take(indices))
        if question.point.shape != (risk.layout.dimension,):
            raise TaskError(
                f"model: has {risk.layout.dimension} trainable parameters, the question's point "
                f"{question.point.numel()}; server and nodes need the same Task"
            )
        return risk


def split_by_label(targets: Tensor, indices: Tensor) -> dict[int, Tensor]:
    """Split examples by their label, ascending; empty where targets (n, ...) are not labels."""
    if targets.ndim != 1 or targets.is_floating_point() or int(targets.min()) < 0:
        return {}
    own = targets[indices]
    return {int(label): indices[own == label] for label in own.unique()}


def safe_message(error: Exception) -> str:
    """Return what of an error may leave a node: our own messages whole, of others the type only.

    The text of what the Task's own code raised stays here, in the log.
    """
    raised = error.__cause__ if isinstance(error, OwnCodeError) else error
    if raised is not None and not isinstance(raised, FedunlearnError):
        log.error("the task's own code raised", exc_info=raised)
    if isinstance(error, FedunlearnError):
        return str(error)
    return f"{owned(error)}; see the node's log"
