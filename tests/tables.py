"""Small csv files that suites share, and where the shared data lies."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
HEART = "heart-disease-4-hospitals/heart.csv.gz"


def shared_data() -> Path | None:
    """Return the folder of the shared data, if this machine has it."""
    named = os.environ.get("FEDUNLEARN_DATA")
    places = [Path(named)] if named else []
    places += [ROOT / "shared" / "data", ROOT.parent / "shared" / "data"]
    return next((place for place in places if (place / HEART).is_file()), None)


def hospitals(seed: int = 0) -> str:
    """Return a csv like the heart data: four unlike hospitals, words, empty cells, 0 as missing."""
    generator = np.random.default_rng(seed)
    lines = ["hospital,age,chol,pain,stress,num"]
    for shift, (hospital, count) in enumerate(
        [("south", 90), ("north", 140), ("east", 60), ("west", 110)]
    ):
        for _ in range(count):
            age = generator.normal(50 + 4 * shift, 9)
            chol = 0.0 if hospital == "east" else generator.normal(240 - 10 * shift, 40)
            pain = generator.choice(["typical", "atypical", "none"], p=[0.2, 0.3, 0.5])
            stress = generator.normal(1.0, 1.0)
            risk = 0.06 * (age - 50) + 0.9 * stress + (pain == "none") - 1.2 + 0.4 * shift
            num = int(generator.random() < 1 / (1 + np.exp(-risk))) * int(generator.integers(1, 5))
            shown = "" if hospital == "west" and generator.random() < 0.4 else f"{stress:.2f}"
            lines.append(f"{hospital},{age:.0f},{chol:.0f},{pain},{shown},{num}")
    body = lines[1:]
    generator.shuffle(body)
    return "\n".join([lines[0], *body]) + "\n"
