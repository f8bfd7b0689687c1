"""Whether a model computes a function of weights and inputs alone, found by looking.

A layer that draws now and then passes a comparison of two results by luck. So what a forward pass
changes is looked at instead: the states of the random generators, buffers and weights.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedunlearn.errors import NotDeterministicError, TaskError
from fedunlearn.parameters import GENERATORS
from fedunlearn.risk.layers import name_of
from fedunlearn.risk.task import Loss

State = Any  # of a generator: what its own functions take and return
# How far generators are looked for: from a module to its attribute, to what that calls, and so on.
DEPTH = 4
PASSES = 3
INSTEAD = "remove what draws random numbers in forward(), or return the model in eval() mode"


@dataclass(frozen=True)
class _Source:
    """A random generator.

    Attributes:
        name: Name of the generator, for messages.
        read: Returns its state.
        write: Sets its state.
    """

    name: str
    read: Callable[[], State]
    write: Callable[[State], object]


def global_sources() -> list[_Source]:
    """Return the random generators of torch, NumPy and Python that code draws from by default."""
    sources = [
        _Source("torch's global generator", torch.get_rng_state, torch.set_rng_state),
        _Source("NumPy's global generator", np.random.get_state, np.random.set_state),
        _Source("Python's random", random.getstate, random.setstate),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            sources.append(
                _Source(
                    f"torch's generator of cuda:{number}",
                    partial(torch.cuda.get_rng_state, number),
                    partial(torch.cuda.set_rng_state, device=number),
                )
            )
    return sources


@contextmanager
def generators_restored() -> Iterator[None]:
    """Set the random generators back to what they were when the block ends.

    Yields:
        Nothing.
    """
    with GENERATORS:
        kept = [(source, source.read()) for source in global_sources()]
        try:
            yield
        finally:
            for source, state in kept:
                source.write(state)


def require_no_draws(
    model: nn.Module, loss: Loss, evaluate: Callable[[], tuple[object, Tensor]]
) -> None:
    """Refuse a model that draws random numbers, or changes what it computes with.

    Args:
        model: Model in the mode in which it will be differentiated; it is restored.
        loss: Searched for generators, as the model is.
        evaluate: Makes one forward pass and returns the outputs and the loss.

    Raises:
        NotDeterministicError: Naming the layer that draws, or the buffer that changes.
        TaskError: Naming the weights that change.
    """
    with GENERATORS:
        _require_no_draws(model, loss, evaluate)


def _require_no_draws(
    model: nn.Module, loss: Loss, evaluate: Callable[[], tuple[object, Tensor]]
) -> None:
    sources = [*global_sources(), *_own_sources(model, loss)]
    states = [source.read() for source in sources]
    tensors = dict(_tensors_of(model))
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    drawn = False
    try:
        first = evaluate()
        plain = dict(_plain_values(model))
        with _entropy() as entropy:  # not the first time, when modules may be imported
            second = evaluate()
        for source, state in zip(sources, states, strict=True):
            if not same_values(source.read(), state) and _moves(source, evaluate):
                drawn = True
                where = _who_draws(model, source, evaluate)
                remedy = _remedy(model, source, evaluate)
                raise NotDeterministicError(
                    f"{where} draws random numbers ({source.name}); {remedy}"
                )
        if entropy:
            raise NotDeterministicError(f"model: draws from the system's entropy; {INSTEAD}")
        _require_unchanged(model, kept, plain)
        if not same_values(first, second):
            raise NotDeterministicError(
                "model: the same weights and examples gave two different results; " + INSTEAD
            )
    finally:
        if drawn:
            for source, state in zip(sources, states, strict=True):
                source.write(state)
        with torch.no_grad():
            for name, tensor in tensors.items():
                if not same_values(tensor, kept[name]):
                    tensor.copy_(kept[name])


def _moves(source: _Source, evaluate: Callable[[], tuple[object, Tensor]]) -> bool:
    """Return whether a generator moves in every one of some passes: another thread's draws do not.

    Other threads of a process share its global generators.
    """
    for _ in range(PASSES):
        before = source.read()
        evaluate()
        if same_values(source.read(), before):
            return False
    return True


def _require_unchanged(
    model: nn.Module, kept: Mapping[str, Tensor], plain: Mapping[str, Tensor | float]
) -> None:
    """Compare all tensors of a model with what they were."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, now in _tensors_of(model):
        if name in kept and same_values(now.detach(), kept[name]):
            continue
        if name in weights:
            raise TaskError(
                f"model: weights {name!r} change in forward(), so that the loss is no function of "
                "them; compute with a changed copy instead, as torch.nn.utils.parametrize does"
            )
        raise NotDeterministicError(
            f"model: buffer {name!r} changes in forward(), so that the same weights give another "
            "result the next time; return the model in eval() mode, or leave out what changes it"
        )
    for name, value in _plain_values(model):
        if name in plain and not same_values(value, plain[name]):
            raise NotDeterministicError(
                f"model: attribute {name!r} changes in forward(), so that the same weights may "
                "give another result the next time; return the model in eval() mode, or leave out "
                "what changes it"
            )


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _plain_values(model: nn.Module) -> Iterator[tuple[str, Tensor | float]]:
    """Yield tensors and numbers that modules hold as plain attributes."""
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            whole = f"{prefix}.{name}" if prefix else name
            if isinstance(value, Tensor):
                yield whole, value.detach().clone()
            elif isinstance(value, int | float):
                yield whole, value


