"""The server, which has no data."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedunlearn.flower import RememberingStrategy, SessionSettings, unlearning
from ward.task import Net

app = ServerApp()


def make_strategy() -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, min_available_nodes=3, min_train_nodes=3)


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = RememberingStrategy(make_strategy())
    result = strategy.start(
        grid, ArrayRecord(Net().state_dict()), num_rounds=context.run_config["num-server-rounds"]
    )
    with unlearning(
        grid,
        context,
        model=Net,
        trained=result.arrays,
        strategy=strategy,
        sessions=SessionSettings() if context.run_config["folder"] == "" else None,
        num_nodes=3,
    ) as removal:
        removal.forget(nodes=removal.nodes[:1])
    print(removal.result)
