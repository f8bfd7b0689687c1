"""The finished work of a run, in a folder, from which a later run can resume.

The rounds of a job are stored as their sums, a stretch of training as its last weights. A new run
repeats all steps in the same order; where the folder holds the result of a step, no node is asked.
Rounds whose answers are used one by one (recordings) are not stored and are run again.

The folder is for the server only, since sums of gradients and products reveal something about the
data, as the models before and after do. Only one run at a time may use it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedunlearn.errors import JobError
from fedunlearn.federation.accounting import Meter, MeterStack
from fedunlearn.federation.training import TrainingPlan
from fedunlearn.files import replacing
from fedunlearn.parameters import digest
from fedunlearn.questions.forget import Part
from fedunlearn.questions.question import Question
from fedunlearn.questions.wire import encode_forget_set, question_message

Counts = Mapping[int, Mapping[Part, int]]
WEIGHTS = "weights"


@dataclass(frozen=True)
class Spent:
    """The cost of a step that is not repeated.

    Attributes:
        rounds: See Meter.
        bytes_up: See Meter.
        bytes_down: See Meter.
        example_gradients: See Meter.
    """

    rounds: int
    bytes_up: int
    bytes_down: int
    example_gradients: float

    @classmethod
    def of(cls, meter: Meter) -> Spent:
        """Read a meter."""
        return cls(meter.rounds, meter.bytes_up, meter.bytes_down, meter.example_gradients)

    def __add__(self, other: Spent) -> Spent:
        """Return the sum of two costs."""
        return Spent(
            self.rounds + other.rounds,
            self.bytes_up + other.bytes_up,
            self.bytes_down + other.bytes_down,
            self.example_gradients + other.example_gradients,
        )

    def count(self, meters: MeterStack) -> None:
        """Add the cost to meters, so that a job's total covers all of its runs."""
        for _ in range(self.rounds):
            meters.count_round()
        meters.count_bytes(up=self.bytes_up, down=self.bytes_down)
        meters.count_compute(self.example_gradients)


@dataclass(frozen=True, eq=False)
class KeptRound:
    """The stored result of a finished round.

    Attributes:
        sums: Sums of the answers, by part, float64.
        counts: Number of examples per part of each node that has answered so far.
        spent: Cost of the round.
    """

    sums: Mapping[Part, Tensor]
    counts: Counts
    spent: Spent


@dataclass(frozen=True, eq=False)
class KeptTraining:
    """The stored progress of a stretch of training.

    Attributes:
        rounds: Number of finished rounds.
        weights: Weights after the last of them, shape (d,).
        spent: Cost of all of them.
    """

    rounds: int
    weights: Tensor
    spent: Spent


class Journal:
    """A folder of finished work, read and written in the order in which the work is done."""

    def __init__(self, folder: Path) -> None:
        """Open a folder, and create it where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._jobs = self._stretches = 0

    def apart(self, name: str) -> Journal:
        """Return a journal in a subfolder, for work outside of this journal's order."""
        return Journal(self._folder / f"job-{self._jobs:03d}-{name}")

    def job(self) -> JobJournal:
        """Return the journal of the next job."""
        self._jobs += 1
        return JobJournal(self._folder, self._jobs)

    def training(self, start: Tensor, plan: TrainingPlan) -> TrainingJournal:
        """Return the journal of the next stretch of training, from weights (d,)."""
        self._stretches += 1
        path = self._folder / f"training-{self._stretches:03d}.safetensors"
        return TrainingJournal(path, _of_training(start, plan))


class JobJournal:
    """The stored rounds of one job."""

    def __init__(self, folder: Path, number: int) -> None:
        """Take the job's number in the run."""
        self._folder = folder
        self._number = number

    def find(self, question: Question, nodes: tuple[int, ...]) -> KeptRound | None:
        """Return the stored result of a round, where it is finished.

        Args:
            question: Question of the round.
            nodes: The cohort.

        Returns:
            The round, or None.
        """
        found = _read(self._path(question), _of_question(question, nodes))
        if found is None:
            return None
        tensors, document = found
        return KeptRound(
            {Part(name): tensor for name, tensor in tensors.items()},
            {
                int(node): {Part(part): count for part, count in counts.items()}
                for node, counts in document["counts"].items()
            },
            Spent(**document["spent"]),
        )

    def keep(self, question: Question, nodes: tuple[int, ...], done: KeptRound) -> None:
        """Store a finished round."""
        document = {
            "counts": {str(node): dict(counts) for node, counts in done.counts.items()},
            "spent": asdict(done.spent),
        }
        _write(
            self._path(question),
            {str(part): total for part, total in done.sums.items()},
            _of_question(question, nodes),
            document,
        )

    def _path(self, question: Question) -> Path:
        return self._folder / f"job-{self._number:03d}-round-{question.round:05d}.safetensors"


class TrainingJournal:
    """The last finished round of one stretch of training."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Take the file, and the fingerprint that its content must have."""
        self._path = path
        self._fingerprint = fingerprint

    def find(self) -> KeptTraining | None:
        """Return the stored progress of training, where a round is finished."""
        found = _read(self._path, self._fingerprint)
        if found is None:
            return None
        tensors, document = found
        return KeptTraining(document["rounds"], tensors[WEIGHTS], Spent(**document["spent"]))

    def keep(self, done: KeptTraining) -> None:
        """Store a finished round in place of the one before."""
        document = {"rounds": done.rounds, "spent": asdict(done.spent)}
        _write(self._path, {WEIGHTS: done.weights}, self._fingerprint, document)


def _of_question(question: Question, nodes: tuple[int, ...]) -> str:
    """Return a digest of everything except the nodes' data that a round's sums depend on."""
    message = question_message(replace(question, job="")).SerializeToString(deterministic=True)
    return hashlib.sha256(message + repr(nodes).encode()).hexdigest()


def _of_training(start: Tensor, plan: TrainingPlan) -> str:
    without, reference = plan.without, plan.reference
    named = (
        digest(start),
        plan.settings.model_dump_json(),
        (plan.rounds, plan.first_round, plan.seed, plan.learning_rate, plan.epochs),
        plan.schedule,
        (str(plan.part), plan.rule),
        None if reference is None else digest(reference),
        None
        if without is None
        else encode_forget_set(without).SerializeToString(deterministic=True),
    )
    return hashlib.sha256(repr(named).encode()).hexdigest()


def _write(
    path: Path, tensors: dict[str, Tensor], fingerprint: str, document: Mapping[str, object]
) -> None:
    metadata = {"fingerprint": fingerprint, "document": json.dumps(document)}
    with replacing(path) as file:
        file.write(save({name: t.contiguous() for name, t in tensors.items()}, metadata))


def _read(path: Path, fingerprint: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        document = json.loads(metadata["document"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise JobError(f"{path} cannot be read; delete it, and its round is run again") from error
    if metadata.get("fingerprint") != fingerprint:
        raise JobError(
            f"{path} is of another job, model, cohort or scenario; resume with what began there, "
            "or use an empty folder"
        )
    return tensors, document
