"""The columns of tables and reports: one for each metric of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: Key of the metric in results.json.
        heading: Text over the column.
        meaning: One sentence for the legend of a report.
        show: Formats a value.
    """

    key: str
    heading: str
    meaning: str
    show: Callable[[float], str]


def byte_unit(value: float) -> tuple[float, str]:
    """Return the size in bytes and the name of the unit for a number of bytes."""
    size = 1.0
    for unit in ("B", "kB", "MB"):
        if value < 1000 * size:
            return size, unit
        size *= 1000
    return size, "GB"


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
    Column("retain_js", "retain JS", "The same divergence on the retain set.", _divergence),
    Column(
        "forget_accuracy",
        "forget %",
        "Accuracy on the forget set; the aim is the retrained model's value, not 0.",
        _share,
    ),
    Column("retain_accuracy", "retain %", "Accuracy on the retain set.", _share),
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
        "Membership inference by a threshold on the loss: area under the ROC curve for forgotten "
        "against held-out examples; the aim is the retrained model's value.",
        _thousandths,
    ),
    Column(
        "ulira_auc",
        "U-LiRA AUC",
        "Membership inference by margins, each standardised by the retrained models except the "
        "first: area under the ROC curve for forgotten against held-out examples; the aim is the "
        "retrained model's value.",
        _thousandths,
    ),
    Column(
        "ulira_pair_auc",
        "pair AUC",
        "U-LiRA over seeds: area under the ROC curve for unlearned against retrained models, by "
        "the margin of one forgotten example; 0.5 is best.",
        _thousandths,
    ),
    Column(
        "klom",
        "KLoM",
        "Divergence (nats) of the distribution of margins over seeds from that of retrained "
        "models, 95th percentile over the forget set; few models differ by chance.",
        _hundredths,
    ),
    Column("klom_retain", "retain KLoM", "The same on the retain set.", _hundredths),
    Column("klom_test", "test KLoM", "The same on held-out examples.", _hundredths),
    Column(
        "relearn_epochs",
        "relearn",
        "Epochs of training on the forget set alone until its loss is at most 1.05 times the "
        "trained model's, 10 where that is not reached; the aim is the retrained model's value, "
        "and a lower one means that the model still holds information.",
        _hundredths,
    ),
    Column(
        "backdoor_success",
        "backdoor %",
        "Share of triggered test images that are predicted as the backdoor's class; the aim is "
        "the retrained model's value.",
        _share,
    ),
    Column(
        "worst_node_accuracy",
        "worst node %",
        "Lowest accuracy of a node on its own retained examples.",
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
FLOORS = Column(
    "forget_js_floors",
    "floors",
    "Forget JS divided by the floor: the mean of one over the mean of the other.",
    "{:.2f}".format,
)
COLUMNS = (*QUALITY, *COSTS, SECONDS)
COLUMN_OF = {column.key: column for column in (*COLUMNS, FLOORS)}

# The columns that a narrow terminal does not show, in the order in which they are left out: what
# every run measures beside the main metrics, time and bytes, what a scenario has to switch on.
SECONDARY_METRICS = (
    "klom_test",
    "klom_retain",
    "node_accuracy_spread",
    "worst_node_accuracy",
    "ulira_auc",
)
OPTIONAL_METRICS = ("ulira_pair_auc", "klom", "relearn_epochs", "backdoor_success")
EXPENDABLE = (
    *(*SECONDARY_METRICS, "seconds", "bytes_down", "bytes_up", "mia_auc", "retain_js"),
    *(*OPTIONAL_METRICS, "gradient_equivalents"),
    *("forget_accuracy", "test_accuracy", "retain_accuracy", "forget_js"),
)
