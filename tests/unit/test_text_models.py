"""Networks on token ids: their derivatives, what they ignore, and that they learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from fedunlearn.errors import ScenarioError
from fedunlearn.models import text as text_models
from fedunlearn.models.catalogue import MODELS, OF_TOKENS, make_model
from fedunlearn.parameters import ParameterLayout, flatten, initial_weights, trainable
from fedunlearn.risk.local_training import LocalPlan, train_locally
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature
from fedunlearn.tokens import LENGTH, PADDING, token_ids

pytestmark = pytest.mark.slow

LOSS = nn.functional.cross_entropy
COUNT = 11
CLASSES = 3


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the networks so small that their Hessian can be written out."""
    sizes = {"VOCABULARY": 12, "TEXT_WIDTH": 3, "CODE_WIDTH": 6, "WIDTH": 4, "HIDDEN": 6, "RANK": 2}
    for name, size in sizes.items():
        monkeypatch.setattr(text_models, name, size)


def built(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network in float64 away from its start, texts of up to 7 words, and labels."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 12, (COUNT, 7), generator=generator)
    lengths = torch.arange(COUNT)[:, None] % 8  # one of them without a word
    tokens[torch.arange(7) >= lengths] = PADDING
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = make_model(name, tokens, CLASSES).double()
        for parameter in trainable(model).values():
            nn.init.normal_(parameter, std=0.7)
    return model, tokens, torch.arange(COUNT) % CLASSES


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", OF_TOKENS)
def test_gradient_and_products_are_those_of_dense_derivatives(name: str) -> None:
    model, tokens, labels = built(name)
    risk = EmpiricalRisk(model, LOSS, (tokens, labels), chunk=4)
    weights, layout = flatten(model), ParameterLayout.of(model)

    def outputs_at(point: Tensor) -> Tensor:
        outputs: Tensor = functional_call(model, layout.unflatten(point), (tokens,))
        return outputs

    def loss_of(outputs: Tensor) -> Tensor:
        return LOSS(outputs, labels, reduction="sum")

    outputs = outputs_at(weights)
    assert torch.isfinite(outputs).all()
    jacobian = jacrev(outputs_at)(weights).flatten(0, 1)
    inner = hessian(loss_of)(outputs).reshape(outputs.numel(), outputs.numel())
    dense = {
        Curvature.GGN: jacobian.T @ inner @ jacobian,
        Curvature.HESSIAN: hessian(lambda point: loss_of(outputs_at(point)))(weights),
    }
    slope = torch.autograd.grad(loss_of(outputs_at(point := weights.requires_grad_())), point)[0]
    weights = weights.detach()
    assert (dense[Curvature.GGN] - dense[Curvature.HESSIAN]).abs().max() > 1e-3
    torch.testing.assert_close(risk.gradient(weights), slope, rtol=1e-10, atol=1e-11)
    identity = torch.eye(len(weights), dtype=torch.float64)
    for curvature, expected in dense.items():
        products = risk.products(weights, identity, curvature)
        torch.testing.assert_close(products, expected, rtol=1e-9, atol=1e-10)
        kept = risk.curvature(weights, curvature, budget=2**30)
        for _ in range(2):
            torch.testing.assert_close(kept.products(identity), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", OF_TOKENS)
def test_padding_and_order_change_nothing_but_words_do(name: str) -> None:
    model, tokens, _ = built(name)
    outputs = model(tokens)
    longer = torch.cat([tokens, torch.full((COUNT, 5), PADDING)], 1)
    torch.testing.assert_close(model(longer), outputs)
    torch.testing.assert_close(model(tokens.flip(1)), outputs)
    other = torch.where((torch.arange(7) == 0) & (tokens != PADDING), tokens % 11 + 1, tokens)
    changed = (model(other) - outputs).abs().amax(1) > 1e-6
    assert changed.tolist() == (tokens != PADDING).any(1).tolist()


def test_the_encoder_is_the_same_everywhere_and_only_adapters_and_head_train() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = text_models.text_adapters((LENGTH,), 4)
    assert not torch.equal(torch.random.get_rng_state(), before)  # adapters are drawn
    torch.manual_seed(6)
    other = text_models.text_adapters((LENGTH,), 4)
    frozen = {name: p for name, p in one.named_parameters() if not p.requires_grad}
    assert "0.codes.weight" in frozen and "0.project.base.weight" in frozen
    for name, parameter in frozen.items():
        assert torch.equal(parameter, other.get_parameter(name)), name
    assert not torch.equal(flatten(one), flatten(other))
    assert {name.rpartition(".")[2] for name in ParameterLayout.of(one).names} == {
        "up",
        "down",
        "weight",
        "bias",
    }
    assert [name for name in trainable(one) if "0." not in name[:2]] == ["1.weight", "1.bias"]
    assert len(flatten(one)) < 0.004 * sum(p.numel() for p in one.parameters())


@pytest.mark.parametrize("name", OF_TOKENS)
def test_it_learns_which_words_speak_of_what(name: str) -> None:
    topics = ["goal match team score", "market shares bank profit", "virus doctor clinic cure"]
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    texts = []
    for label in labels.tolist():
        words = [*topics[label].split(), *(f"filler{n}" for n in range(40))]
        drawn = [*torch.randperm(4, generator=generator)[:2].tolist()]
        drawn += torch.randint(4, 44, (8,), generator=generator).tolist()
        texts.append(" ".join(words[n] for n in drawn))
    tokens = torch.from_numpy(token_ids(texts))
    model = make_model(name, tokens, 3)
    start = initial_weights(lambda: make_model(name, tokens, 3), seed=1)
    plan = LocalPlan(epochs=20, batch_size=8, learning_rate=0.1, weight_decay=1e-3, order=(1,))
    train_locally(model, LOSS, (tokens[:90], labels[:90]), start, plan)
    with torch.no_grad():
        right = (model(tokens[90:]).argmax(1) == labels[90:]).double().mean()
    assert right > 0.9


TOKENS = torch.ones(2, LENGTH, dtype=torch.int64)
IMAGES = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize("name", MODELS)
def test_networks_take_token_ids_or_refuse_them_in_one_line(name: str) -> None:
    fitting, other = (TOKENS, IMAGES) if name in OF_TOKENS else (IMAGES, TOKENS)
    assert make_model(name, fitting, 5)(fitting).shape == (2, 5)
    with pytest.raises(ScenarioError) as caught:
        make_model(name, other, 5)
    assert str(caught.value).startswith(f"model.name: {name} ")
    assert "data.text" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_factory_of_ones_own_takes_what_it_likes() -> None:
    name = "fedunlearn.models.text:text_adapters"
    assert make_model(name, TOKENS, 2)(TOKENS).shape == (2, 2)
