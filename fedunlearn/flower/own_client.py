"""Removals in a user's own ClientApp: one call, and ``kept`` in its training.

Example::

    app = ClientApp()
    forgetting = unlearnable(app, model=Net, loss=cross_entropy, data=load_data)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        loader = DataLoader(forgetting.kept(context, dataset), batch_size=32, shuffle=True)
        ...
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from flwr.app import Context, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from torch import nn

from fedunlearn.errors import InputError
from fedunlearn.flower.node_memory import NodeMemory, folder_of, name_of
from fedunlearn.flower.node_settings import NodeSettings
from fedunlearn.flower.own_enrolment import number_in, reply_to_own_enrol
from fedunlearn.flower.removed_examples import confirm, reply_to_remove, rule_in
from fedunlearn.flower.replies import reply_to_question, reply_with_failure
from fedunlearn.flower.sessions import reply_to_session
from fedunlearn.flower.subsets import size_of, without_examples
from fedunlearn.node.node import MEMORY, TaskNode
from fedunlearn.node.own_call import OwnForward
from fedunlearn.node.own_model import OwnLoss
from fedunlearn.node.own_task import OwnTask

D = TypeVar("D")
Handler = Callable[[Message, Context], Message]

# Nodes of one process, so that data are not loaded again for every message.
NODES_IN_MEMORY = 256
QUERIES = ("enrol", "ask", "remove", "exclude", "session")


def unlearnable(
    app: ClientApp | None,
    *,
    model: Callable[..., nn.Module],
    loss: OwnLoss | None,
    data: Callable[[Context], object],
    label: str | None = None,
    forward: OwnForward | None = None,
    records: Callable[[Context], Path | str] | None = None,
) -> Forgetting:
    """Add the answers that removals need to the nodes of a user's app.

    The app's own functions are not changed. The added functions answer messages of the types
    ``query.enrol``, ``query.ask``, ``query.remove``, ``query.exclude`` and ``query.session``.

    Args:
        app: A ClientApp of the Message API. A legacy app takes a mod instead: ``forgetting =
            unlearnable(None, ...)``, then ``ClientApp(client_fn, mods=[forgetting.mod])``.
        model: Builds the model, as ``Net`` or ``lambda: Net(classes=10)`` do, or ``lambda context:
            get_model(context.run_config["model-name"])`` where the run config selects the model.
            Derivatives are taken in eval mode, at the weights and buffers that the server sends.
        loss: Maps outputs and targets, or outputs and the batch where its second parameter is named
            ``batch``, to the mean loss over the examples. None for the loss that the model itself
            returns (HuggingFace).
        data: Returns a node's data: a ``DataLoader``, a map-style dataset, a HuggingFace dataset or
            a pair of tensors; or a pair of these, for training and held out. An example's place in
            them identifies its record, so every call must return the same data, including the
            examples that ``kept`` drops.
        label: The key of the targets in batches that are dictionaries, where it is not one of the
            usual keys.
        forward: Maps model and batch to outputs, where the model's signature does not determine
            this.
        records: Returns a node's folder for its commitments and tombstones, which then outlast the
            run. If it is left out, ``records`` of the node config applies.

    Returns:
        The handle whose ``kept`` the training code calls.

    Raises:
        InputError: An argument cannot be used.
    """
    for name, value in (("model", model), ("data", data)):
        if not callable(value):
            raise InputError(
                f"unlearnable: {name} is {type(value).__name__}; give a function, as "
                + ("Net or lambda: Net(...)" if name == "model" else "lambda context: load(...)")
            )
    if isinstance(model, nn.Module):
        raise InputError("unlearnable: model is a module; give what builds one, as Net")
    forgetting = Forgetting(model, loss, data, label, forward, records)
    if app is not None:
        forgetting.add_to(app)
    return forgetting


class Forgetting:
    """The handle of an app's nodes for removals."""

    def __init__(
        self,
        model: Callable[..., nn.Module],
        loss: OwnLoss | None,
        data: Callable[[Context], object],
        label: str | None,
        forward: OwnForward | None,
        records: Callable[[Context], Path | str] | None,
    ) -> None:
        """Take the arguments of ``unlearnable``."""
        self.model = model
        self._loss = loss
        self._data = data
        self._label = label
        self._forward = forward
        self._records = records
        self._nodes: OrderedDict[int, TaskNode] = OrderedDict()

    def kept(self, context: Context, dataset: D) -> D:
        """Return the data that may be used in training or evaluation, without removed examples.

        Args:
            context: Context of the message that is being answered.
            dataset: The same data as ``data`` of ``unlearnable`` returns for training: a map-style
                dataset, a HuggingFace dataset, a ``DataLoader``, tensors.

        Returns:
            The same object where nothing was removed; otherwise data of the same kind without it.

        Raises:
            NodeLeftError: The node has left the federation.
            TaskError: The data are not those of ``unlearnable``.
        """
        memory = self._memory(context)
        examples = size_of(dataset)
        memory.note_kept(examples)
        stays = memory.stays(examples)
        if bool(stays.all()):
            return dataset
        remaining: D = without_examples(dataset, stays)
        return remaining

    def mod(self, message: Message, context: Context, call_next: Handler) -> Message:
        """Answer the messages of removals in a legacy app; see Flower's mods.

        Args:
            message: Any message.
            context: Context of the message.
            call_next: The app.

        Returns:
            The reply.
        """
        category, _, action = message.metadata.message_type.partition(".")
        if category == "query" and action in QUERIES:
            return self.answer(action, message, context)
        return call_next(message, context)

    def add_to(self, app: ClientApp) -> None:
        """Register the answers with an app of the Message API.

        Raises:
            InputError: The app is not of this kind, or already has answers of these names.
        """
        if not isinstance(app, ClientApp):
            raise InputError(f"unlearnable: app is {type(app).__name__}; give the ClientApp")

        def register(action: str) -> None:
            @app.query(action)
            def answer(message: Message, context: Context) -> Message:
                return self.answer(action, message, context)

        try:
            for action in QUERIES:
                register(action)
        except ValueError as error:
            if "client_fn" in str(error):
                raise InputError(
                    "unlearnable: app has a client_fn, which takes mods: forgetting = "
                    "unlearnable(None, ...), then ClientApp(client_fn, mods=[forgetting.mod])"
                ) from error
            raise InputError(
                f"unlearnable: app has an answer to one of query.{', query.'.join(QUERIES)} "
                "already; call unlearnable once for an app"
            ) from error

    def answer(self, action: str, message: Message, context: Context) -> Message:
        """Answer a message. No exception leaves the node, since Flower would send its text.

        Args:
            action: The second part of the message's type.
            message: A message of the type ``query.<action>``.
            context: Context of the message.

        Returns:
            The reply, which may report a failure.
        """
        number = -1
        try:
            settings = NodeSettings.of(context.node_config, numbered=False)
            number = number_in(message, action)
            if settings.threads is not None:
                torch.set_num_threads(settings.threads)
            memory = self._memory(context)
            node = self._node(context, number, settings, memory)
            return _answer(action, message, node, memory, context, settings)
        except Exception as error:
            return reply_with_failure(message, number, error, name_of(context))

    def model_in(self, context: Context) -> Callable[[], nn.Module]:
        """Return the function that builds the model in a run.

        Args:
            context: Context whose run config a model function may read.
        """
        if _takes_context(self.model):
            return partial(self.model, context)
        return self.model

    def model_with(self, config: UserConfig) -> Callable[[], nn.Module]:
        """Return the function that builds the model on the server, where there is no message.

        Args:
            config: The run config.
        """
        return self.model_in(Context(0, 0, {}, RecordDict(), config))

    def _memory(self, context: Context) -> NodeMemory:
        if self._records is not None:
            return NodeMemory(context, Path(self._records(context)))
        return NodeMemory(context, folder_of(context, name_of(context)))

    def _node(
        self, context: Context, number: int, settings: NodeSettings, memory: NodeMemory
    ) -> TaskNode:
        """Return the node of a context, made at its first message in this process."""
        key = hash((context.run_id, context.node_id))
        if key not in self._nodes:
            task = OwnTask(
                self.model_in(context),
                self._loss,
                lambda: self._data(context),
                label=self._label,
                forward=self._forward,
            )
            held = settings.memory or MEMORY
            self._nodes[key] = TaskNode(task, number, memory=held, records=memory.records)
            while len(self._nodes) > NODES_IN_MEMORY:
                self._nodes.popitem(last=False)
        self._nodes.move_to_end(key)
        node = self._nodes[key]
        node.number = number
        node.use_records(memory.records)
        return node


def _takes_context(model: Callable[..., nn.Module]) -> bool:
    """Return whether a function that builds a model needs one argument."""
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return len(needed) == 1


def _answer(
    action: str,
    message: Message,
    node: TaskNode,
    memory: NodeMemory,
    context: Context,
    settings: NodeSettings,
) -> Message:
    if action == "enrol":
        return reply_to_own_enrol(message, node, memory, context)
    if action == "remove":
        memory.note_examples(len(node.examples))
        reply = reply_to_remove(message, node)
        memory.exclude(None, len(node.examples))
        return reply
    if action == "exclude":
        _, forget = rule_in(message)
        places = node.places_of(forget)
        memory.exclude(places, len(node.examples))
        return confirm(message, len(places))
    if action == "session":
        return reply_to_session(message, node, settings.payload)
    return reply_to_question(message, node)
