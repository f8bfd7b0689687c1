"""What a node makes sure of when it enrols, so that what cannot work is said before training."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import torch
from torch import Tensor, nn

from fedunlearn.errors import (
    FedunlearnError,
    NoCurvatureError,
    NotDeterministicError,
    OwnCodeError,
    TaskError,
)
from fedunlearn.model_state import ModelState
from fedunlearn.networks import build_model, require_one_network
from fedunlearn.parameters import flatten, load, seeded
from fedunlearn.risk.examples import Batch, Examples, Form, TensorExamples, batch_for, few
from fedunlearn.risk.network import twice_differentiable
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.randomness import generators_restored, same_values
from fedunlearn.risk.task import Task

# Reads where data() draws from a random generator, even if the first two agree.
READS = 5
SEEDS = 3


def read_examples(task: Task, node: int) -> Examples:
    """Read a node's examples.

    Args:
        task: The Task.
        node: The node's number.

    Returns:
        What is read batch by batch; two tensors are taken as such.

    Raises:
        TaskError: The data have another form, or inputs and targets differ in number.
        FedunlearnError: The Task's code raised it.
        OwnCodeError: The Task's code fails.
    """
    try:
        found = task.data(node)
    except FedunlearnError:
        raise
    except Exception as error:
        raise OwnCodeError(
            f"{type(error).__name__} in the task's own code: data(); see the node's log"
        ) from error
    if isinstance(found, Examples):
        return found
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TaskError(
            f"data: data() returns {_described(found)}; return inputs and targets, two tensors"
        )
    for name, values in zip(("inputs", "targets"), found, strict=True):
        _require_tensor(name, values)
    return TensorExamples(*found)


def _described(found: object) -> str:
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}"
    return type(found).__name__


def _require_tensor(name: str, values: object) -> None:
    if not isinstance(values, Tensor):
        kind = f"{type(values).__module__}.{type(values).__qualname__}".removeprefix("builtins.")
        how = "torch.from_numpy(...)" if kind.startswith("numpy.") else "torch.tensor(...)"
        raise TaskError(f"data: {name} are {kind}, not a torch.Tensor; return {how}")
    if values.ndim == 0:
        raise TaskError(f"data: {name} are one number; return one row an example, (n, ...)")
    if values.layout != torch.strided or values.is_nested or values.is_quantized:
        raise TaskError(f"data: {name} are sparse, nested or quantised; return to_dense() of them")
    if values.requires_grad:
        raise TaskError(f"data: {name} require a gradient; return detach() of them")


def require_same_reads(task: Task, node: int, examples: Examples) -> None:
    """Refuse data that are not the same whenever they are read, as with random augmentation.

    They are read again under other seeds: code that draws from the global generators gives others.

    Args:
        task: The Task.
        node: The node's number.
        examples: The examples that were read before.

    Raises:
        NotDeterministicError: The examples differ from those that were read before.
    """
    with generators_restored():
        reads, seed = 2, 1
        while seed < reads:
            with seeded(seed):
                before = torch.get_rng_state()
                again = read_examples(task, node)
                if not same_values(before, torch.get_rng_state()):
                    reads = READS  # perhaps it draws what matters but now and then
            if not _same(examples, again):
                raise NotDeterministicError(
                    "data: data() gives other examples when it is read again; leave random "
                    "augmentation out of it, and draw splits and noise under a seed of their own"
                )
            seed += 1


def _same(one: Examples, other: Examples) -> bool:
    """Return whether two reads agree: tensors all over, else a few examples."""
    if isinstance(one, TensorExamples) and isinstance(other, TensorExamples):
        return same_values((one.inputs, one.targets), (other.inputs, other.targets))
    if len(one) != len(other):
        return False
    some, others = few(one), few(other)
    return list(some.record_bytes()) == list(others.record_bytes())


def require_usable(
    task: Task,
    model: nn.Module,
    examples: Examples,
    tried: set[Form],
    sent: Collection[str] = (),
) -> None:
    """Try one gradient and one product on a few examples.

    Args:
        task: The Task.
        model: Model as it was built; its weights are restored.
        examples: More than none.
        tried: Forms of examples with which nodes of this process have tried the same Task: of
            these, only what depends on the examples is looked at. The form is added.
        sent: Names in ``state_dict`` of tensors beside the trainable weights that the server
            sends, so that they may be drawn anew at each build.

    Raises:
        TaskError: Something cannot be computed, or would be wrong; with cause, layer and remedy.
        NotDeterministicError: Something draws random numbers or mixes the examples of a batch;
            the message names it.
    """
    with generators_restored():
        try:
            risk = EmpiricalRisk(model, task.loss, examples)
        except NotDeterministicError:
            raise
        except TaskError:  # of which hidden draws may be the cause
            with suppress(RuntimeError, ValueError, TypeError, IndexError):
                _require_no_seed(task, model, batch_for(model, few(examples)))
            raise
        form = examples.form()
        if form in tried:
            return
        risk.require_differentiable()
        require_one_network(task.model, model, sent=sent)
        some = few(examples)
        batch = batch_for(model, some)
        _require_no_seed(task, model, batch)
        _require_one_function(task, model, batch, sent)
        weights = flatten(model)
        row = torch.ones_like(weights)[None] / len(weights) ** 0.5
        # Where there is no GGN, methods that ask for it say so.
        with suppress(NoCurvatureError):
            EmpiricalRisk(model, task.loss, some).products(weights, row, Curvature.GGN)
        tried.add(form)


def _require_one_function(
    task: Task, model: nn.Module, batch: Batch, sent: Collection[str]
) -> None:
    """Refuse a model with hidden state that another model with the same weights does not have."""
    own = flatten(model)
    state = model.state_dict()
    carried = ModelState({name: state[name] for name in sent if name in state})
    generator = torch.Generator().manual_seed(0)
    moved = own + 0.1 * torch.randn(len(own), generator=generator).to(own) * (own.abs() + 0.1)

    def apart(weights: Tensor) -> bool:
        other = build_model(task.model, seed=1)
        load(model, weights)
        load(other, weights)
        carried.load(other)
        with torch.no_grad(), twice_differentiable(model):
            pair = [one(batch[0]) for one in (model, other)]
        return not same_values(*pair)

    try:
        # The model has computed at its own weights, the other nowhere yet.
        if not apart(moved):
            return
        if apart(own):
            raise TaskError(
                "model: the same weights give other outputs when the model is built again, so that "
                "every node would compute on another network; draw what it keeps as an attribute "
                "under a seed of its own in model()"
            )
        raise TaskError(
            "model: keeps what it computed from earlier weights, so that new ones are not used; "
            "compute it anew in forward()"
        )
    finally:
        load(model, own)


def _require_no_seed(task: Task, model: nn.Module, batch: Batch) -> None:
    """Refuse what depends on the random generators though it puts them back, as fork_rng does."""
    results = []
    for seed in range(SEEDS):
        with seeded(seed), torch.no_grad(), twice_differentiable(model):
            outputs = model(batch[0])
            results.append((outputs, task.loss(outputs, batch[1])))
    if not all(same_values(results[0], one) for one in results[1:]):
        raise NotDeterministicError(
            "model: the same weights and examples give other results under another seed; leave "
            "what draws random numbers out of forward() and loss, or return the model in eval() "
            "mode"
        )
