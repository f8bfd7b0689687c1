"""What of a trained model travels, and what nodes must have already."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from fedunlearn.errors import InputError, ModelDiffersError, TaskError
from fedunlearn.model_state import ModelState
from fedunlearn.networks import NetworkDigest, build_model, require_one_network
from fedunlearn.node.enrolment import Enrolment, require_same_network
from fedunlearn.parameters import flatten
from fedunlearn.state_transfer import state_to_transfer


class Parts(nn.Module):
    """A frozen backbone, a normalisation layer, a head, a buffer."""

    def __init__(self, level: float = 1.0, scale: float = 1.0, width: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 4).requires_grad_(False).to(torch.bfloat16)
        nn.init.constant_(self.backbone.weight, level)
        nn.init.zeros_(self.backbone.bias)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, width)
        self.register_buffer("scale", torch.tensor(scale))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.norm(self.backbone(inputs.bfloat16()).float()))
        return outputs * self.scale


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["norm.running_mean"] += 0.5
    state["norm.running_var"] *= 2.0
    state["norm.num_batches_tracked"] += 7
    state["head.weight"] += 1.0
    return state


def nodes(*models: nn.Module) -> dict[int, NetworkDigest | None]:
    return {number: NetworkDigest.of(model) for number, model in enumerate(models)}


def test_statistics_travel_and_a_backbone_that_all_have_does_not() -> None:
    state = trained_state(Parts())
    found = state_to_transfer(Parts(), state, nodes(Parts(), Parts()))
    assert set(found.state) == {"norm.running_mean", "norm.running_var"}
    assert torch.equal(found.state["norm.running_var"], state["norm.running_var"])
    other = Parts()
    other.load_state_dict(state)
    assert torch.equal(found.weights, flatten(other))
    found.state.load(fresh := Parts())
    assert torch.equal(fresh.norm.running_mean, state["norm.running_mean"])


def test_what_no_node_has_otherwise_stays_here() -> None:
    state = trained_state(Parts())
    trained = Parts()
    trained.load_state_dict(state)
    trained.norm.num_batches_tracked.zero_()
    assert not state_to_transfer(Parts(), state, nodes(trained, trained)).state
    assert set(state_to_transfer(Parts(), state, nodes(trained, Parts())).state) == {
        "norm.running_mean",
        "norm.running_var",
    }


def test_a_frozen_part_that_differs_is_sent_where_it_is_known_and_refused_where_not() -> None:
    state = trained_state(Parts())
    found = state_to_transfer(Parts(), state, nodes(Parts(), Parts(level=2.0)))
    assert "backbone.weight" in found.state and "backbone.bias" not in found.state
    found.state.load(other := Parts(level=2.0))
    assert torch.equal(other.backbone.weight, state["backbone.weight"])
    del state["backbone.weight"]
    with pytest.raises(
        ModelDiffersError, match=r"node 1: model: frozen parameter 'backbone.weight' differs.*whole"
    ):
        state_to_transfer(Parts(), state, nodes(Parts(), Parts(level=2.0)))
    del state["scale"]
    with pytest.raises(ModelDiffersError, match="node 0: model: buffer 'scale' differs"):
        state_to_transfer(Parts(), state, nodes(Parts(scale=2.0), Parts()))


def test_who_does_not_say_what_it_has_is_sent_everything() -> None:
    state = trained_state(Parts())
    found = state_to_transfer(Parts(), state, {0: None})
    assert set(found.state) == {
        *("backbone.weight", "backbone.bias", "norm.running_mean", "norm.running_var", "scale")
    }


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Parts(width=2), "layer 'head' differs.*same model"),
        (nn.Linear(2, 2), "the model's class differs"),
    ],
)
def test_another_network_is_refused(other: nn.Module, says: str) -> None:
    with pytest.raises(ModelDiffersError, match=f"node 1: model: {says}"):
        state_to_transfer(Parts(), trained_state(Parts()), nodes(Parts(), other))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("head.bias"), "has no tensor 'head.bias'"),
        (lambda s: s.update(other=torch.zeros(1)), "holds 'other'"),
        (lambda s: s.update({"head.bias": torch.zeros(9)}), r"'head.bias' has shape \(9,\)"),
        (lambda s: s.update({"norm.running_var": torch.ones(9)}), r"running_var' has shape \(9,\)"),
    ],
)
def test_values_of_another_model_are_refused(
    change: Callable[[dict[str, Tensor]], object], says: str
) -> None:
    state = trained_state(Parts())
    change(state)
    with pytest.raises(TaskError, match=says):
        state_to_transfer(Parts(), state, nodes(Parts()))


class Ordered(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(2, 2))


def test_another_order_of_layers_is_refused_in_one_sentence() -> None:
    one, other = (NetworkDigest.of(Ordered(*names)) for names in ("ab", "ba"))
    says = "parameter 'b.weight' comes where 'a.weight' should, in another order of layers"
    assert one.digest == other.digest and one.difference(other) == says
    with pytest.raises(ModelDiffersError, match=f"node 2: model: {says}") as refusal:
        require_same_network({n: Enrolment(n, 5, network=other) for n in (2,)}, one)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ModelDiffersError, match=f"node 2: model: {says}"):
        state_to_transfer(Ordered("a", "b"), Ordered("b", "a").state_dict(), {2: other, 3: one})


def test_a_buffer_that_is_drawn_may_be_where_the_server_sends_it() -> None:
    def make() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_buffer("features", torch.randn(3))
        return model

    model = build_model(make)
    with pytest.raises(ModelDiffersError, match="buffer 'features' is drawn anew"):
        require_one_network(make, model)
    require_one_network(make, model, sent={"features"})


def test_nodes_may_enrol_with_other_values_of_what_is_sent() -> None:
    said = {0: Enrolment(0, 5, network=NetworkDigest.of(Parts(level=2.0)))}
    own = NetworkDigest.of(Parts())
    with pytest.raises(ModelDiffersError, match=r"frozen parameter 'backbone\.weight' differs"):
        require_same_network(said, own, sent={"backbone.bias"})
    require_same_network(said, own, sent={"backbone.weight"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_adapters_only_they_travel(dtype: torch.dtype) -> None:
    peft = pytest.importorskip("peft")

    def make(level: float = 0.1) -> nn.Module:
        torch.manual_seed(0)
        base = nn.Sequential(
            OrderedDict(first=nn.Linear(4, 6), act=nn.Tanh(), head=nn.Linear(6, 3))
        ).to(dtype)
        nn.init.constant_(base.first.weight, level)
        config = peft.LoraConfig(r=2, target_modules=["first"], modules_to_save=["head"])
        model: nn.Module = peft.get_peft_model(base, config).eval()
        return model

    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.25)
    short: Mapping[str, Tensor] = peft.get_peft_model_state_dict(model)
    assert not set(short) <= set(model.state_dict())  # PEFT leaves the adapter's name out
    for adapters in (short, model.state_dict()):
        found = state_to_transfer(make(), adapters, nodes(make(), make()))
        assert torch.equal(found.weights, flatten(model)) and not found.state
    with pytest.raises(
        ModelDiffersError, match=r"node 1: model: frozen parameter '.*first.*weight"
    ):
        state_to_transfer(make(), short, nodes(make(), make(0.2)))
    with pytest.raises(TaskError, match=r"has no tensor '.*lora_A"):
        state_to_transfer(make(), dict(list(short.items())[1:]), nodes(make()))


def test_tensors_of_every_dtype_come_back_as_they_were() -> None:
    model = nn.Module()
    for number, dtype in enumerate(
        (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    ):
        model.register_buffer(f"b{number}", torch.tensor([0, 1, 0, 1]).to(dtype))
    model.register_buffer("large", torch.tensor(2**53))
    state = ModelState(model.state_dict())
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.float64}
    other = nn.Module()
    for name, tensor in model.named_buffers():
        other.register_buffer(name, torch.zeros_like(tensor))
    state.load(other)
    for name, tensor in model.named_buffers():
        assert torch.equal(other.get_buffer(name), tensor), name
    with pytest.raises(InputError, match="'n' holds whole numbers above 2"):
        ModelState({"n": torch.tensor(2**53 + 1)})
    with pytest.raises(InputError, match="'n' is not a plain tensor"):
        ModelState({"n": torch.tensor(1j)})


def test_the_digest_is_of_names_shapes_and_numbers() -> None:
    state = ModelState({"a": torch.ones(2), "b": torch.zeros(2)})
    assert state == ModelState({"b": torch.zeros(2), "a": torch.ones(2)})
    assert state != ModelState({"a": torch.ones(2), "b": torch.ones(2)})
    assert state != ModelState({"a": torch.ones(2, 1), "b": torch.zeros(2)})
    assert state != ModelState({"a": torch.ones(2), "c": torch.zeros(2)})
    assert ModelState().digest == b""


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"norm.mean": torch.zeros(4)}, "has no tensor 'norm.mean'"),
        ({"norm.running_mean": torch.zeros(5)}, r"'norm.running_mean' has shape \(4,\).*\(5,\)"),
    ],
)
def test_a_state_of_another_model_is_refused_before_any_of_it_is_loaded(
    tensors: dict[str, Tensor], says: str
) -> None:
    model = Parts()
    with pytest.raises(ModelDiffersError, match=says):
        ModelState({"scale": torch.tensor(9.0), **tensors}).load(model)
    assert float(model.scale) == 1.0


def test_what_flower_averaged_is_taken_as_it_comes() -> None:
    """FedAvg makes floats of counters."""
    from flwr.app import ArrayRecord

    state = trained_state(Parts())
    floats = {name: value.float() for name, value in state.items()}
    found = state_to_transfer(
        Parts(), ArrayRecord(floats).to_torch_state_dict(), nodes(Parts(), Parts())
    )
    assert found.state == state_to_transfer(Parts(), state, nodes(Parts(), Parts())).state
