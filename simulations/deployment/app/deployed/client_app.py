"""The ClientApp: a node's share of the scenario's data."""

from pathlib import Path

from fedunlearn.flower.deployed_apps import make_client

app = make_client(Path(__file__).parent)
