"""Enrolment counts who is there, and offers what can be done about who is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from fedunlearn.errors import ForgetSetError, MissingAnswerError
from fedunlearn.flower.client_app import make_client_app
from fedunlearn.flower.server_app import open_federation
from fedunlearn.flower.simulation import simulate
from fedunlearn.progress import Silent
from fedunlearn.questions.forget import ForgetSet
from tests.federations import TinyTask
from tests.inline_grid import InlineGrid


@pytest.mark.parametrize(("there", "said"), [(0, "0 of 5"), (1, "1 of 5"), (4, "4 of 5")])
def test_the_nodes_that_are_there_are_counted_and_named(there: int, said: str) -> None:
    grid = InlineGrid(make_client_app(TinyTask()), there)
    with pytest.raises(MissingAnswerError) as caught:
        open_federation(grid, 5, progress=Silent(), deadline_s=0.6)
    assert str(caught.value).startswith(f"{said} nodes enrolled within 0.6 s")
    if there > 1:
        assert ": nodes 0, 1, 2, 3; start the others" in str(caught.value)


def test_a_leaver_that_is_gone_need_not_be_asked() -> None:
    with pytest.raises(ForgetSetError) as caught:
        simulate(
            TinyTask(),
            3,
            lambda federation: federation.objective(
                ForgetSet.of_nodes(7), weight_decay=0.0, only=[7]
            ),
        )
    assert "node 7 must be asked and is not enrolled" in str(caught.value)
    assert "gradient = 'recorded' or 'retained'" in str(caught.value)


def test_a_nodes_own_folder_for_records_is_used(tmp_path: Path) -> None:
    grid = InlineGrid(make_client_app(TinyTask()), 2)
    for number, context in enumerate(grid._contexts.values()):
        assert isinstance(context, Context) and isinstance(context.state, RecordDict)
        context.node_config["records"] = str(tmp_path / f"of-{number}")
    with open_federation(grid, 2, progress=Silent()) as federation:
        roots = {one.root for one in federation.enrolments.values()}
        assert None not in roots and len(roots) == 2
        assert federation.record_tombstones("d", ForgetSet.of_records({1: [0, 2]})) == {1: 2}
    assert (tmp_path / "of-1" / "tombstones.json").is_file()
    assert (tmp_path / "of-0" / "secret.key").is_file()
