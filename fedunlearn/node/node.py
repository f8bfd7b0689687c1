"""A node over a user's Task: it answers with sums over its own examples."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from fedunlearn.commitments import Commitments
from fedunlearn.errors import (
    EmptyNodeError,
    ForgetSetError,
    TaskError,
)
from fedunlearn.model_state import ModelState
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.node.checks import read_examples, require_same_reads, require_usable
from fedunlearn.node.enrolment import Enrolment
from fedunlearn.node.sums import ExampleSums
from fedunlearn.node.tombstones import Tombstones
from fedunlearn.parameters import require_finite
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.questions.question import Answer, Question
from fedunlearn.risk.examples import Examples, Form, TensorExamples, as_examples
from fedunlearn.risk.local_rules import LocalPlan, LocalRule
from fedunlearn.risk.local_training import ORDINARY, train_locally
from fedunlearn.risk.task import HoldsOut, Task

MEMORY = 256 * 2**20


class Records(Protocol):
    """What a node remembers of removals, and how it commits to its records."""

    @property
    def tombstones(self) -> Tombstones:
        """What was removed."""
        ...

    def commitments(self, records: Iterable[bytes], /) -> Commitments | None:
        """Return the commitments to records, in the order of the data; None without any."""
        ...


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
        self._sums = ExampleSums(self)
        self._usable = False
        self._sent = sent
        self._state = ModelState()
        self._tried = set() if tried is None else tried

    @cached_property
    def examples(self) -> Examples:
        """The node's examples, removed ones included.

        Raises:
            EmptyNodeError: There are none.
            TaskError: The examples cannot be used, or differ from the committed ones: the
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
        self._sums.release()  # its graphs hold the tensors that are written to
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
        self._sums.release()
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
            values[part], groups = self._sums.of_part(question, part, indices)
            if groups is not None:
                labels[part] = groups
        return Answer(
            node=self.number,
            job=question.job,
            round=question.round,
            model_digest=question.model_digest,
            vectors_digest=question.vectors_digest,
            counts={part: len(chosen) for part, chosen in indices.items()},
            values=values,
            labels=labels,
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
        self._sums.release()  # its memory is better spent on training
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
                self._sums.release()
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
            ForgetSetError: The forget set names a class and the examples have no labels.
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
