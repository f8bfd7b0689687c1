"""A scenario's forget section, made concrete on its data."""

from __future__ import annotations

import torch

from fedunlearn.data.sources import Split
from fedunlearn.errors import ForgetSetError
from fedunlearn.evaluation.metrics import Parts
from fedunlearn.federation.forget import ForgetSet, Kind, Part
from fedunlearn.scenario.settings import ForgetSettings


def resolve_forget_set(settings: ForgetSettings, split: Split) -> ForgetSet:
    """Name nodes, samples or class, and check that they are there and that something stays.

    Returns:
        The rule that nodes apply to their own data.

    Raises:
        ForgetSetError: A node that does not exist, a class no one has, everybody, or nothing.
    """
    sizes = [len(indices) for indices in split.nodes]
    if settings.kind == "samples":
        forget = ForgetSet.of_samples(settings.fraction, settings.seed)
        if not any(round(settings.fraction * size) for size in sizes):
            raise ForgetSetError(
                f"forget.fraction: {settings.fraction:g} is less than one example on every node"
            )
        return forget
    if settings.kind == "class":
        assert settings.class_ is not None  # the settings require it
        labels = sorted({int(label) for label in split.targets.unique()})
        if settings.class_ not in labels:
            raise ForgetSetError(
                f"forget.class: no node has examples of class {settings.class_}; "
                f"labels are {labels[0]} to {labels[-1]}"
            )
        if len(labels) == 1:
            raise ForgetSetError(f"forget.class: {settings.class_} is the only class there is")
        return ForgetSet.of_class(settings.class_)
    chosen = settings.nodes
    if chosen == "largest":
        return ForgetSet.of_nodes(max(range(len(sizes)), key=lambda node: sizes[node]))
    for node in chosen:
        if node >= len(sizes):
            raise ForgetSetError(
                f"forget.nodes: node {node} does not exist; nodes are 0 to {len(sizes) - 1}"
            )
    if len(set(chosen)) == len(sizes):
        raise ForgetSetError("forget.nodes: all nodes would leave; at least one must stay")
    return ForgetSet.of_nodes(*chosen)


def split_parts(forget: ForgetSet, split: Split) -> Parts:
    """Cut all nodes' examples into what leaves and what stays, for evaluation."""
    chosen: dict[Part, list[torch.Tensor]] = {part: [] for part in Part}
    for node, array in enumerate(split.nodes):
        indices = torch.from_numpy(array)
        for part in Part:
            chosen[part].append(indices[forget.select(part, node, split.targets[indices])])
    forgotten, retained = (torch.cat(chosen[part]) for part in (Part.FORGET, Part.RETAIN))
    test = torch.ones(len(split.test_targets), dtype=torch.bool)
    if forget.kind is Kind.CLASS:
        test = split.test_targets != forget.label
    return Parts(
        forget=(split.inputs[forgotten], split.targets[forgotten]),
        retain=(split.inputs[retained], split.targets[retained]),
        test=(split.test_inputs[test], split.test_targets[test]),
    )
