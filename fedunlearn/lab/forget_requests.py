"""The forget sets of a scenario: its forget section, resolved on its data."""

from __future__ import annotations

import torch

from fedunlearn.data.sources import Split
from fedunlearn.errors import ForgetSetError, UnknownNameError
from fedunlearn.evaluation.metrics import Parts
from fedunlearn.names import Name, Names, as_decimal, listed
from fedunlearn.questions.forget import ForgetSet
from fedunlearn.scenario.sections import COMMONEST, LARGEST, ForgetSettings


def resolve_requests(settings: ForgetSettings, split: Split) -> tuple[ForgetSet, ...]:
    """Resolve a forget section into forget sets, and check that data leave and that data stay.

    Returns:
        The rules that nodes apply to their own data, one a request; each follows those before it.

    Raises:
        ForgetSetError: A node does not exist, no node has a class, or everything or nothing leaves.
    """
    chosen = _chosen_nodes(settings, split)
    if settings.kind == "node":
        if len(chosen) == len(split.nodes):
            raise ForgetSetError("forget.nodes: all nodes would leave; at least one has to stay")
        return _following([ForgetSet.of_nodes(*some) for some in _groups(chosen, settings)])
    if settings.kind == "samples":
        return _following(_draws(settings, split, chosen))
    labels = _chosen_classes(settings, split, chosen)
    rules = [ForgetSet.of_class(*some, on=chosen) for some in _groups(labels, settings)]
    return _following(rules)


def _groups(items: list[int], settings: ForgetSettings) -> list[list[int]]:
    """Return the items of each request: one item each in a sequence, else all in one."""
    return [[item] for item in items] if settings.sequential else [items]


def _following(rules: list[ForgetSet]) -> tuple[ForgetSet, ...]:
    return tuple(rule.following(rules[:number]) for number, rule in enumerate(rules))


def _draws(settings: ForgetSettings, split: Split, chosen: list[int]) -> list[ForgetSet]:
    sizes = [len(split.nodes[node]) for node in chosen or range(len(split.nodes))]
    if not any(round(settings.fraction * size) for size in sizes):
        whom = _named(chosen, split)
        whom = f"each of {whom}" if len(chosen) > 1 else whom
        raise ForgetSetError(
            f"forget.fraction: {settings.fraction:g} is less than one example on {whom}"
        )
    draws = (settings.count or 1) if settings.sequential else 1
    return [
        ForgetSet.of_samples(settings.fraction, settings.seed + number, on=chosen)
        for number in range(draws)
    ]


def _chosen_nodes(settings: ForgetSettings, split: Split) -> list[int]:
    """Return the nodes that the settings name, in their order; none where they name none."""
    count = len(split.nodes)
    if settings.nodes is None:
        return []
    if settings.nodes == LARGEST:
        _require_rule("forget.nodes", LARGEST, split.node_names)
        wanted = settings.count or 1
        if wanted > count:
            raise ForgetSetError(f"forget.count: {wanted} nodes are requested, there are {count}")
        return sorted(range(count), key=lambda node: -len(split.nodes[node]))[:wanted]
    return _numbers(settings.nodes, split.node_names, "forget.nodes", LARGEST)


def _chosen_classes(settings: ForgetSettings, split: Split, nodes: list[int]) -> list[int]:
    """Return the labels that the settings name; they must occur on the chosen nodes."""
    labels, examples = split.targets.unique(return_counts=True)
    if len(labels) == 1:
        raise ForgetSetError(
            f"forget.class: {split.labels[int(labels[0])]} is the only class there is"
        )
    where = "no node has examples of class {}; classes"
    known = everywhere = [int(label) for label in labels]
    if nodes:
        theirs = torch.cat([torch.from_numpy(split.nodes[node]) for node in nodes])
        labels, examples = split.targets[theirs].unique(return_counts=True)
        where = f"no examples of class {{}} on {_named(nodes, split)}; classes there"
        known = [int(label) for label in labels]
    if settings.class_ == COMMONEST:
        _require_rule("forget.class", COMMONEST, split.labels)
        return [int(labels[examples.argmax()])]  # the first of several: labels ascend
    assert settings.class_ is not None  # the settings require it
    wanted = _numbers(settings.class_, split.labels, "forget.class", COMMONEST)
    for label in wanted:
        if label not in known:
            names = ", ".join(split.labels[number] for number in known)
            raise ForgetSetError(f"forget.class: {where.format(split.labels[label])} are {names}")
    if not nodes and set(wanted) >= set(everywhere):
        raise ForgetSetError("forget.class: these are all classes; at least one has to stay")
    return wanted


def _numbers(given: tuple[Name, ...] | Name, names: Names, key: str, rule: str) -> list[int]:
    """Return the numbers of one or more names, each once, in their order."""
    if isinstance(given, tuple):
        return list(dict.fromkeys(names.number(name, key) for name in given))
    try:
        return [names.number(given, key)]
    except UnknownNameError as error:
        if not isinstance(given, str) or as_decimal(given) is not None:
            raise
        raise UnknownNameError(f"{error}, or {rule!r} for the one with most examples") from None


def _require_rule(key: str, rule: str, names: Names) -> None:
    """Refuse a rule that is also the name of a node or class; a list would hold the name."""
    if rule in names.texts:
        raise ForgetSetError(
            f"{key}: {rule!r} is a rule and the name of a {names.one}; give [{rule!r}] for the "
            f"{names.one}, or the name of the one that the rule would choose"
        )


def _named(nodes: list[int], split: Split) -> str:
    return (
        listed("node", (split.node_names[node] for node in sorted(nodes)))
        if nodes
        else "every node"
    )


def split_parts(forget: ForgetSet, split: Split) -> Parts:
    """Split all nodes' examples into those that have left by now and those that stay.

    Returns:
        The parts; test examples are of all labels except those that were removed everywhere.
    """
    gone: list[torch.Tensor] = []
    stays: list[torch.Tensor] = []
    owners: list[torch.Tensor] = []
    for node, array in enumerate(split.nodes):
        indices = torch.from_numpy(array)
        left = forget.forgotten_by_now(node, split.targets[indices])
        gone.append(indices[left])
        stays.append(indices[~left])
        owners.append(torch.full_like(stays[-1], node))
    forgotten, retained = torch.cat(gone), torch.cat(stays)
    removed = _removed_labels(forget) - set(split.targets[retained].unique().tolist())
    test = ~torch.isin(split.test_targets, split.test_targets.new_tensor(sorted(removed)))
    return Parts(
        forget=(split.inputs[forgotten], split.targets[forgotten]),
        retain=(split.inputs[retained], split.targets[retained]),
        test=(split.test_inputs[test], split.test_targets[test]),
        owners=torch.cat(owners),
    )


def _removed_labels(forget: ForgetSet) -> set[int]:
    """Return the labels that a rule, or one before it, removes somewhere."""
    return set(forget.labels).union(*(_removed_labels(earlier) for earlier in forget.after))
