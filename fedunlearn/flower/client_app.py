"""The ClientApp, which trains and answers the rounds of a removal."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import cloudpickle
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedunlearn.errors import TaskError
from fedunlearn.flower.node_settings import NodeSettings
from fedunlearn.flower.removed_examples import reply_to_remove
from fedunlearn.flower.replies import reply_to_enrol, reply_to_question, reply_with_failure
from fedunlearn.flower.sessions import reply_to_session
from fedunlearn.flower.training import reply_to_train
from fedunlearn.node.node import TaskNode
from fedunlearn.node.records import NodeRecords
from fedunlearn.risk.examples import Form
from fedunlearn.risk.task import Task

Reply = Callable[[Message, TaskNode], Message]

# Nodes of this process. A simulation's worker would otherwise load the data for every message.
_NODES: OrderedDict[tuple[bytes, Path | None, int], TaskNode] = OrderedDict()
_MOST_NODES = 256
# For each Task, the forms that its nodes tried when they enrolled.
_TRIED: dict[bytes, set[Form]] = {}
PROCESS_MEMORY = 2**30


class TaskCarrier:
    """A container that carries a Task to other processes, where it is unpacked once and stored."""

    def __init__(self, task: Task, records: Path | None = None) -> None:
        """Pack the task.

        Args:
            task: The task on which every node computes.
            records: Folder that contains one folder per node for its records; None to store no
                records.

        Raises:
            TaskError: The task cannot be pickled.
        """
        try:
            self._packed: bytes = cloudpickle.dumps(task)
        except Exception as error:
            raise TaskError(
                f"task: cannot be sent to nodes ({type(error).__name__}); keep open files, locks "
                "and connections out of its attributes"
            ) from error
        self._records = records

    def node(self, settings: NodeSettings) -> TaskNode:
        """Return the node with these settings; each process makes it once.

        Args:
            settings: Number, memory and folder for records of the node. Nodes without a memory
                setting share the memory of the process.

        Returns:
            The node; later calls return the same object.
        """
        folder = settings.records
        if folder is None and self._records is not None:
            folder = self._records / f"node-{settings.number}"
        number, memory = settings.number, settings.memory or PROCESS_MEMORY // settings.together
        key = (self._packed, folder, number)
        if key not in _NODES:
            task = cloudpickle.loads(self._packed)
            records = NodeRecords(folder) if folder else None
            tried = _TRIED.setdefault(self._packed, set())
            _NODES[key] = TaskNode(task, number, memory=memory, records=records, tried=tried)
            while len(_NODES) > _MOST_NODES:
                _NODES.popitem(last=False)
        _NODES.move_to_end(key)
        return _NODES[key]


class NodesOfProcess(Mapping[int, TaskNode]):
    """Nodes 0 to n - 1 of a task in this process, each made when it is first looked up."""

    def __init__(self, carrier: TaskCarrier, number: int) -> None:
        """Take the task.

        Args:
            carrier: The container of the task. A node computes on its own copy, as in another
                process.
            number: Number of nodes.
        """
        self._carrier = carrier
        self._number = number

    def __getitem__(self, node: int) -> TaskNode:
        """Return a node; see ``TaskCarrier.node``."""
        if node not in range(self._number):
            raise KeyError(node)
        config = {"partition-id": node, "num-partitions": self._number}
        return self._carrier.node(NodeSettings.of(config))

    def __iter__(self) -> Iterator[int]:
        """Yield the nodes' numbers, ascending."""
        return iter(range(self._number))

    def __len__(self) -> int:
        """Return the number of nodes."""
        return self._number


def make_client_app(task: Task, records: Path | None = None) -> ClientApp:
    """Build the ClientApp of a task.

    The node's number is ``partition-id`` of its node config, as Flower's simulation sets it.

    Args:
        task: The task on which every node computes.
        records: Folder that contains one folder per node for commitments and tombstones, unless the
            node config names another (``records``). Without either, removals are not permanent.

    Returns:
        An app that answers ``train``, ``query.enrol``, ``query.ask``, ``query.remove`` and
        ``query.session``.
    """
    carrier = TaskCarrier(task, records)
    return app_of(lambda context, settings: carrier.node(settings))


def app_of(node_of: Callable[[Context, NodeSettings], TaskNode]) -> ClientApp:
    """Build a ClientApp whose node is looked up for each message.

    Args:
        node_of: Returns the node with these settings, and makes it where necessary.

    Returns:
        The app.
    """

    def answer(reply: Reply, message: Message, context: Context) -> Message:
        number = -1
        try:
            settings = NodeSettings.of(context.node_config)
            number = settings.number
            if settings.threads is not None:
                torch.set_num_threads(settings.threads)
            return reply(message, node_of(context, settings))
        except Exception as error:
            return reply_with_failure(message, number, error)

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(reply_to_train, message, context)

    @app.query("enrol")
    def enrol(message: Message, context: Context) -> Message:
        return answer(reply_to_enrol, message, context)

    @app.query("ask")
    def ask(message: Message, context: Context) -> Message:
        return answer(reply_to_question, message, context)

    @app.query("remove")
    def record_tombstones(message: Message, context: Context) -> Message:
        return answer(reply_to_remove, message, context)

    @app.query("session")
    def session(message: Message, context: Context) -> Message:
        def reply(message: Message, node: TaskNode) -> Message:
            payload = NodeSettings.of(context.node_config).payload
            return reply_to_session(message, node, payload)

        return answer(reply, message, context)

    return app