def _who_draws(
    model: nn.Module, source: _Source, evaluate: Callable[[], tuple[object, Tensor]]
) -> str:
    """Name the innermost layer during whose forward pass a generator moved."""
    found: list[str] = []
    entered: dict[str, State] = {}

    def enter(name: str, *_: object) -> None:
        entered[name] = source.read()

    def leave(name: str, *_: object) -> None:
        if not found and not same_values(entered[name], source.read()):
            found.append(name)

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(enter, name)))
        handles.append(module.register_forward_hook(partial(leave, name)))
    try:
        evaluate()
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return name_of(model, found[0])
    return "loss:"  # it draws after the model is done


def _remedy(
    model: nn.Module, source: _Source, evaluate: Callable[[], tuple[object, Tensor]]
) -> str:
    """Return what to do instead: eval() mode is proposed where it helps."""
    modes = {module: module.training for module in model.modules()}
    if not any(modes.values()):
        return "replace it by what draws nothing"
    model.eval()
    try:
        before = source.read()
        evaluate()
        helps = same_values(before, source.read())
    except Exception:
        helps = True  # the message of the first failure is not hidden by a second
    finally:
        for module, training in modes.items():
            module.training = training
    return INSTEAD if helps else "replace it by what draws nothing, in eval() mode too"


@contextmanager
def _entropy() -> Iterator[list[str]]:
    """Watch whether this thread asks the operating system for randomness.

    Yields:
        The names of the functions it called, as they come.
    """
    called: list[str] = []
    thread = threading.get_ident()
    drawn, seeded = os.urandom, random.Random.seed  # new generators seed themselves with the latter

    def urandom(size: int, /) -> bytes:
        if threading.get_ident() == thread:
            called.append("urandom")
        return drawn(size)

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        if a is None and threading.get_ident() == thread:
            called.append("seed")
        seeded(self, a, version)

    places: tuple[tuple[object, str, object], ...] = (
        (os, "urandom", urandom),
        (random, "_urandom", urandom),
        (random.Random, "seed", seed),
    )
    before = [getattr(place, name) for place, name, _ in places]
    try:
        for place, name, watched in places:
            setattr(place, name, watched)
        yield called
    finally:
        for (place, name, _), original in zip(places, before, strict=True):
            setattr(place, name, original)


def _own_sources(model: nn.Module, loss: Loss) -> list[_Source]:
    """Return the generators that modules and the loss hold, or that their code names."""
    found: dict[int, _Source] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, object, int]] = [("loss", loss, 0)]
    waiting += [(name, module, 0) for name, module in model.named_modules()]
    while waiting:
        name, value, depth = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        source = _as_source(name, value)
        if source is not None:
            found[id(value)] = source
        elif depth <= DEPTH:
            waiting += [(inner, one, depth + 1) for inner, one in _within(value)]
    return list(found.values())


def _within(value: object) -> Iterator[tuple[str, object]]:
    """Yield what an object holds, and the globals and closures that its code names."""
    if isinstance(value, list | tuple | dict):
        items = value.values() if isinstance(value, dict) else value
        yield from (("", one) for one in items)
    elif isinstance(value, partial):
        yield from (("", one) for one in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, MethodType):
        yield from (("", value.__self__), ("", value.__func__))
    elif isinstance(value, FunctionType):
        if not _from_library(value.__module__):
            yield from _named_by(value)
    elif isinstance(value, nn.Module) or (hasattr(value, "__dict__") and callable(value)):
        if isinstance(value, type):
            return
        yield from vars(value).items()
        if not _from_library(type(value).__module__):
            for kind in type(value).__mro__:
                if kind is not nn.Module:
                    yield from vars(kind).items()


def _from_library(module: str | None) -> bool:
    return module is None or module.partition(".")[0] in ("torch", "numpy", "builtins")


def _named_by(function: FunctionType) -> Iterator[tuple[str, object]]:
    names = function.__code__.co_names
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):  # of which it uses what it names too
            if not _from_library(value.__name__):
                yield from ((one, vars(value)[one]) for one in names if one in vars(value))
        else:
            yield name, value
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled
            continue


def _as_source(name: str, value: object) -> _Source | None:
    name = name or "of its own"
    if isinstance(value, torch.Generator):
        return _Source(f"the generator {name!r}", value.get_state, value.set_state)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator

        def write(state: State) -> None:
            bits.state = state

        return _Source(f"the generator {name!r}", lambda: bits.state, write)
    if isinstance(value, np.random.RandomState):
        return _Source(f"the generator {name!r}", value.get_state, value.set_state)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return _Source(f"the generator {name!r}", value.getstate, value.setstate)
    return None


def same_values(one: Any, other: Any) -> bool:
    """Return whether two values are equal bit by bit, through nested containers."""
    if one is other:
        return True
    if type(one) is tuple and all(type(item) is int for item in one):
        return bool(one == other)  # Python's generator: 625 of them
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _same_tensors(one.detach(), other.detach())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_values(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(same_values(left, right) for left, right in pairs)
    if type(one) is type(other) and isinstance(one, int | float | str | bytes | None):
        return bool(one == other) or one != one
    return True  # outputs of another kind: their loss is compared


def _same_tensors(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.layout != torch.strided or one.is_quantized:
        return bool(torch.equal(one, other))
    if not one.is_floating_point() and not one.is_complex():
        return bool(torch.equal(one, other))
    return bool(torch.equal(one, other)) or bool(
        torch.equal(one.isnan(), other.isnan())
        and torch.equal(one.nan_to_num(), other.nan_to_num())
    )
