"""A grid whose nodes live in this process: the same apps, no engine, no worker processes.

Uses what Flower sets by itself elsewhere (``TaskIdentity``, message ids); no other module does.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from typing_extensions import override

RUN_ID = 1
CLIENT_APP_RAISED = 2


class InlineGrid(Grid):
    """Calls the ClientApp for a message when its reply is pulled."""

    def __init__(self, client_app: ClientApp, nodes: int) -> None:
        """Set up nodes 0 to ``nodes`` - 1.

        Args:
            client_app: What every node runs.
            nodes: How many.
        """
        TaskIdentity.task_id = RUN_ID
        TaskIdentity.run_id = RUN_ID
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self._app = client_app
        self._run = Run.create_empty(run_id=RUN_ID)
        self._contexts = {
            number + 1: Context(
                run_id=RUN_ID,
                node_id=number + 1,
                node_config={"partition-id": number, "num-partitions": nodes},
                state=RecordDict(),
                run_config={},
            )
            for number in range(nodes)
        }
        self._pending: dict[str, Message] = {}

    @override
    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    @override
    def run(self) -> Run:
        return self._run

    @override
    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    @override
    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    @override
    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = uuid.uuid4().hex
            message.metadata.__dict__["_message_id"] = message_id
            self._pending[message_id] = message
            ids.append(message_id)
        return ids

    @override
    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message_id in list(message_ids):
            if message_id in self._pending:
                yield self._reply(self._pending.pop(message_id))

    @override
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return list(self.pull_messages(self.push_messages(messages)))

    def _reply(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            # As the simulation engine does: the reason carries the exception's text.
            return Message(Error(CLIENT_APP_RAISED, repr(error)), reply_to=message)
