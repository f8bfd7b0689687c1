"""What tables and reports show of a model: one column a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        key: In results.json.
        heading: Over the column.
        meaning: One sentence for the report.
        show: How a value is written.
    """

    key: str
    heading: str
    meaning: str
    show: Callable[[float], str]


def byte_unit(value: float) -> tuple[float, str]:
    """Return the unit in which a number of bytes is written, and its size in bytes."""
    size = 1.0
    for unit in ("B", "kB", "MB"):
        if value < 1000 * size:
            return size, unit
        size *= 1000
    return size, "GB"


def having_values(
    columns: Sequence[Column], rows: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[Column]:
    """Return the columns that some row has a value for."""
    present = {key for _, row in rows for key in row}
    return [column for column in columns if column.key in present]


def _share(value: float) -> str:
    return f"{100 * value:.1f}"


def _divergence(value: float) -> str:
    return f"{value:.4f}"


def _bytes(value: float) -> str:
    size, unit = byte_unit(value)
    return f"{value / size:.3g} {unit}"


def _thousandths(value: float) -> str:
    return f"{value:.3f}"


def _hundredths(value: float) -> str:
    return f"{value:.2f}"


QUALITY = (
    Column(
        "forget_js",
        "forget JS",
        "Jensen-Shannon divergence (nats) to the retrained model on the forget set; "
        "the closer to the floor the better.",
        _divergence,
    ),
    Column("retain_js", "retain JS", "The same on what stays.", _divergence),
    Column(
        "forget_accuracy",
        "forget %",
        "Accuracy on the forget set; the aim is the retrained model's, not 0.",
        _share,
    ),
    Column("retain_accuracy", "retain %", "Accuracy on what stays.", _share),
    Column("test_accuracy", "test %", "Accuracy on held-out examples.", _share),
    Column(
        "tow",
        "ToW",
        "Product over forget, retain and test of 1 - |accuracy - retrained accuracy|; 1 is best.",
        _thousandths,
    ),
    Column(
        "mia_auc",
        "MIA AUC",
        "How well a loss threshold tells forgotten from held-out examples; the aim is the "
        "retrained model's.",
        _thousandths,
    ),
    Column(
        "ulira_auc",
        "U-LiRA AUC",
        "How well margins tell forgotten from held-out examples, each held against the retrained "
        "models but the first; the aim is the retrained model's.",
        _thousandths,
    ),
    Column(
        "ulira_told_apart",
        "told apart",
        "U-LiRA over seeds: how well the margin of one forgotten example tells a model from a "
        "retrained one (AUC); 0.5 is best.",
        _thousandths,
    ),
    Column(
        "klom",
        "KLoM",
        "Divergence (nats) between the margins of retrained models and of these over seeds, 95th "
        "percentile over the forget set; few models are apart by chance.",
        _hundredths,
    ),
    Column("klom_retain", "retain KLoM", "The same on what stays.", _hundredths),
    Column("klom_test", "test KLoM", "The same on held-out examples.", _hundredths),
    Column(
        "relearn_epochs",
        "relearn",
        "Epochs of training on the forget set alone until its loss is at most 1.05 times the "
        "trained model's, 10 where that is not reached; the aim is the retrained model's, and less "
        "means that something was kept.",
        _hundredths,
    ),
    Column(
        "backdoor_success",
        "backdoor %",
        "Share of triggered test images that are given the backdoor's class; the aim is the "
        "retrained model's.",
        _share,
    ),
    Column(
        "worst_node_accuracy",
        "worst node %",
        "Lowest accuracy of a node on what stays there.",
        _share,
    ),
    Column(
        "node_accuracy_spread",
        "± nodes",
        "Standard deviation of that accuracy over nodes, in points.",
        _share,
    ),
)
COSTS = (
    Column("rounds", "rounds", "Broadcasts with their answers.", lambda value: f"{value:.0f}"),
    Column("bytes_up", "up", "Payload from nodes to server.", _bytes),
    Column("bytes_down", "down", "Payload from server to nodes.", _bytes),
    Column(
        "gradient_equivalents",
        "gradients",
        "Client compute; 1 is one gradient over all retained examples.",
        lambda value: f"{value:.1f}",
    ),
)
SECONDS = Column("seconds", "s", "Wall time on this machine.", lambda value: f"{value:.1f}")
COLUMNS = (*QUALITY, *COSTS, SECONDS)

# Left out of a narrow terminal before all others, in this order.
LEAST_TELLING = (
    "klom_test",
    "klom_retain",
    "node_accuracy_spread",
    "worst_node_accuracy",
    "ulira_auc",
)
# Measured only where a scenario asks for it, so that it stays longer; likewise in this order.
ASKED_FOR = ("ulira_told_apart", "klom", "relearn_epochs", "backdoor_success")
