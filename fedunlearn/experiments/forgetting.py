"""A scenario's forget section, made concrete on its data."""

from __future__ import annotations

import torch

from fedunlearn.data.sources import Split
from fedunlearn.errors import ForgetSetError
from fedunlearn.evaluation.metrics import Parts
from fedunlearn.federation.forget import ForgetSet, Kind, Part
from fedunlearn.scenario.sections import ForgetSettings


def resolve_forget_set(settings: ForgetSettings, split: Split) -> ForgetSet:
    """Name nodes, samples or class, and check that they are there and that something stays.

    Returns:
        The rule that nodes apply to their own data.

    Raises:
        ForgetSetError: A node that does not exist, a class no one has, everybody, or nothing.
    """
    chosen = _chosen_nodes(settings, split)
    if settings.kind == "node":
        if len(chosen) == len(split.nodes):
            raise ForgetSetError("forget.nodes: all nodes would leave; at least one must stay")
        return ForgetSet.of_nodes(*chosen)
    if settings.kind == "samples":
        sizes = [len(split.nodes[node]) for node in chosen or range(len(split.nodes))]
        if not any(round(settings.fraction * size) for size in sizes):
            whom = f"each of {_named(chosen)}" if len(chosen) > 1 else _named(chosen)
            raise ForgetSetError(
                f"forget.fraction: {settings.fraction:g} is less than one example on {whom}"
            )
        return ForgetSet.of_samples(settings.fraction, settings.seed, on=chosen)
    return ForgetSet.of_class(_chosen_class(settings, split, chosen), on=chosen)


def _chosen_nodes(settings: ForgetSettings, split: Split) -> list[int]:
    """Return the nodes that the settings name, ascending; none where they name none."""
    count = len(split.nodes)
    if settings.nodes is None:
        return []
    if settings.nodes == "largest":
        wanted = settings.count or 1
        if wanted > count:
            raise ForgetSetError(f"forget.count: {wanted} nodes are asked for, there are {count}")
        return sorted(sorted(range(count), key=lambda node: -len(split.nodes[node]))[:wanted])
    for node in settings.nodes:
        if node >= count:
            raise ForgetSetError(
                f"forget.nodes: node {node} does not exist; nodes are 0 to {count - 1}"
            )
    return sorted(set(settings.nodes))


def _chosen_class(settings: ForgetSettings, split: Split, nodes: list[int]) -> int:
    """Return the label that is to be forgotten on some nodes, or on all where none are named."""
    labels, examples = split.targets.unique(return_counts=True)
    if len(labels) == 1:
        raise ForgetSetError(f"forget.class: {int(labels[0])} is the only class there is")
    where = f"no node has examples of class {settings.class_}; labels"
    if nodes:
        theirs = torch.cat([torch.from_numpy(split.nodes[node]) for node in nodes])
        labels, examples = split.targets[theirs].unique(return_counts=True)
        where = f"no examples of class {settings.class_} on {_named(nodes)}; labels there"
    if settings.class_ == "commonest":
        return int(labels[examples.argmax()])  # of several the first: they ascend
    known = [int(label) for label in labels]
    assert settings.class_ is not None  # the settings require it
    if settings.class_ not in known:
        raise ForgetSetError(f"forget.class: {where} are {', '.join(map(str, known))}")
    return settings.class_


def _named(nodes: list[int]) -> str:
    return str(ForgetSet.of_nodes(*nodes)) if nodes else "every node"


def split_parts(forget: ForgetSet, split: Split) -> Parts:
    """Cut all nodes' examples into what leaves and what stays, for evaluation.

    Returns:
        The parts; tested is on all labels but those that were removed and of which nothing stays.
    """
    chosen: dict[Part, list[torch.Tensor]] = {part: [] for part in Part}
    for node, array in enumerate(split.nodes):
        indices = torch.from_numpy(array)
        for part in Part:
            chosen[part].append(indices[forget.select(part, node, split.targets[indices])])
    forgotten, retained = (torch.cat(chosen[part]) for part in (Part.FORGET, Part.RETAIN))
    gone = _removed_labels(forget) - set(split.targets[retained].unique().tolist())
    test = ~torch.isin(split.test_targets, split.test_targets.new_tensor(sorted(gone)))
    return Parts(
        forget=(split.inputs[forgotten], split.targets[forgotten]),
        retain=(split.inputs[retained], split.targets[retained]),
        test=(split.test_inputs[test], split.test_targets[test]),
    )


def _removed_labels(forget: ForgetSet) -> set[int]:
    """Return the labels that a rule, or one before it, removes somewhere."""
    own = {forget.label} if forget.kind is Kind.CLASS else set()
    return own.union(*(_removed_labels(earlier) for earlier in forget.after))
