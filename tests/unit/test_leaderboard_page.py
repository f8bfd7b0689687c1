"""The published leaderboard is what its command made."""

from __future__ import annotations

from pathlib import Path

from fedunlearn.lab.board import load_board
from fedunlearn.reporting.documents import read_document
from fedunlearn.reporting.leaderboard import BoardScenario, Leaderboard, board_page, ranked
from fedunlearn.reporting.seed_summary import Figure, MethodSummary

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "simulations" / "leaderboard.toml"
DOCUMENT = ROOT / "docs" / "leaderboard.json"


def test_the_published_page_is_made_from_the_published_figures() -> None:
    board = read_document(DOCUMENT, Leaderboard)
    page = DOCUMENT.with_suffix(".md").read_text(encoding="utf-8")
    assert page == board_page(board)
    quick = board.command.endswith("--quick")
    assert board.command.startswith("fedunlearn leaderboard simulations/leaderboard.toml")
    declared = load_board(BOARD, quick=quick)
    assert [one.summary.name for one in board.scenarios] == list(declared.scenarios)
    assert (board.seeds, board.trials) == (declared.settings.seeds, declared.settings.trials)


def scenario(**scores: float | None) -> BoardScenario:
    board = read_document(DOCUMENT, Leaderboard)
    methods = {}
    for name, score in scores.items():
        figures = {"forget_js": Figure.of([score]), "retain_js": Figure.of([0.0])} if score else {}
        methods[name] = MethodSummary(
            figures=figures, before_recovery={}, statuses={"done": 1}, claims=("EMPIRICAL",)
        )
    first = board.scenarios[0]
    request = first.summary.requests[0].model_copy(update={"methods": methods})
    summary = first.summary.model_copy(update={"requests": (request,)})
    return first.model_copy(update={"summary": summary})


def test_methods_are_ranked_in_the_mean_and_share_places() -> None:
    one, two = scenario(a=0.1, b=0.2, c=0.2, d=None), scenario(a=0.3, b=0.1, d=0.2)
    assert ranked([one]) == [("a", 1.0), ("b", 2.5), ("c", 2.5), ("d", 4.0)]
    assert ranked([one, two]) == [("b", 1.75), ("a", 2.0), ("c", 2.5), ("d", 3.0)]
