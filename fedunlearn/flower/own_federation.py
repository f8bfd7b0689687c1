"""The federation of a user's own app, opened for removals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from fedunlearn.errors import ForgetSetError, UnknownNameError
from fedunlearn.federation.accounting import MeterStack
from fedunlearn.federation.federation import Federation
from fedunlearn.flower.messages import MessageTransport
from fedunlearn.flower.metered_grid import MeteredGrid
from fedunlearn.flower.model_arrays import ModelArrays
from fedunlearn.flower.own_enrolment import OwnNode, enrol_own, numbered
from fedunlearn.flower.removed_examples import exclude, record_tombstones
from fedunlearn.flower.sessions import SessionOrMessages, SessionSettings
from fedunlearn.flower.strategy_trainer import StrategyTrainer
from fedunlearn.model_state import ModelState
from fedunlearn.names import Name, Names, listed
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.state_transfer import state_to_transfer

BATCH = 32


@dataclass
class OwnFederation:
    """The nodes of a user's app.

    Attributes:
        federation: The federation in the form that methods use.
        names: Names of the nodes, by number.
        enrolled: The nodes by number, as they enrolled.
        trainer: The trainer that runs the user's own training.
        grid: The grid that carries messages.
        deadline_s: Seconds for a round.
        participants: Flower's node ids of the nodes that took part in training; None where unknown.
    """

    federation: Federation
    names: Names
    enrolled: Mapping[int, OwnNode]
    trainer: StrategyTrainer
    grid: MeteredGrid
    deadline_s: float
    participants: frozenset[int] | None = None

    @property
    def addresses(self) -> dict[int, int]:
        """Flower's node id of each node, by the node's number."""
        return {number: node.address for number, node in self.enrolled.items()}

    @property
    def kept(self) -> dict[str, bool]:
        """Whether the training of each node that stays uses ``kept``, by the node's name."""
        return {self.names[n]: self.enrolled[n].kept for n in self.federation.nodes}

    @property
    def batch_size(self) -> int | None:
        """The most common batch size of the nodes' loaders; None where no node reports one."""
        return _batch_size(self.enrolled.values())

    def number(self, name: Name, key: str) -> int:
        """Return the number of an enrolled node.

        Raises:
            UnknownNameError: No such node is enrolled.
        """
        found = self.names.number(name, key)
        if found not in self.federation.examples:
            raise UnknownNameError(
                f"{key}: node {self.names[found]} has left, or is not connected; enrolled are "
                f"{listed('node', (self.names[n] for n in self.federation.nodes))}"
            )
        return found

    def records(self, places: Mapping[int, Iterable[int]]) -> ForgetSet:
        """Return the forget set that names these records.

        Args:
            places: Places of examples in a node's data, by the number of the node.

        Returns:
            The forget set.

        Raises:
            ForgetSetError: A place does not exist in a node's data.
        """
        chosen = {node: list(some) for node, some in places.items()}
        for node, some in chosen.items():
            size = self.enrolled[node].enrolment.records or self.federation.examples[node]
            wrong = [one for one in some if type(one) is not int or not 0 <= one < size]
            if not some or wrong:
                what = f"{wrong[0]!r}" if wrong else "nothing"
                raise ForgetSetError(
                    f"forget: records of node {self.names[node]}: {what} is named; its places are "
                    f"whole numbers from 0 to {size - 1}"
                )
        return ForgetSet.of_records(chosen)

    def remarks(self) -> list[str]:
        """Return the remarks about the nodes for the user."""
        staying = [(self.names[n], self.enrolled[n]) for n in self.federation.nodes]
        found = []
        trained = self.participants
        here = {node.address for node in self.enrolled.values()}
        if away := sorted((trained or frozenset()) - here):
            found.append(
                f"{len(away)} of the nodes that trained are not connected (Flower's ids "
                f"{', '.join(map(str, away))}): the removal was computed without them"
            )
        without = [
            name
            for name, node in staying
            if not node.kept and (trained is None or node.address in trained)
        ]
        if without:
            found.append(
                f"{listed('node', without)}: train() has not called forgetting.kept(context, "
                "dataset), so that it may train on what was removed; let it train on what kept "
                "returns"
            )
        if not all(node.durable for _, node in staying):
            found.append(
                "the nodes remember what was removed until this run ends; name a folder as "
                "records in their node config to have it remembered permanently"
            )
        if any(node.augmented for _, node in staying):
            found.append("data are augmented at random: derivatives are of one fixed draw")
        return found

    def record_tombstones(self, deletion: str, forget: ForgetSet) -> dict[int, int]:
        """Send tombstones of a forget set to every node that may hold some of it: one round."""
        self.federation.close()
        nodes = [n for n in self.federation.nodes if not forget.named or n in forget.named]
        return record_tombstones(
            self.grid, self.addresses, deletion, forget, nodes, deadline_s=self.deadline_s
        )

    def exclude(self, forget: ForgetSet) -> None:
        """Exclude a forget set from the training of the nodes until it is removed: one round."""
        self.federation.close()
        here = self.federation.nodes
        exclude(self.grid, self.addresses, forget, here, deadline_s=self.deadline_s)

    def exclude_nothing(self) -> None:
        """Undo the exclusion of examples that were not removed."""
        self.exclude(ForgetSet.of_nodes())

    def advance(
        self, left: Collection[int], carried: ModelState, state: Mapping[str, Tensor]
    ) -> None:
        """Set the state of the new model, and drop the nodes that have left.

        Args:
            left: The nodes that have left.
            carried: The part of the state that is sent to nodes with questions.
            state: The complete state, for training.
        """
        self.federation = replace(self.federation.without(left), state=carried)
        self.trainer.state = dict(state)


