"""What curvature graphs hold, and that they are let go."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fedunlearn.parameters import flatten
from fedunlearn.risk import objective, products
from fedunlearn.risk.memory import (
    CHUNK_BYTES,
    LARGEST_CHUNK,
    counting_saved,
    examples_per_chunk,
)
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature, KeptProduct, keep_product
from tests.cases import RISKS

pytestmark = pytest.mark.slow

COUNT, CHUNK = 24, 4
CURVATURES = list(Curvature)
CONVOLUTIONAL = [name for name in RISKS if "cnn" in name]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without it, only what no cycle holds is freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _risk(name: str) -> tuple[EmpiricalRisk, Tensor]:
    model, examples = RISKS[name].build(1, COUNT)
    return EmpiricalRisk(model, RISKS[name].loss, examples, chunk=CHUNK), flatten(model)


def _tensors() -> int:
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("name", ["mlp, bce", "rectified cnn, cross-entropy", "tied, mse"])
def test_graphs_are_freed_as_soon_as_they_are_not_kept(name: str, no_collector: None) -> None:
    risk, weights = _risk(name)
    vectors = torch.ones_like(weights)[None]
    for curvature in Curvature:
        risk.products(weights, vectors, curvature)
    before = _tensors()
    for curvature in Curvature:
        risk.products(weights, vectors, curvature)
    assert _tensors() == before

    kept = [risk.curvature(weights, curvature, budget=2**30) for curvature in Curvature]
    for one in kept:
        one.products(vectors)
    assert _tensors() > before
    del kept, one
    assert _tensors() == before


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99, 1.0])
def test_at_most_the_budget_and_one_chunk_are_held(
    share: float, curvature: Curvature, monkeypatch: pytest.MonkeyPatch, no_collector: None
) -> None:
    alive: list[tuple[int, weakref.ref[object]]] = []
    largest = 0

    def held() -> int:
        return sum(nbytes for nbytes, product in alive if product() is not None)

    def watched(*arguments: object) -> KeptProduct:
        nonlocal largest
        before = held()
        product = keep_product(*arguments)  # type: ignore[arg-type]
        alive.append((product.nbytes, weakref.ref(product.apply)))
        largest = max(largest, before)
        return product

    monkeypatch.setattr(objective, "keep_product", watched)
    risk, weights = _risk("rectified cnn, cross-entropy")
    vectors = torch.ones_like(weights)[None]
    risk.products(weights, vectors, curvature)
    everything = sum(nbytes for nbytes, _ in alive)
    budget = int(share * everything)
    assert held() == 0

    kept = risk.curvature(weights, curvature, budget=budget)
    for _ in range(2):
        kept.products(vectors)
    each = everything / (COUNT / CHUNK)
    assert budget - each < held() <= budget
    assert largest <= budget


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", RISKS)
def test_a_graph_without_zeros_gives_the_same_products(
    name: str, curvature: Curvature, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_all(*own: Tensor, drop_zeros: bool = False) -> object:
        del drop_zeros
        return counting_saved(*own)

    risk, weights = _risk(name)
    vectors = torch.randn(3, len(weights), dtype=weights.dtype)
    without = risk.products(weights, vectors, curvature)
    monkeypatch.setattr(products, "counting_saved", keep_all)
    torch.testing.assert_close(
        without, risk.products(weights, vectors, curvature), rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_inputs_and_activations_that_are_zero_may_go_as_well(name: str) -> None:
    """Pixels, units behind a rectifier, and the places that pooling noted, all zero."""
    case = RISKS[name]
    model, (inputs, targets) = case.build(1, COUNT)
    weights = flatten(model)
    vectors = torch.randn(2, len(weights), dtype=weights.dtype)
    inputs[:CHUNK] = 0.0
    whole = EmpiricalRisk(model, case.loss, (inputs, targets), chunk=COUNT)
    parts = EmpiricalRisk(model, case.loss, (inputs, targets), chunk=CHUNK)
    for point in 20 * (weights, torch.zeros_like(weights)):
        # For a kernel that reads past what it was given.
        junk = [torch.full((size,), torch.nan) for size in (10, 100, 1000, 10000)]
        del junk
        torch.testing.assert_close(
            parts.products(point, vectors, Curvature.GGN),
            whole.products(point, vectors, Curvature.GGN),
            rtol=1e-12,
            atol=1e-13,
        )


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_the_graph_of_ggn_is_smaller_than_the_hessian_s(name: str) -> None:
    risk, weights = _risk(name)
    (chunk, *_) = risk._chunks()
    sizes = {
        curvature: keep_product(curvature, chunk.network, chunk.loss, weights).nbytes
        for curvature in Curvature
    }
    assert 0 < sizes[Curvature.GGN] < 0.8 * sizes[Curvature.HESSIAN]


def test_saved_bytes_are_those_of_the_graph_while_it_lives() -> None:
    inputs = torch.randn(10, 100)
    weights = torch.randn(100, 7, requires_grad=True)
    with counting_saved(weights) as nbytes:
        outputs = torch.tanh(inputs @ weights)
    assert nbytes() == inputs.nbytes + outputs.nbytes  # matmul keeps inputs, tanh its result
    del outputs
    assert nbytes() == 0
    with counting_saved(weights, inputs) as nbytes:
        outputs = torch.tanh(inputs @ weights)
    assert nbytes() == outputs.nbytes


def test_parts_of_one_tensor_count_each_and_what_is_repeated_counts_once() -> None:
    weights = torch.ones(30, requires_grad=True)
    with counting_saved(weights) as nbytes:
        left, middle, right = (weights * 2.0).split(10)
        result = (left * middle + right.square()).exp()  # keeps the three parts, and itself
    assert nbytes() == 4 * 40
    with counting_saved() as nbytes:
        result = (weights * torch.ones(1).expand(30)).sum()
    assert nbytes() == 4 * 1
    assert result.requires_grad


@pytest.mark.parametrize(("width", "chunk"), [(1, LARGEST_CHUNK), (2**16, 64), (2**20, 4)])
def test_chunks_are_as_large_as_memory_near_the_processor_allows(width: int, chunk: int) -> None:
    weight = torch.ones(1, requires_grad=True)

    def loss_of(inputs: Tensor) -> Tensor:  # keeps `width` numbers of 4 bytes an example
        return (weight * inputs.expand(-1, width)).exp().sum()

    assert examples_per_chunk(loss_of, torch.ones(40, 1), weight) == chunk


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_a_chunk_is_not_smaller_than_the_weights(factor: int) -> None:
    weights = torch.ones(factor * CHUNK_BYTES // 4, requires_grad=True)

    def loss_of(inputs: Tensor) -> Tensor:  # keeps 1 MiB an example, and the weights
        return (weights[:1] * inputs.expand(-1, 2**18)).exp().sum() + weights.square().sum()

    assert examples_per_chunk(loss_of, torch.ones(40, 1), weights) == 16 * factor


MEASURE = """
import os, torch
from torch import nn
from fedunlearn.parameters import flatten
from fedunlearn.risk.objective import EmpiricalRisk
from fedunlearn.risk.products import Curvature, keep_product

