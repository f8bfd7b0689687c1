"""The ServerApp: runs the scenario that the run config names."""

from pathlib import Path

from fedunlearn.experiments.deployed import run_deployed
from fedunlearn.flower.deployed_apps import make_server

app = make_server(Path(__file__).parent, run_deployed)
