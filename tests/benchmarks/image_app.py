"""What the image app of examples/ forgets, beside the app retrained by its own training.

``python -m tests.benchmarks.image_app OUT.json [DATA_PATH] [KEY=VALUE...]`` trains the app once for
each seed, in this process; then lets a node, a class and a tenth of all records leave, by each
method, and compares predictions with the retrained app's.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, RecordDict
from torch import Tensor

from fedunlearn.evaluation.metrics import js_divergence
from fedunlearn.unlearning.fine_tune import FineTune
from fedunlearn.unlearning.rewind import Rewind
from tests.inline_grid import InlineGrid

APP = Path(__file__).resolve().parents[2] / "examples" / "images" / "forgetting"
NODES = 10
SEEDS = (0, 1)
METHODS = ("auto", "fine-tune", "rewind")


class TrainedError(Exception):
    """Ends the ServerApp's main function where it opens the removal."""


def captured(server: Any, grid: InlineGrid, context: Context) -> dict[str, Any]:
    """Run the app's own training and return what it gives to ``unlearning``."""
    taken: dict[str, Any] = {}

    def opened(*positional: object, **named: object) -> None:
        taken.update(named)
        raise TrainedError

    unlearning, server.unlearning = server.unlearning, opened
    try:
        server.app(grid, context)
    except TrainedError:
        return taken
    finally:
        server.unlearning = unlearning
    raise RuntimeError("the app has opened no removal")


def predictions(task: Any, arrays: ArrayRecord, images: Tensor) -> Tensor:
    model = task.Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    with torch.no_grad():
        return model.eval()(images).softmax(1)


def measure(config: Mapping[str, Any], seed: int, note: Callable[[dict[str, Any]], None]) -> None:
    """Measure one seed."""
    sys.path.insert(0, str(APP))
    from images import client_app, server_app, task

    from fedunlearn.flower import unlearning

    random.seed(seed)
    run = dict(config) | {"seed": seed}
    grid = InlineGrid(client_app.app, NODES)
    contexts = grid._contexts
    for one in contexts.values():
        one.run_config = run
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run)
    begun = time.perf_counter()
    given = captured(server_app, grid, context)
    seconds = time.perf_counter() - begun
    sets = [task.load_data(contexts[number + 1])[0].tensors for number in range(NODES)]
    images, labels = (torch.cat(parts) for parts in zip(*sets, strict=True))
    owners = torch.cat([torch.full((len(y),), n) for n, (_, y) in enumerate(sets)])
    places = torch.cat([torch.arange(len(y)) for _, y in sets])
    drawn = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) < 0.1
    records = {n: places[drawn & (owners == n)].tolist() for n in range(NODES)}
    cases = {
        "node": ({"nodes": [2]}, owners == 2),
        "class": ({"classes": [3]}, labels == 3),
        "records": ({"records": {n: some for n, some in records.items() if some}}, drawn),
    }
    for case, (request, leaving) in cases.items():
        outputs = {"trained": predictions(task, given["trained"], images)}
        spent: dict[str, tuple[int, float]] = {"trained": (int(run["num-server-rounds"]), seconds)}
        trained_rounds = -(-int(run["num-server-rounds"]) // 3)
        for method in ("retrain", *METHODS):
            for one in contexts.values():
                one.state = RecordDict()
            client_app.forgetting._nodes.clear()  # nodes of another run
            random.seed(seed + 100)
            torch.manual_seed(seed + 100)
            begun = time.perf_counter()
            with unlearning(grid, context, **given) as removal:
                # Others train for as many rounds as auto did, which comes before them.
                made = {
                    "fine-tune": FineTune(rounds=trained_rounds),
                    "rewind": Rewind(share=0.6, rounds=trained_rounds),
                }
                arrays = removal.forget(**request, method=made.get(method, method))
            if method == "auto":
                found = removal.result
                trained_rounds = found.settings["rounds"] + found.recovery_rounds
            spent[method] = (removal.result.rounds, time.perf_counter() - begun)
            outputs[method] = predictions(task, arrays, images)
        for method, logits in outputs.items():
            right = logits.argmax(1) == labels
            aim = outputs["retrain"]
            note(
                {
                    "case": case,
                    "seed": seed,
                    "method": method,
                    "forget": 100 * right[leaving].double().mean().item(),
                    "retain": 100 * right[~leaving].double().mean().item(),
                    "forget-js": js_divergence(logits[leaving], aim[leaving]),
                    "retain-js": js_divergence(logits[~leaving], aim[~leaving]),
                    "trained-rounds": trained_rounds,
                    "rounds": spent[method][0],
                    "seconds": spent[method][1],
                }
            )


def main(out: Path, path: str, changes: list[str]) -> None:
    """Measure all seeds and write what was found after each figure."""
    config = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    config["data-path"] = path
    for change in changes:
        key, _, value = change.partition("=")
        config[key] = json.loads(value)
    rows: list[dict[str, Any]] = []

    def note(row: dict[str, Any]) -> None:
        rows.append(row)
        out.write_text(json.dumps(rows, indent=1))

    for seed in [int(os.environ["SEED"])] if "SEED" in os.environ else SEEDS:
        measure(config, seed, note)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "", sys.argv[3:])
