from __future__ import annotations

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedunlearn.errors import NonFiniteError, TaskError
from fedunlearn.parameters import (
    ParameterLayout,
    digest,
    flatten,
    initial_weights,
    load,
    require_finite,
    trainable,
)
from tests.laws import laws

SHAPES = st.lists(
    st.tuples(st.lists(st.integers(1, 4), max_size=4).map(tuple), st.booleans()),
    min_size=1,
    max_size=6,
)
LAW = laws(100)


class _Holder(nn.Module):
    """Parameters of given shapes, some frozen, and a buffer."""

    def __init__(self, shapes: list[tuple[tuple[int, ...], bool]], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for number, (shape, trained) in enumerate(shapes):
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(f"p{number}", nn.Parameter(values, requires_grad=trained))
        self.register_buffer("count", torch.randn(3, generator=generator))


def _vector(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@LAW
@given(shapes=SHAPES, seed=st.integers(0, 2**20))
def test_flatten_load_and_unflatten_are_inverse(
    shapes: list[tuple[tuple[int, ...], bool]], seed: int
) -> None:
    model, other = _Holder(shapes, seed), _Holder(shapes, seed + 1)
    counted = [shape for shape, trained in shapes if trained]
    if not counted:
        with pytest.raises(TaskError, match="no parameter that requires a gradient"):
            ParameterLayout.of(model)
        return
    layout = ParameterLayout.of(model)
    vector = flatten(model)
    assert layout.dimension == vector.numel() == sum(math.prod(shape) for shape in counted)

    parts = layout.unflatten(vector)
    assert list(parts) == [f"p{i}" for i, (_, trained) in enumerate(shapes) if trained]
    for name, parameter in trainable(model).items():
        assert torch.equal(parts[name], parameter)
    assert torch.equal(torch.cat([part.reshape(-1) for part in parts.values()]), vector)

    untouched = {
        name: value.clone() for name, value in other.state_dict().items() if name not in parts
    }
    load(other, vector)
    assert torch.equal(flatten(other), vector)
    for name, value in untouched.items():
        assert torch.equal(other.state_dict()[name], value)


def test_flatten_copies_and_load_copies() -> None:
    model = _Holder([((2, 3), True)], 0)
    vector = flatten(model)
    before = vector.clone()
    load(model, torch.zeros(6, dtype=torch.float64))
    assert torch.equal(vector, before)
    load(model, vector)
    vector.zero_()
    assert torch.equal(flatten(model), before)


@pytest.mark.parametrize("length", [5, 7])
def test_a_vector_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(TaskError, match="the model has 6 trainable"):
        load(_Holder([((2, 3), True)], 0), torch.zeros(length, dtype=torch.float64))


def test_digest_is_what_its_docstring_says() -> None:
    vector = _vector([1.0, -2.5])
    expected = hashlib.sha256(b"<f8:2:" + bytes.fromhex("000000000000f03f00000000000004c0"))
    assert digest(vector) == expected.digest()
    assert digest(torch.stack([vector, vector], 1)[:, 0]) == expected.digest()


@LAW
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    index=st.integers(0, 19),
    bit=st.integers(0, 63),
)
def test_digest_changes_with_any_bit(values: list[float], index: int, bit: int) -> None:
    vector = _vector(values)
    changed = vector.clone()
    bits = changed.view(torch.int64)
    bits[index % len(values)] ^= -(2**63) if bit == 63 else 2**bit
    assert digest(vector) == digest(vector.clone())
    assert digest(changed) != digest(vector)


def test_digest_tells_types_lengths_and_orders_apart() -> None:
    vectors = [
        _vector([0.0, 0.0]),
        _vector([0.0, 0.0]).float(),
        torch.zeros(4, dtype=torch.float32),
        _vector([0.0]),
        _vector([1.0, 2.0]),
        _vector([2.0, 1.0]),
        torch.zeros(2, dtype=torch.int64),
    ]
    assert len({digest(vector) for vector in vectors}) == len(vectors)


@pytest.mark.parametrize(
    "values, bad",
    [([1.0, math.nan, 2.0], 1), ([math.inf, -math.inf], 2), ([math.nan], 1)],
)
def test_numbers_that_are_not_finite_are_counted_and_named(values: list[float], bad: int) -> None:
    with pytest.raises(NonFiniteError, match=f"^weights: {bad} of {len(values)} numbers"):
        require_finite(_vector(values), "weights")


def test_large_and_empty_vectors_are_finite() -> None:
    require_finite(_vector([1e308, -1e308, 5e-324]), "weights")
    require_finite(_vector([]), "weights")


def test_the_flat_vector_has_the_widest_dtype_and_float32_at_least() -> None:
    half, single, double = torch.float16, torch.float32, torch.float64
    for dtypes, widest in (
        ([half], single),
        ([torch.bfloat16, half], single),
        ([half, single], single),
        ([single, double, half], double),
    ):
        model = nn.ParameterList([torch.ones(2, dtype=dtype) / 3.0 for dtype in dtypes])
        layout = ParameterLayout.of(model)
        vector = flatten(model)
        assert layout.dtype == vector.dtype == widest
        assert layout.dtypes == tuple(dtypes)
        parts = list(layout.unflatten(vector).values())
        for part, parameter in zip(parts, model, strict=True):
            assert part.dtype == parameter.dtype
            assert torch.equal(part, parameter)
        assert [part.untyped_storage().data_ptr() == vector.data_ptr() for part in parts] == [
            dtype == widest for dtype in dtypes
        ]


def test_unflatten_is_differentiable_where_it_casts() -> None:
    model = nn.ParameterList([torch.ones(2, dtype=torch.float16), torch.ones(3)])
    vector = torch.arange(5.0, requires_grad=True)
    parts = ParameterLayout.of(model).unflatten(vector).values()
    loss = sum((part.float().square().sum() for part in parts), torch.zeros(()))
    loss.backward()
    assert vector.grad is not None
    assert torch.equal(vector.grad, 2.0 * vector.detach())


def test_a_large_vector_has_the_digest_of_its_bytes() -> None:
    vector = torch.randn(300_000)
    expected = hashlib.sha256(b"<f4:300000:" + vector.numpy().tobytes())
    assert digest(vector) == expected.digest()


def test_threads_that_build_a_model_at_once_build_the_same() -> None:
    def build(_: int) -> Tensor:
        return initial_weights(lambda: nn.Sequential(*(nn.Linear(9, 9) for _ in range(8))), 3)

    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(build, range(200)))
    assert all(torch.equal(built[0], one) for one in built)