def mebibytes(name):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(name)]
    return int(line.split()[1]) / 1024

def measure(curvature):
    risk.products(weights, vectors, curvature)
    size = keep_product(curvature, first.network, first.loss, weights).nbytes
    start = mebibytes("VmRSS")
    print(curvature, size / 2**20)
    for chunks in (0, 3):
        kept = risk.curvature(weights, curvature, budget=chunks * size)
        for _ in range(2):
            kept.products(vectors)
        print(mebibytes("VmRSS") - start, mebibytes("VmHWM") - start, flush=True)

torch.set_num_threads(1)
layers = [nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Tanh()]
model = nn.Sequential(*layers, *layers, nn.Flatten(), nn.Linear(8 * 32 * 32, 3))
examples = (torch.rand(320, 8, 32, 32), torch.randint(0, 3, (320,)))
risk = EmpiricalRisk(model, nn.functional.cross_entropy, examples, chunk=64)
weights = flatten(model)
vectors = torch.ones(1, len(weights))
first = next(iter(risk._chunks()))
for curvature in Curvature:
    if os.fork() == 0:  # a child's peak is its own
        measure(curvature)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_process_grows_by_the_budget_and_one_chunk() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEASURE],
        # Every tensor has a mapping of its own, so that what is freed leaves the process.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = run.stdout.split()
    assert len(words) == 6 * len(Curvature), run.stderr
    for row in range(0, len(words), 6):
        size, nothing, peak, three, highest = map(float, words[row + 1 : row + 6])
        assert size > 8.0
        assert nothing < 0.1 * size
        # The inputs count, but lie there already.
        assert 2.0 * size < three < 3.1 * size
        # What differentiating the one chunk takes for the moment comes on top.
        assert peak < 3.0 * size
        assert highest < 6.0 * size
