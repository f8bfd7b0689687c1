"""What a worker does where something fails: a request of several, a node, the store, itself."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fedunlearn.errors import StoreError, VerificationError
from fedunlearn.federation.federation import Federation, OnFault
from fedunlearn.flower.simulation import simulate
from fedunlearn.lab.experiment import Experiment
from fedunlearn.node.node import TaskNode
from fedunlearn.operator.federation_remover import FederationRemover
from fedunlearn.operator.worker_loop import MODELS, NODES
from fedunlearn.questions.question import Answer, Question
from fedunlearn.requests.deletion import Scope, ScopeKind, State
from fedunlearn.requests.receipts import verify_receipt
from fedunlearn.requests.statement import class_scope
from fedunlearn.requests.store import RequestStore
from fedunlearn.scenario.loading import LoadedScenario
from fedunlearn.service.state import ServiceState, open_state
from fedunlearn.worker.gates import BOUNDS
from fedunlearn.worker.lease_renewal import lease_renewed
from fedunlearn.worker.model_folder import ModelFolder
from fedunlearn.worker.removal_job import RemovalJob, Removed
from fedunlearn.worker.worker import APART, Worker, utc_now
from tests import workplaces
from tests.workplaces import file, findings, records_of, remover_in, scenario, scope, work


def test_a_model_that_comes_again_is_not_tidied_between_its_file_and_its_name(
    state: ServiceState, two_workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolled back it is disposed of; a retry that gives it again writes the same file anew."""
    one, other = two_workers
    filed = file(state, scope(state.folder, "samples"))
    for _ in range(2):  # the second is a retraining, and so is what follows it
        assert one.work() is not None
        state.store.rollback("operator o", "to see", now=utc_now())
        state.store.retry(filed.id, "operator o", now=utc_now())
    one.tidy()
    real = RequestStore.commit
    threads: list[threading.Thread] = []

    def meanwhile(self: RequestStore, *args: object, **named: object) -> object:
        threads.append(threading.Thread(target=other.tidy))
        threads[0].start()
        threads[0].join(0.5)
        return real(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(RequestStore, "commit", meanwhile)
    worked = one.work()
    threads[0].join()
    assert worked is not None and worked.state is State.SUCCEEDED
    assert findings(state) == []


def test_one_that_cannot_be_removed_does_not_fail_the_others(state: ServiceState) -> None:
    filed = [file(state, scope(state.folder, "node", node), node) for node in range(3)]
    told = work(state)  # all of them together would leave nobody
    assert [one.state for one in told] == [
        *(State.PENDING, State.SUCCEEDED, State.SUCCEEDED, State.FAILED)
    ]
    states = [state.store.get(one.id).state for one in filed]
    assert states == [State.SUCCEEDED, State.SUCCEEDED, State.FAILED]
    said = [event.reason for event in state.store.events(filed[0].id)]
    assert APART in said and not any("node" in reason for reason in said)
    assert findings(state) == []


def test_a_worker_that_is_killed_while_it_takes_a_batch_apart(
    state: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    filed = [file(state, scope(state.folder, "node", node), node) for node in range(3)]
    with monkeypatch.context() as patched:

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(RequestStore, "retry", killed)
        with pytest.raises(KeyboardInterrupt):
            work(state)
    assert {state.store.get(one.id).state for one in filed} == {State.FAILED}
    work(state)
    states = [state.store.get(one.id).state for one in filed]
    assert states == [State.SUCCEEDED, State.SUCCEEDED, State.FAILED]


def test_asked_for_twice_it_is_not_retrained(state: ServiceState) -> None:
    """Only what was taken back is removed by retraining, not what an owner asks for again."""
    for _ in range(2):
        filed = file(state, scope(state.folder, "samples"))
        work(state)
    model = state.store.current()
    state.store.retry(filed.id, "operator o", now=utc_now())
    (worked,) = work(state)
    assert worked.state is State.FAILED
    assert state.store.current() == model


def test_another_request_for_what_was_taken_back_is_retrained(state: ServiceState) -> None:
    """Its nodes do not use it any more, and the model that is current again was trained on it."""
    file(state, records_of(state.folder, 1, [3, 5]))
    work(state)
    state.store.rollback("operator o", "why not", now=utc_now())
    filed = file(state, records_of(state.folder, 1, [5, 6]))
    (worked,) = work(state)
    assert worked.state is State.SUCCEEDED
    receipt = verify_receipt(state.store.receipt(filed.id) or "", state.issuer.public)
    assert receipt.predicate["claim"] == "EXACT_RETRAIN"


def test_an_interrupted_job_goes_on_at_once(
    state: ServiceState, two_workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    filed = file(state, scope(state.folder, "samples"))
    with monkeypatch.context() as patched:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(FederationRemover, "remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            two_workers[0].work()
    assert state.store.get(filed.id).state is State.RUNNING
    worked = two_workers[1].work()
    assert worked is not None and worked.state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (StoreError("requests.db has been busy for over 10 s; try again"), "busy"),
        (OSError(28, "No space left on device", "models/m"), "models/m cannot be used: No space"),
    ],
)
def test_what_only_the_operator_can_mend_fails_no_request(
    state: ServiceState,
    two_workers: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    says: str,
) -> None:
    filed = file(state, scope(state.folder, "samples"))
    with monkeypatch.context() as patched:

        def broken(*_: object) -> None:
            raise error

        patched.setattr(ModelFolder, "put", broken)
        with pytest.raises(StoreError, match=says):
            two_workers[0].work()
    assert state.store.get(filed.id).state is State.RUNNING
    assert two_workers[1].work() is None  # until the lease ends, lest every try is an event
    later = utc_now() + timedelta(minutes=2)
    two_workers[1]._clock = lambda: later
    worked = two_workers[1].work()
    assert worked is not None and worked.state is State.SUCCEEDED


def test_a_folder_for_models_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    with pytest.raises(StoreError, match="models cannot be created: File exists"):
        ModelFolder(tmp_path / "models")


def test_a_renewal_that_meets_a_busy_store_is_tried_again(
    state: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(state, scope(state.folder, "samples"))
    lease = state.store.lease("a", now=utc_now(), seconds=60.0)
    assert lease is not None
    real, asked = RequestStore.renew, threading.Semaphore(0)
    failures = [StoreError("busy")]

    def renew(self: RequestStore, *args: object, **named: object) -> object:
        asked.release()
        if failures:
            raise failures.pop()
        return real(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(RequestStore, "renew", renew)
    with lease_renewed(state.store, lease, 0.3, utc_now):
        assert asked.acquire(timeout=5.0) and asked.acquire(timeout=5.0)


def test_a_damaged_model_is_found_before_a_request_fails(state: ServiceState) -> None:
    filed = file(state, scope(state.folder, "samples"))
    current = state.store.current()
    assert current is not None
    path = state.folder / MODELS / f"{current.sha256}.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VerificationError, match="was changed: its sha256 is not its name"):
        work(state)
    path.write_bytes(content)
    other = scenario()
    settings = other.settings.model_copy(
        update={"model": other.settings.model.model_copy(update={"name": "mlp"})}
    )
    with pytest.raises(VerificationError, match="use the scenario that the state folder was made"):
        work(state, replace(other, settings=settings))
    assert state.store.get(filed.id).state is State.PENDING


def test_a_node_that_left_is_not_asked_to_remove_a_class(
    state: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Federation.record_tombstones
    told: list[tuple[int, ...]] = []

    def record_tombstones(self: Federation, *args: object) -> object:
        told.append(self.nodes)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Federation, "record_tombstones", record_tombstones)
    file(state, scope(state.folder, "node", 2), 2)
    file(state, class_scope(["7"]))
    assert [one.state for one in work(state)] == [State.SUCCEEDED, State.SUCCEEDED]
    assert told == [(0, 1, 2), (0, 1)]


def instant(tmp_path: Path, **unlearning: object) -> tuple[LoadedScenario, Path]:
    loaded = scenario(methods=["instant-cubic-newton"], **unlearning)
    folder = tmp_path / "state"
    workplaces.prepare(folder, loaded)
    return loaded, folder


def test_what_a_retrained_model_needs_is_recorded_anew(tmp_path: Path) -> None:
    loaded, folder = instant(tmp_path)
    with open_state(folder) as state:
        filed = file(state, scope(folder, "node", 1), 1)
        work(state, loaded)
        state.store.rollback("operator o", "why not", now=utc_now())
        state.store.retry(filed.id, "operator o", now=utc_now())
        file(state, records_of(folder, 2, [1, 2]), 2)
        assert {one.state for one in work(state, loaded)} == {State.SUCCEEDED}
        assert findings(state) == []


def test_what_a_recovered_model_needs_is_recorded_anew(tmp_path: Path) -> None:
    loaded, folder = instant(tmp_path, **{"recovery-rounds": 1})
    with open_state(folder) as state:
        for node in (1, 2):
            file(state, scope(folder, "node", node), node)
            (worked,) = work(state, loaded)
            assert worked.state is State.SUCCEEDED, worked.reason


def test_a_retraining_is_by_the_settings_of_training(tmp_path: Path, state: ServiceState) -> None:
    file(state, scope(state.folder, "samples"))
    work(state)
    state.store.rollback("operator o", "why not", now=utc_now())
    filed = state.store.list(limit=1)[0]
    state.store.retry(filed.id, "operator o", now=utc_now())
    loaded = scenario()
    training = loaded.settings.training.model_copy(update={"learning_rate": 5.0})
    changed = replace(loaded, settings=loaded.settings.model_copy(update={"training": training}))
    with open_state(workplaces.copied(state.folder, tmp_path / "other")) as other:
        (first,) = work(other, changed)
    (second,) = work(state)
    assert first.model == second.model


def test_a_node_that_was_dropped_is_asked_for_nothing_more_and_is_said_to_be_missing(
    state: ServiceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TaskNode.answer

    def answer(self: TaskNode, question: Question) -> Answer:
        if self.number == 2:
            raise RuntimeError
        return real(self, question)

    monkeypatch.setattr(TaskNode, "answer", answer)
    base = state.store.current()
    assert base is not None
    experiment = Experiment.prepare(scenario())
    job = RemovalJob("job", {"d": Scope(ScopeKind.RECORDS, ("1",), (3, 5))}, base.sha256)

    def body(federation: Federation) -> Removed:
        dropping = replace(federation, on_fault=OnFault.DROP)
        return remover_in(experiment, dropping, state).remove(job, lambda _: None)

    removed = simulate(experiment.task, 3, body, records=state.folder / NODES)
    assert (removed.nodes, removed.missing) == (("0", "1"), ("2",))
    assert set(removed.measures) == set(BOUNDS)
