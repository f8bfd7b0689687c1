"""The ClientApp: a node's share of the scenario's data."""

from pathlib import Path

from fedunlearn.flower.deployed_apps import make_client
from fedunlearn.lab.scenario_task import scenario_task

app = make_client(Path(__file__).parent, scenario_task)
