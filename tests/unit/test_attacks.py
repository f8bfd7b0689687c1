"""Membership inference: known answers, and nothing where there is nothing to tell."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedunlearn.evaluation.attacks import auc, membership_auc, pair_auc, ulira_auc

EXAMPLES = 600


def models(generator: torch.Generator, hardness: Tensor, count: int, above: float = 0.0) -> Tensor:
    """Margins (count, n) of exchangeable models: what an example is like, and a model's noise."""
    noise = torch.randn(count, len(hardness), generator=generator).double()
    return hardness + above + noise


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def hardness(generator: torch.Generator, spread: float = 5.0) -> Tensor:
    return spread * torch.randn(EXAMPLES, generator=generator).double()


def test_membership_auc() -> None:
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([1.0, 2.0, 3.0])
    assert membership_auc(low, high) == 1.0
    assert membership_auc(high, low) == 0.0
    assert membership_auc(low, low) == 0.5


def test_auc_of_scores_that_are_no_numbers_is_none() -> None:
    assert math.isnan(auc(torch.tensor([math.nan]), torch.tensor([1.0])))


@given(st.integers(0, 1000))
def test_auc_counts_ordered_pairs(seed: int) -> None:
    draws = torch.randint(0, 6, (20,), generator=torch.Generator().manual_seed(seed)).double()
    left, right = draws[:8], draws[8:]
    pairs = left[:, None] - right
    wanted = ((pairs > 0).double() + (pairs == 0).double() / 2).mean()
    assert auc(left, right) == pytest.approx(float(wanted))


@pytest.mark.parametrize("shadows", [2, 20])
def test_a_model_that_saw_neither_is_not_attacked(generator: torch.Generator, shadows: int) -> None:
    easy, hard = hardness(generator) + 4, hardness(generator)
    own, tested = models(generator, easy, 1)[0], models(generator, hard, 1)[0]
    attacked = ulira_auc(
        own, tested, models(generator, easy, shadows), models(generator, hard, shadows)
    )
    assert attacked == pytest.approx(0.5, abs=0.05)
    # One threshold for all takes what is easy for what was seen.
    assert membership_auc(-own, -tested) > 0.65


def test_what_is_memorised_is_found_though_examples_differ_more(
    generator: torch.Generator,
) -> None:
    forgotten, tested = hardness(generator, 20.0), hardness(generator, 20.0)
    own, other = models(generator, forgotten, 1, above=5.0)[0], models(generator, tested, 1)[0]
    shadows = models(generator, forgotten, 3), models(generator, tested, 3)
    assert ulira_auc(own, other, *shadows) > 0.98
    assert membership_auc(-own, -other) < 0.65


def test_the_attack_grows_with_what_was_kept(generator: torch.Generator) -> None:
    base = hardness(generator)
    own, tested = models(generator, base, 1)[0], models(generator, base, 1)[0]
    shadows = models(generator, base, 4), models(generator, base, 4)
    found = [ulira_auc(own + kept, tested, *shadows) for kept in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    assert found == sorted(found)
    assert found[0] < 0.4


@pytest.mark.parametrize("count", [3, 4, 10])
def test_exchangeable_models_are_indistinguishable(generator: torch.Generator, count: int) -> None:
    base = hardness(generator)
    found = pair_auc(models(generator, base, count), models(generator, base, count))
    assert found == pytest.approx(0.5, abs=0.03)


def test_twins_that_are_alike_give_nothing_away(generator: torch.Generator) -> None:
    retrained = models(generator, hardness(generator), 3)
    noise = 1e-3 * torch.randn(retrained.shape, generator=generator).double()
    assert pair_auc(retrained + noise, retrained) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kept", [5.0, -5.0])
def test_models_that_remember_or_forgot_too_much_are_distinguished(
    generator: torch.Generator, kept: float
) -> None:
    base = hardness(generator)
    unlearned = models(generator, base, 3, above=kept)
    assert pair_auc(unlearned, models(generator, base, 3)) > 0.98
    assert pair_auc(base.expand(3, -1) + 0.01 * unlearned, models(generator, base, 3)) > 0.8
