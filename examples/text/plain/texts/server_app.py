"""What the server runs."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from texts.task import arrays_of, build_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train by FedAvg; only adapters and head travel."""
    config = context.run_config
    initial = ArrayRecord(arrays_of(build_model(context)))
    strategy = FedAvg()
    result = strategy.start(grid, initial, num_rounds=int(config["num-server-rounds"]))
    arrays = result.arrays
    print(f"{sum(array.numpy().size for array in arrays.values())} numbers travelled a round")