def open_own_federation(
    grid: Grid,
    form: ModelArrays,
    trained: ArrayRecord,
    *,
    initial: ArrayRecord | None,
    strategy: Callable[[], Strategy] | None,
    train_config: ConfigRecord | None,
    least: int,
    deadline_s: float,
    sessions: SessionSettings | None = None,
    known: Names | None = None,
    refused: Collection[str] = (),
    with_classes: bool = False,
) -> OwnFederation:
    """Enrol the nodes of a user's app: one round.

    Args:
        grid: The grid of Flower.
        form: The form in which an ArrayRecord holds the model.
        trained: The model at the end of training.
        initial: The model at the start of training; None where it is not known.
        strategy: Makes the user's strategy; None where it is not known.
        train_config: Values that training sends besides the arrays.
        least: Number of nodes that must be connected.
        deadline_s: Seconds for every round.
        sessions: Settings of sessions over gRPC streams; None for Flower's messages.
        known: Names of all nodes that have ever enrolled; None where there is no record of them.
        refused: Names of nodes that have left.
        with_classes: Whether nodes count the classes of their labels.

    Returns:
        The federation.
    """
    meters = MeterStack()
    metered = MeteredGrid(grid, meters)
    nodes = enrol_own(
        metered,
        sent=list(form.state(trained)),
        least=least,
        deadline_s=deadline_s,
        refused=refused,
        with_classes=with_classes,
    )
    names = known or Names("node", tuple(node.name for node in nodes))
    enrolled = numbered(nodes, known)
    addresses = {number: node.address for number, node in enrolled.items()}
    tensors = form.tensors(trained)
    networks = {number: node.enrolment.network for number, node in enrolled.items()}
    travelling = state_to_transfer(form.model, tensors, networks)
    session = SessionOrMessages(metered, addresses, sessions) if sessions else None

    def leave_out(forget: ForgetSet) -> None:
        own.exclude(forget)

    trainer = StrategyTrainer(
        metered,
        addresses,
        form,
        form.state(trained),
        None if initial is None else (form.weights(initial), form.state(initial)),
        strategy,
        leave_out,
        train_config=train_config,
        deadline_s=deadline_s,
    )
    federation = Federation(
        examples={number: node.enrolment.examples for number, node in enrolled.items()},
        transport=session or MessageTransport(metered, addresses),
        trainer=trainer,
        meters=meters,
        progress=Silent(),
        layout=form.layout,
        state=travelling.state,
        batch_size=_batch_size(nodes) or BATCH,
        deadline_s=deadline_s,
        enrolments={n: replace(node.enrolment, node=n) for n, node in enrolled.items()},
        send_tombstones=partial(record_tombstones, metered, addresses, deadline_s=deadline_s),
        close=session.close if session else _nothing,
    )
    own = OwnFederation(federation, names, enrolled, trainer, metered, deadline_s)
    return own


def _batch_size(nodes: Iterable[OwnNode]) -> int | None:
    """Return the most common batch size of the nodes; None where no node reports one."""
    sizes = [node.batch_size for node in nodes if node.batch_size]
    return max(set(sizes), key=lambda size: (sizes.count(size), -size)) if sizes else None


def _nothing() -> None:
    """Do nothing, where there is nothing to close."""
