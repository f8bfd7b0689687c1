"""The worker: from a due request to a swapped model and a receipt, and what comes between."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from fedunlearn.errors import FederationError, LeaseLostError, TransitionError
from fedunlearn.federation.federation import Federation
from fedunlearn.flower.simulation import simulate
from fedunlearn.lab.experiment import Experiment
from fedunlearn.lab.scenario_task import ScenarioTask
from fedunlearn.lab.stages import train
from fedunlearn.networks import NetworkDigest, build_model
from fedunlearn.operator.federation_remover import FederationRemover
from fedunlearn.operator.model_store import read_model
from fedunlearn.operator.worker_loop import MODELS, NODES
from fedunlearn.requests.deletion import Stage, State
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.service.state import ServiceState, open_state
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.removal_job import RemovalJob
from fedunlearn.worker.worker import Worker, utc_now
from fedunlearn.worker.worker_settings import Retention, WorkerSettings
from tests import workplaces
from tests.workplaces import (
    digest_of,
    file,
    findings,
    records_of,
    remover_in,
    scenario,
    scope,
    work,
)


@pytest.mark.parametrize("kind", ["node", "samples", "class"])
def test_a_request_ends_in_a_model_and_a_receipt_that_name_each_other(
    state: ServiceState, kind: str
) -> None:
    before = state.store.current()
    filed = file(state, scope(state.folder, kind))
    (worked,) = work(state)
    assert (worked.state, worked.deletions) == (State.SUCCEEDED, (filed.id,))
    stored, after = state.store.get(filed.id), state.store.current()
    assert before is not None and after is not None
    assert after.sha256 == worked.model == stored.model_after != before.sha256
    assert digest_of(state.folder / MODELS / f"{after.sha256}.safetensors") == after.sha256
    text = state.store.receipt(filed.id)
    assert text is not None
    receipt = verify_receipt(text, state.issuer.public)
    assert receipt.model == after.sha256
    predicate = receipt.predicate
    assert predicate["model_before"] == before.sha256
    network = NetworkDigest.of(build_model(Experiment.prepare(scenario()).task.model))
    assert predicate["network"] == network.digest.hex()
    assert predicate["scope"]["count"] == (3 if kind == "samples" else 1)
    assert predicate["cohort"] == {"nodes": ["0", "1", "2"], "missing": []}
    assert all(one["passed"] for one in predicate["checks"])
    assert [one["sha256"] for one in predicate["checkpoints"]] == [before.sha256]
    assert findings(state) == []


def test_the_stages_of_a_request_are_told_in_order(state: ServiceState) -> None:
    filed = file(state, scope(state.folder, "samples"))
    work(state)
    told = [(event.state, event.stage) for event in state.store.events(filed.id)]
    assert told == [
        (State.PENDING, None),
        *((State.RUNNING, stage) for stage in Stage),
        (State.SUCCEEDED, None),
    ]


def test_a_receipt_names_no_record_and_holds_no_number_of_the_model(state: ServiceState) -> None:
    filed = file(state, records_of(state.folder, 1, [11]))
    work(state)
    predicate = json.loads(
        json.dumps(
            verify_receipt(state.store.receipt(filed.id) or "", state.issuer.public).predicate
        )
    )
    assert set(predicate["scope"]) == {"kind", "count", "nodes", "classes", "sha256"}
    vectors = [value for value in predicate.values() if isinstance(value, list) and len(value) > 10]
    assert vectors == []


def test_requests_that_wait_are_removed_together_each_with_its_receipt(
    state: ServiceState,
) -> None:
    filed = [file(state, records_of(state.folder, node, [2, 4 + node]), node) for node in range(3)]
    (worked,) = work(state)
    assert set(worked.deletions) == {one.id for one in filed}
    texts = {state.store.receipt(one.id) for one in filed}
    assert len(texts) == 3
    for text in texts:
        assert verify_receipt(text or "", state.issuer.public).predicate["removed_together"] == 3
    assert len(state.store.models()) == 2
    assert findings(state) == []


def test_together_or_one_by_one_the_removed_are_the_same(state: ServiceState) -> None:
    for node in range(2):
        file(state, records_of(state.folder, node, [2]), node)
        work(state)
    lists = [
        json.loads((state.folder / NODES / f"node-{node}" / "tombstones.json").read_text())
        for node in range(2)
    ]
    assert [list(one["removed"].values()) for one in lists] == [[[2]], [[2]]]
    assert len(state.store.models()) == 3
    assert findings(state) == []


def test_a_removal_by_the_worker_is_the_method_s_own(state: ServiceState) -> None:
    """The same weights as an owner of the whole federation would get, to the last bit."""
    from fedunlearn.questions.forget import ForgetSet
    from fedunlearn.unlearning.faults import unlearn

    loaded = scenario()
    experiment = Experiment.prepare(loaded)
    base = state.store.current()
    assert base is not None
    expected: list[torch.Tensor] = []

    def body(federation: Federation) -> None:
        remover = remover_in(experiment, federation, state)
        trained = remover.model_store.load(base.sha256)
        forget = ForgetSet.of_records({1: [3, 5, 8]})
        method = experiment.methods["cubic-newton"]
        expected.append(unlearn(method, trained, federation, forget).weights)

    simulate(experiment.task, 3, body)
    file(state, scope(state.folder, "samples"))
    (worked,) = work(state, loaded)
    content = ModelFolder(state.folder / MODELS).read(worked.model or "")
    assert torch.equal(read_model(experiment.task.model(), content), expected[0])


def test_a_model_that_fails_a_gate_is_not_swapped(state: ServiceState) -> None:
    (state.folder / "worker.toml").write_text("[gates]\nrelative-update = 1e-9\n")
    before = state.store.current()
    filed = file(state, scope(state.folder, "samples"))
    (worked,) = work(state)
    assert worked.state is State.FAILED
    assert "relative_update is" in worked.reason and "at most 1e-09 is allowed" in worked.reason
    assert state.store.get(filed.id).reason == worked.reason
    assert state.store.current() == before
    assert not (state.folder / NODES / "node-1" / "tombstones.json").exists()
    assert not list((state.folder / "jobs").iterdir())
    (state.folder / "worker.toml").write_text(workplaces.OPEN_GATES)
    state.store.retry(filed.id, "operator o", now=utc_now())
    (worked,) = work(state)
    assert worked.state is State.SUCCEEDED
    assert findings(state) == []


def test_what_is_not_there_any_more_fails_with_a_reason(state: ServiceState) -> None:
    for _ in range(2):
        filed = file(state, records_of(state.folder, 1, [6]))
        (worked,) = work(state)
    assert worked.state is State.FAILED
    assert "no node has any example of 1 example of node 1" in worked.reason
    assert state.store.get(filed.id).state is State.FAILED


def test_rolled_back_it_is_retrained_without_the_removed(state: ServiceState) -> None:
    first = state.store.current()
    filed = file(state, scope(state.folder, "samples"))
    work(state)
    back = state.store.rollback("operator o", "worse for ward 3", now=utc_now())
    assert first is not None and back.sha256 == first.sha256
    assert state.store.get(filed.id).state is State.FAILED
    assert state.store.receipt(filed.id) is None
    assert findings(state) == []
    state.store.retry(filed.id, "operator o", now=utc_now())
    (worked,) = work(state)
    assert worked.state is State.SUCCEEDED
    receipt = verify_receipt(state.store.receipt(filed.id) or "", state.issuer.public)
    assert (receipt.predicate["method"], receipt.predicate["claim"]) == ("retrain", "EXACT_RETRAIN")
    assert findings(state) == []


def test_old_models_are_kept_as_the_receipts_say(state: ServiceState) -> None:
    (state.folder / "worker.toml").write_text("[retention]\nmodels = 1\n" + workplaces.OPEN_GATES)
    digests = [state.store.current().sha256]  # type: ignore[union-attr]
    for place in (1, 2, 3):
        filed = file(state, records_of(state.folder, 1, [place]))
        work(state)
        digests.append(state.store.current().sha256)  # type: ignore[union-attr]
    present = {path.stem for path in (state.folder / MODELS).glob("*.safetensors")}
    assert present == set(digests[-2:])
    receipt = verify_receipt(state.store.receipt(filed.id) or "", state.issuer.public)
    fates = {one["sha256"]: one["fate"] for one in receipt.predicate["checkpoints"]}
    assert fates[digests[-3]] == "deleted"
    assert fates[digests[-2]].startswith("retained for a rollback until ")
    state.store.rollback("operator o", "why not", now=utc_now())
    with pytest.raises(TransitionError, match="was disposed of"):
        state.store.rollback("operator o", "once more", now=utc_now())
    assert findings(state) == []


def test_a_model_kept_for_a_rollback_goes_when_its_time_is_up(state: ServiceState) -> None:
    base = state.store.current()
    file(state, scope(state.folder, "samples"))
    work(state)
    assert base is not None
    tidied = Worker(
        state.store,
        ModelFolder(state.folder / MODELS),
        NoRemover(),
        state.issuer,
        version="0",
        settings=WorkerSettings(retention=Retention(days=30)),
        clock=lambda: utc_now() + timedelta(days=31),
    ).tidy()
    assert tidied == [base.sha256]
    assert not (state.folder / MODELS / f"{base.sha256}.safetensors").exists()
    assert findings(state) == []


class NoRemover:
    """Is never asked."""

    def remove(self, job: RemovalJob, reached: object) -> None:  # type: ignore[return]
        raise AssertionError

    record_tombstones = done = remove


def test_a_job_begins_anew_where_another_has_swapped_the_model(
    state: ServiceState, two_workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = two_workers
    first = file(state, scope(state.folder, "samples"))
    real = FederationRemover.remove
    asked: list[str] = []

    def meanwhile(self: FederationRemover, job: RemovalJob, reached: object) -> object:
        asked.append(job.base)
        removed = real(self, job, reached)  # type: ignore[arg-type]
        if len(asked) == 1:
            file(state, records_of(state.folder, 2, [1]), 2)
            assert quick.work() is not None
        return removed

    monkeypatch.setattr(FederationRemover, "remove", meanwhile)
    worked = slow.work()
    assert worked is not None and worked.state is State.SUCCEEDED
    assert len(asked) == 3 and asked[0] == asked[1] != asked[2]
    models = state.store.models()
    assert models[0].parent == models[1].sha256
    assert state.store.get(first.id).model_before == models[1].sha256
    assert findings(state) == []


def test_who_has_lost_the_lease_changes_nothing(
    state: ServiceState, two_workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = two_workers
    filed = file(state, scope(state.folder, "samples"))
    real = FederationRemover.remove
    calls = 0

    def asleep(self: FederationRemover, job: RemovalJob, reached: object) -> object:
        nonlocal calls
        calls += 1
        removed = real(self, job, reached)  # type: ignore[arg-type]
        if calls == 1:
            later = utc_now() + timedelta(hours=1)
            quick._clock = lambda: later
            assert quick.work() is not None
        return removed

    monkeypatch.setattr(FederationRemover, "remove", asleep)
    with pytest.raises(LeaseLostError):
        slow.work()
    assert state.store.get(filed.id).state is State.SUCCEEDED
    assert len(state.store.all_applied()) == 1
    assert findings(state) == []


def test_a_node_that_does_not_confirm_delays_the_receipt_not_the_swap(
    state: ServiceState, two_workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = two_workers
    filed = file(state, scope(state.folder, "samples"))
    with monkeypatch.context() as patched:

        def offline(*_: object) -> None:
            raise FederationError("node 1 did not confirm")

        patched.setattr(Federation, "record_tombstones", offline)
        worked = worker.work()
    assert worked is not None
    assert (worked.state, worked.reason) == (State.RUNNING, "node 1 did not confirm")
    assert state.store.get(filed.id).state is State.RUNNING
    assert state.store.receipt(filed.id) is None
    assert state.store.current().sha256 == worked.model  # type: ignore[union-attr]
    other = file(state, records_of(state.folder, 2, [1]), 2)
    worked = worker.work()  # others have their turn until it is tried again
    assert worked is not None and worked.deletions == (other.id,)
    later = utc_now() + timedelta(minutes=2)
    worker._clock = lambda: later
    worked = worker.work()
    assert worked is not None and worked.state is State.SUCCEEDED
    assert worked.deletions == (filed.id,)
    assert len(state.store.all_applied()) == 2
    assert findings(state) == []


def test_what_a_task_says_of_its_data_reaches_no_request(
    state: ServiceState, two_workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    filed = file(state, scope(state.folder, "samples"))

    def broken(*_: object) -> None:
        raise KeyError("patient 4711")

    monkeypatch.setattr(FederationRemover, "remove", broken)
    worked = two_workers[0].work()
    assert worked is not None and worked.state is State.FAILED
    assert state.store.get(filed.id).reason == "KeyError; see the worker's log"


def test_by_recorded_summaries_no_node_is_asked_to_compute(tmp_path: Path) -> None:
    loaded = scenario(methods=["instant-cubic-newton"])
    folder = tmp_path / "state"
    workplaces.prepare(folder, loaded)
    with open_state(folder) as state:
        for node in (1, 2):
            filed = file(state, scope(folder, "node", node), node)
            (worked,) = work(state, loaded)
            assert worked.state is State.SUCCEEDED
            receipt = verify_receipt(state.store.receipt(filed.id) or "", state.issuer.public)
            assert receipt.predicate["rounds"] == 0
        assert findings(state) == []
        assert state.store.nodes_left() == {"1", "2"}


def test_what_an_interrupted_job_left_is_tidied(
    state: ServiceState, two_workers: list[Worker]
) -> None:
    models = ModelFolder(state.folder / MODELS)
    orphan = models.put(b"of a job that began anew from another model")
    part = models.folder / f"{'a' * 64}.safetensors.part"
    part.write_bytes(b"of a worker that was killed while it wrote")
    beside = models.beside("b" * 64)
    beside.mkdir()
    two_workers[1].tidy()
    assert models.digests() == {model.sha256 for model in state.store.models()}
    assert not (models.path(orphan).exists() or part.exists() or beside.exists())


def test_records_removed_by_request_are_in_no_later_batch_gradient_or_product(
    state: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the signed request to the inputs of the network: the removed never reach it again."""
    seen: set[bytes] = set()
    real = ScenarioTask.model

    def look(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        with suppress(RuntimeError):  # shapes alone, where memory is measured
            seen.update(row.numpy().tobytes() for row in inputs[0])

    def watched(self: ScenarioTask) -> torch.nn.Module:
        network = real(self)
        network.register_forward_pre_hook(look)
        return network

    inputs, _ = Experiment.prepare(scenario()).task.data(1)
    removed = {inputs[place].numpy().tobytes() for place in (3, 5, 8)}
    others = {row.numpy().tobytes() for row in inputs} - removed
    monkeypatch.setattr(ScenarioTask, "model", watched)
    file(state, scope(state.folder, "samples"))
    (worked,) = work(state)
    assert worked.state is State.SUCCEEDED
    assert removed <= seen  # to remove them, they were needed
    seen.clear()
    file(state, records_of(state.folder, 1, [20]))
    assert [one.state for one in work(state)] == [State.SUCCEEDED]

    def train_again(federation: Federation) -> None:
        experiment = Experiment.prepare(scenario())
        train(experiment, federation, [], seed=1)

    simulate(Experiment.prepare(scenario()).task, 3, train_again, records=state.folder / NODES)
    assert others - {inputs[20].numpy().tobytes()} <= seen
    assert not removed & seen
