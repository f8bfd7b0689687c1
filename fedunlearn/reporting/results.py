"""results.json: numbers as numbers, and nothing that is not one."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(results: dict[str, Any]) -> str:
    """Return results as a JSON document; values that are not finite are left out."""
    return json.dumps(_finite(results), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items() if not _is_hole(inner)}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value if not _is_hole(inner)]
    return value


def _is_hole(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
