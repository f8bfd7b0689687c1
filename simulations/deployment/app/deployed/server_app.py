"""The ServerApp: runs the scenario that the run config names."""

from pathlib import Path

from fedunlearn.flower.deployed_apps import make_server
from fedunlearn.lab.deployed import run_deployed

app = make_server(Path(__file__).parent, run_deployed)
