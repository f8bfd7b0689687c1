"""What the server runs."""

from ast import literal_eval
from functools import partial

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedunlearn.flower import RememberingStrategy, unlearning
from texts.task import arrays_of, build_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train by FedAvg; only adapters and head travel."""
    config = context.run_config
    initial = ArrayRecord(arrays_of(build_model(context)))
    strategy = FedAvg()
    strategy = RememberingStrategy(strategy)
    result = strategy.start(grid, initial, num_rounds=int(config["num-server-rounds"]))
    arrays = result.arrays
    given = {name: config[f"forget-{name}"] for name in ("nodes", "classes", "records")}
    leaving = {name: literal_eval(str(text)) for name, text in given.items() if text}
    model = partial(build_model, context)
    with unlearning(grid, context, model=model, trained=arrays, strategy=strategy) as removal:
        arrays = removal.forget(**leaving, method=str(config["forget-method"]))
        print(removal.result)
    print(f"{sum(array.numpy().size for array in arrays.values())} numbers travelled a round")
