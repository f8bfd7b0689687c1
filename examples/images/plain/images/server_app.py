"""What the server runs."""

from collections.abc import Iterable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg

from images.task import Net

app = ServerApp()


class FedAdamForWeights(FedAdam):
    """FedAdam for the weights; the statistics of BatchNorm are the nodes' averages.

    A step of Adam has no respect for what a statistic is: a variance may become negative.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate what the nodes trained."""
        replies = list(replies)
        averages, _ = FedAvg.aggregate_train(self, server_round, replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is not None and averages is not None:
            for name in arrays:
                if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                    arrays[name] = averages[name]
        return arrays, metrics


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train with a share of the nodes in every round."""
    config = context.run_config
    torch.manual_seed(int(config["seed"]))
    initial = ArrayRecord(Net().state_dict())
    strategy = FedAdamForWeights(
        fraction_train=float(config["fraction-train"]),
        eta=float(config["server-learning-rate"]),
        beta_1=0.5,
        tau=0.01,
    )
    result = strategy.start(
        grid,
        initial,
        num_rounds=int(config["num-server-rounds"]),
        train_config=ConfigRecord({"learning-rate": float(config["learning-rate"])}),
    )
    arrays = result.arrays
    if config["model-file"]:
        torch.save(arrays.to_torch_state_dict(), str(config["model-file"]))
