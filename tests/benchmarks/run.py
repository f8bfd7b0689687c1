"""Measures what the cost accounting assumes and what the README claims, and writes bench.json."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from tests.benchmarks import deletions, instant_step, kills, round_seconds, session_memory
from tests.benchmarks.memory import node_memory
from tests.benchmarks.products import product_costs
from tests.benchmarks.server_memory import server_memory

# Each measures something and returns the keys that it adds to the report.
PARTS: Mapping[str, Callable[[], Mapping[str, object]]] = {
    "products": product_costs,
    "memory": node_memory,
    "server_memory": server_memory,
    "instant_step": instant_step.instant_step,
    "round_seconds": round_seconds.round_seconds,
    "session_memory": session_memory.session_memory,
    "kills": kills.kills,
    "deletions": deletions.deletions,
}

# What a figure, or those below a key, should keep to.
BOUNDS = {
    "hvp_over_gradient": "<= 1.8",
    "ggn_over_gradient": "<= 1.3",
    "curvlinops_over_hvp": ">= 1.5",
    "curvlinops_over_ggn": ">= 1.5",
    "memory.resnet18_product_peak_mib": "<= 3072",
    "server_memory.step_peak_mib": "<= bound_mib below",
    **instant_step.BOUNDS,
    **round_seconds.BOUNDS,
    **session_memory.BOUNDS,
    **kills.BOUNDS,
    **deletions.BOUNDS,
}


def rounded(value: object) -> object:
    """Round the numbers in a report to four digits after the point."""
    if isinstance(value, Mapping):
        return {key: rounded(below) for key, below in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def lines(report: Mapping[str, object], above: str = "") -> Iterator[str]:
    """Tell one figure a line, with its bound."""
    for key, value in report.items():
        name = f"{above}.{key}" if above else key
        if isinstance(value, Mapping):
            yield from lines(value, name)
        else:
            bound = BOUNDS.get(name, BOUNDS.get(above, ""))
            yield f"{name:48} {value:>12}  {bound}".rstrip()


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; left out, all")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; use {', '.join(PARTS)}")
    torch.set_num_threads(1)
    report: dict[str, object] = {}
    for name in arguments.parts or PARTS:
        print(f"measuring {name} ...", file=sys.stderr)
        report.update(PARTS[name]())
    report = {key: rounded(value) for key, value in report.items()}
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines(report)))


if __name__ == "__main__":
    main()
