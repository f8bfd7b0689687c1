"""What was removed for good takes part in nothing any more: counted where examples are used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from flwr.app import Message
from torch import Tensor, nn

from fedunlearn.commitments import Commitments
from fedunlearn.errors import FederationError, MissingAnswerError, NodeLeftError, TaskError
from fedunlearn.federation.federation import Federation
from fedunlearn.federation.trained_model import TrainedModel
from fedunlearn.flower.client_app import make_client_app
from fedunlearn.flower.server_app import open_federation
from fedunlearn.flower.simulation import simulate
from fedunlearn.node.node import TaskNode
from fedunlearn.node.records import COMMITMENTS, TOMBSTONES, NodeRecords, record_bytes
from fedunlearn.node.tombstones import Tombstones
from fedunlearn.parameters import initial_weights
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet, Part
from fedunlearn.risk.local_rules import LocalPlan
from fedunlearn.risk.products import Curvature
from fedunlearn.risk.task import Examples
from fedunlearn.settings import TrainingSettings
from fedunlearn.unlearning.registry import make_method
from tests.federations import TinyTask
from tests.inline_grid import InlineGrid

SETTINGS = TrainingSettings(rounds=3, local_epochs=1, batch_size=4, learning_rate=0.05)
GONE = (0, 3, 10)
HELD = 12
SEEN: set[int] = set()


class Numbered:
    """Each example is a class of its own: whoever computes a loss with one is found out."""

    def model(self) -> nn.Module:
        return nn.Linear(2, 3 * HELD).double()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        SEEN.update(targets.flatten().tolist())
        return nn.functional.cross_entropy(outputs, targets)

    def data(self, node: int) -> Examples:
        inputs = torch.randn(HELD, 2, generator=torch.Generator().manual_seed(node)).double()
        return inputs, torch.tensor(numbers(node, range(HELD)))

    def test_data(self) -> Examples:
        return self.data(0)


def numbers(node: int, places: Iterable[int]) -> list[int]:
    return [HELD * node + place for place in places]


def open_nodes(folder: Path, body: Callable[[Federation], None], **options: object) -> None:
    simulate(Numbered(), 3, body, records=folder, **options)  # type: ignore[arg-type]


def trained_in(federation: Federation, without: ForgetSet | None = None) -> TrainedModel:
    initial = initial_weights(Numbered().model, 0)
    return federation.fit(initial, SETTINGS, without=without)


def use_everything(federation: Federation, forget: ForgetSet) -> None:
    """Let nodes do all that they can be asked for, on what is theirs."""
    trained = trained_in(federation)
    objective = federation.objective(forget, weight_decay=1e-3, without=forget.leavers)
    point = trained.weights
    basis = torch.eye(3, len(point)).double()
    objective.gradients(point)
    objective.losses(point, basis)
    for curvature in Curvature:
        objective.products(point, basis, curvature)
    list(objective.group_gradients(point, by_label=True))
    for part in Part:
        list(objective.summaries(point, basis, Curvature.GGN, part=part, by_label=False))
    for name in ("cubic-newton", "stochastic-cubic-newton", "fine-tune", "scrub", "fed-osd"):
        make_method(name, {}).unlearn(trained, federation, forget)
    for name in ("instant-cubic-newton", "fed-eraser"):
        method = make_method(name, {})
        initial = initial_weights(Numbered().model, 0)
        recorded = federation.fit(initial, SETTINGS, record=method.to_record())
        method.unlearn(recorded, federation, forget)


def test_removed_records_are_in_no_later_batch_gradient_or_product(tmp_path: Path) -> None:
    removed = set(numbers(1, GONE))
    others = set(range(3 * HELD)) - removed
    another = ForgetSet.of_records({1: [1, 5], 2: [2]})

    def first(federation: Federation) -> None:
        use_everything(federation, another)
        assert removed <= SEEN  # before, the same work does use them
        assert federation.record_tombstones("first", ForgetSet.of_records({1: GONE})) == {1: 3}
        SEEN.clear()
        use_everything(federation, another)

    SEEN.clear()
    open_nodes(tmp_path, first)
    assert others == SEEN

    def later(federation: Federation) -> None:
        assert federation.examples == {0: 12, 1: 9, 2: 12}
        use_everything(federation, another)

    SEEN.clear()
    open_nodes(tmp_path, later)  # the nodes started anew
    assert others == SEEN


def test_a_class_that_was_removed_stays_removed(tmp_path: Path) -> None:
    task = TinyTask()

    def body(federation: Federation) -> None:
        everyone = {node: len(task.data(node)[1]) for node in range(3)}
        held = {node: int((task.data(node)[1] == 2).sum()) for node in range(3)}
        assert federation.record_tombstones("class 2", ForgetSet.of_class(2)) == held
        objective = federation.objective(ForgetSet.of_class(2), weight_decay=0.0)
        objective.gradient(initial_weights(task.model, 0))
        assert objective.forgotten == 0
        assert objective.retained == sum(everyone.values()) - sum(held.values())

    simulate(task, 3, body, records=tmp_path)


def test_a_node_that_left_is_refused_and_refuses(tmp_path: Path) -> None:
    def leaving(federation: Federation) -> None:
        assert federation.record_tombstones("node 2", ForgetSet.of_nodes(2)) == {2: 12}
        with pytest.raises(NodeLeftError, match="node 2: has left"):
            trained_in(federation)
        with pytest.raises(NodeLeftError, match="node 2: has left"):
            objective = federation.objective(ForgetSet.of_nodes(2), weight_decay=0.0)
            objective.gradients(initial_weights(Numbered().model, 0))

    def without(federation: Federation) -> None:
        assert federation.nodes == (0, 1)
        SEEN.clear()
        use_everything(federation, ForgetSet.of_records({1: [4]}))
        assert not SEEN & set(numbers(2, range(HELD)))

    open_nodes(tmp_path, leaving)
    open_nodes(tmp_path, without)  # the node says itself that it left
    (tmp_path / "node-2" / TOMBSTONES).unlink()
    open_nodes(tmp_path, without, refused=(2,))  # and the server knows it


def test_without_a_folder_a_node_says_that_nothing_is_final() -> None:
    def body(federation: Federation) -> None:
        with pytest.raises(TaskError, match="node 1: keeps no list of removed examples; give it"):
            federation.record_tombstones("some", ForgetSet.of_records({1: [0]}))

    simulate(Numbered(), 3, body)


def test_a_federation_that_cannot_tell_its_nodes_says_so(tmp_path: Path) -> None:
    def body(federation: Federation) -> None:
        federation.send_tombstones = None
        with pytest.raises(FederationError, match="cannot record on its nodes"):
            federation.record_tombstones("some", ForgetSet.of_records({1: [0]}))

    open_nodes(tmp_path, body)


def test_a_list_only_grows_and_is_shared(tmp_path: Path) -> None:
    here, elsewhere = Tombstones(tmp_path / "list.json"), Tombstones(tmp_path / "list.json")
    here.record("a", [1, 2])
    assert elsewhere.refresh() and not elsewhere.refresh()
    elsewhere.record("b", [4])
    elsewhere.record("b", [4])
    assert here.refresh()
    for tombstones in (here, elsewhere, Tombstones(tmp_path / "list.json")):
        tombstones.refresh()
        assert tombstones.stays(5).tolist() == [True, False, False, True, False]
    here.leave("c")
    assert elsewhere.refresh() and elsewhere.has_left
    assert not elsewhere.stays(5).any()


DAMAGED = (
    *("", "{}", "[]", "\xff"),
    '{"version": 2, "left": [], "removed": {}}',
    '{"version": 1, "left": "d", "removed": {}}',
    '{"version": 1, "left": [], "removed": {"d": [-1]}}',
)


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_list_is_refused_not_forgotten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(TaskError, match=r"list\.json: is no list of tombstones of version 1"):
        Tombstones(path).refresh()


def test_lists_that_grow_at_once_keep_all(tmp_path: Path) -> None:
    """Several processes may tell a node what was removed, each with a list of its own."""
    together = threading.Barrier(8)

    def grow(number: int) -> None:
        mine = Tombstones(tmp_path / "list.json")
        together.wait()
        for step in range(5):
            mine.record(f"{number}-{step}", [number * 5 + step])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(grow, range(8)))
    whole = Tombstones(tmp_path / "list.json")
    whole.refresh()
    assert not whole.stays(40).any()


def test_a_list_of_other_data_is_refused(tmp_path: Path) -> None:
    tombstones = Tombstones(tmp_path / "list.json")
    tombstones.record("d", [7])
    with pytest.raises(TaskError, match=r"hold 7 examples and list\.json names number 7; restore"):
        tombstones.stays(7)


def test_a_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TaskError, match="cannot be made: Not a directory; name one"):
        NodeRecords(tmp_path / "file" / "node")
    records = NodeRecords(tmp_path / "node")
    (records.folder / TOMBSTONES).mkdir()
    with pytest.raises(TaskError, match=r"tombstones\.json cannot be read: Is a directory"):
        records.tombstones.refresh()
    (records.folder / TOMBSTONES).rmdir()
    (records.folder / "secret.key").mkdir()
    with pytest.raises(TaskError, match=r"cannot be used: Is a directory"):
        TaskNode(Numbered(), 1, records=records).enrol()


def test_a_node_without_its_secret_says_so(tmp_path: Path) -> None:
    TaskNode(Numbered(), 1, records=NodeRecords(tmp_path)).enrol()
    (tmp_path / "secret.key").unlink()
    with pytest.raises(TaskError, match=r"secret\.key is missing, which salts"):
        TaskNode(Numbered(), 1, records=NodeRecords(tmp_path)).enrol()


def test_a_node_whose_data_changed_answers_nothing(tmp_path: Path) -> None:
    """Not only when it enrols: its list names places in the data that it committed to."""
    TaskNode(Numbered(), 1, records=NodeRecords(tmp_path)).enrol()
    changed = TaskNode(Numbered(), 2, records=NodeRecords(tmp_path))
    with pytest.raises(TaskError, match="not those that this node committed to"):
        changed.train(initial_weights(Numbered().model, 0), LocalPlan(1, 4, 0.1, 0.0, (1, 1, 1)))


def test_a_node_commits_once_to_its_records_in_their_order(tmp_path: Path) -> None:
    node = TaskNode(Numbered(), 1, records=NodeRecords(tmp_path))
    enrolled = node.enrol()
    assert enrolled == TaskNode(Numbered(), 1, records=NodeRecords(tmp_path)).enrol()
    assert (enrolled.examples, enrolled.records) == (12, 12)
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    kept = Commitments.load(tmp_path / COMMITMENTS)
    assert (kept.root, kept.size) == (enrolled.root, enrolled.records)
    other = TaskNode(Numbered(), 1, records=NodeRecords(tmp_path / "other"))
    assert other.enrol().root != enrolled.root  # salted


def test_changed_data_are_not_those_that_enrolled(tmp_path: Path) -> None:
    TaskNode(Numbered(), 1, records=NodeRecords(tmp_path)).enrol()
    with pytest.raises(TaskError, match="not those that this node committed to"):
        TaskNode(Numbered(), 2, records=NodeRecords(tmp_path)).enrol()


def test_every_byte_of_a_record_counts() -> None:
    inputs, targets = torch.zeros(2, 3), torch.tensor([0, 1])
    zero, one = record_bytes(inputs, targets)
    assert zero != one
    other = [*record_bytes(inputs.double(), targets), *record_bytes(inputs + 1, targets)]
    assert len({zero, one, *other}) == 6


class LateGrid(InlineGrid):
    """Its last node comes when the others have been asked already."""

    def get_node_ids(self) -> list[int]:
        known = list(super().get_node_ids())
        return known if self.asked else known[:-1]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = super().push_messages(messages)
        self.asked = True
        return sent

    asked = False


def test_a_node_that_left_does_not_stand_for_one_that_is_missing(tmp_path: Path) -> None:
    def opened(grid: InlineGrid, deadline_s: float) -> Federation:
        return open_federation(grid, 2, progress=Silent(), refused=(0,), deadline_s=deadline_s)

    app = make_client_app(Numbered(), tmp_path)
    with opened(LateGrid(app, 3), 30.0) as federation:
        assert federation.nodes == (1, 2)
    with pytest.raises(MissingAnswerError, match="1 of 2 nodes enrolled"):
        opened(InlineGrid(app, 2), 0.2)


def test_a_node_that_left_may_fail_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / "node-0").mkdir()
    (tmp_path / "node-0" / TOMBSTONES).write_text("not a list")

    def body(federation: Federation) -> None:
        assert federation.nodes == (1, 2)

    open_nodes(tmp_path, body, refused=(0,))
    with pytest.raises(TaskError, match="no list of tombstones"):
        open_nodes(tmp_path, body)
