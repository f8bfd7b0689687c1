"""Csv files of hospitals: made ones, or one table divided by its column ``hospital``.

``python -m hospitals.files FOLDER`` writes four made files; ``python -m hospitals.files FOLDER
TABLE`` divides a table, which may be gzipped.
"""

import csv
import gzip
import sys
from pathlib import Path

import numpy as np

# Column, middle and spread, as they are known of such patients: no node needs another's data.
COLUMNS = {
    "age": (54, 9),
    "sex": (0.7, 0.5),
    "cp": (3, 1),
    "trestbps": (132, 18),
    "chol": (240, 60),
    "fbs": (0.15, 0.35),
    "restecg": (0.6, 0.8),
    "thalach": (140, 25),
    "exang": (0.35, 0.5),
    "oldpeak": (0.9, 1.1),
    "slope": (1.8, 0.6),
    "ca": (0.7, 0.9),
    "thal": (5, 2),
}
TARGET = "num"
MADE = 4
PATIENTS = 150


def made_rows(hospital: int) -> list[dict[str, float]]:
    """Draw the patients of a hospital; hospitals differ in age and in what they see.

    Args:
        hospital: Its number.

    Returns:
        A row for each patient.
    """
    generator = np.random.default_rng(100 + hospital)
    weights = np.random.default_rng(7).normal(size=len(COLUMNS))
    scaled = generator.normal(
        0.4 * generator.normal(size=len(COLUMNS)), 1, (PATIENTS, len(COLUMNS))
    )
    risk = scaled @ weights + 0.5 * hospital - 1 + generator.logistic(size=PATIENTS)
    return [
        {
            **{
                name: round(middle + spread * value, 1)
                for (name, (middle, spread)), value in zip(COLUMNS.items(), row, strict=True)
            },
            TARGET: int(ill),
        }
        for row, ill in zip(scaled, risk > 0, strict=True)
    ]


def write(path: Path, rows: list[dict]) -> None:
    """Write rows as csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, TARGET], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main(folder: Path, table: Path | None) -> None:
    """Write a file for each hospital."""
    folder.mkdir(parents=True, exist_ok=True)
    if table is None:
        hospitals = {f"hospital-{number}": made_rows(number) for number in range(MADE)}
    else:
        opened = gzip.open if table.suffix == ".gz" else open
        hospitals = {}
        with opened(table, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                hospitals.setdefault(row["hospital"], []).append(row)
    for name, rows in hospitals.items():
        write(folder / f"{name}.csv", rows)
        print(folder / f"{name}.csv", len(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
