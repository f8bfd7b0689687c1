"""What the server runs. It has no data."""

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedProx

from hospitals.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train by FedProx."""
    config = context.run_config
    torch.manual_seed(int(config["seed"]))
    initial = ArrayRecord(Net().state_dict())
    strategy = FedProx(proximal_mu=float(config["proximal-mu"]))
    result = strategy.start(grid, initial, num_rounds=int(config["num-server-rounds"]))
    arrays = result.arrays
    if config["model-file"]:
        torch.save(arrays.to_torch_state_dict(), str(config["model-file"]))
