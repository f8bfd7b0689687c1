"""What the server runs. It has no data."""

from ast import literal_eval

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedProx

from fedunlearn.flower import RememberingStrategy, unlearning
from hospitals.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train by FedProx."""
    config = context.run_config
    torch.manual_seed(int(config["seed"]))
    initial = ArrayRecord(Net().state_dict())
    strategy = FedProx(proximal_mu=float(config["proximal-mu"]))
    strategy = RememberingStrategy(strategy)
    result = strategy.start(grid, initial, num_rounds=int(config["num-server-rounds"]))
    arrays = result.arrays
    given = {name: config[f"forget-{name}"] for name in ("nodes", "classes", "records")}
    leaving = {name: literal_eval(str(text)) for name, text in given.items() if text}
    with unlearning(grid, context, model=Net, trained=arrays, strategy=strategy) as removal:
        arrays = removal.forget(**leaving, method=str(config["forget-method"]))
        print(removal.result)
    if config["model-file"]:
        torch.save(arrays.to_torch_state_dict(), str(config["model-file"]))
