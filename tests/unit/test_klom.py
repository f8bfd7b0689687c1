"""Margins, the Gaussians that are fitted to them, and KLoM."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from fedunlearn.evaluation.klom import klom
from fedunlearn.evaluation.margins import Gaussians, margins

GENERATOR = torch.Generator()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR.manual_seed(seed)).double()


@given(st.integers(0, 1000))
def test_a_margin_is_the_logit_less_the_log_sum_of_the_others(seed: int) -> None:
    logits = 20 * normal(seed, 30, 4)
    targets = torch.arange(30) % 4
    others = logits.scatter(1, targets[:, None], -math.inf).logsumexp(1)
    wanted = (logits.gather(1, targets[:, None])[:, 0] - others).clamp(-100, 100)
    torch.testing.assert_close(margins(logits.softmax(1), targets), wanted, rtol=1e-9, atol=1e-9)


def test_certain_predictions_have_finite_margins() -> None:
    certain = torch.eye(2).double()
    assert margins(certain, torch.tensor([0, 1])).tolist() == [100, 100]
    assert margins(certain, torch.tensor([1, 0])).tolist() == [-100, -100]


@given(st.integers(0, 1000))
def test_densities_and_divergences_are_those_of_normal_distributions(seed: int) -> None:
    left, right = (Gaussians.of(normal(seed + n, 3, 20) + n) for n in (0, 1))
    one, other = (Normal(each.mean, each.variance.sqrt()) for each in (left, right))
    torch.testing.assert_close(left.divergence_to(right), kl_divergence(one, other))
    at = normal(seed + 2, 5, 20)
    torch.testing.assert_close(left.log_density(at), one.log_prob(at))


def test_few_models_share_their_variance_and_many_have_their_own() -> None:
    scale = torch.tensor([1.0, 3.0]).double().repeat(500)
    few, many = (Gaussians.of(scale * normal(1, count, 1000)).variance for count in (2, 400))
    assert few.mean() == pytest.approx(5.0, rel=0.2)
    assert few[1::2].mean() / few[::2].mean() < 1.3
    assert many[::2].mean() == pytest.approx(1.0, rel=0.15)
    assert many[1::2].mean() == pytest.approx(9.0, rel=0.05)


def test_klom_of_known_distributions() -> None:
    means = torch.linspace(-5, 5, 200).double()
    retrained, unlearned = means + normal(1, 9000, 200), means + 2 + normal(2, 9000, 200)
    assert klom(unlearned, retrained) == pytest.approx(2.0, rel=0.05)  # (2 / 1)^2 / 2
    wider = means + 2 * normal(3, 9000, 200)
    # KL(N(0, 1) || N(0, 4)), and the other way round, which is larger.
    assert klom(wider, retrained) == pytest.approx((1 / 4 - 1 + math.log(4)) / 2, rel=0.05)
    assert klom(retrained, wider) == pytest.approx((4 - 1 - math.log(4)) / 2, rel=0.1)


def test_the_same_models_have_no_klom_and_distant_ones_the_largest() -> None:
    retrained = normal(1, 3, 100)
    assert klom(retrained, retrained) == 0.0
    assert klom(retrained + 1000, retrained) == 100.0
    constant = torch.zeros(3, 100).double()
    assert klom(constant, constant) == 0.0
    assert klom(constant, retrained) == 100.0


def test_klom_grows_with_what_was_kept_and_sees_a_tenth_of_the_examples() -> None:
    retrained, fresh = normal(1, 5, 400), normal(2, 5, 400)
    few = (torch.arange(400) % 10 == 0).double()
    found = [klom(fresh + kept * few, retrained) for kept in (0.0, 2.0, 4.0, 8.0)]
    assert found == sorted(found)
    assert found[0] < 2.0 < 10.0 < found[-1]


def test_a_model_that_is_no_number_has_no_klom() -> None:
    broken = torch.full((2, 5), math.nan).double()
    assert math.isnan(klom(broken, normal(1, 3, 5)))
