"""Results as JSON files: numpy values, enums and undefined numbers included."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.util.files import write_text


def write_results(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write JSON, atomically.

    Raises:
        ValueError: a value that JSON cannot hold (nan).
    """
    write_text(Path(path), json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def json_ready(value: Any) -> Any:
    """``value`` in JSON types.

    nan and infinities become None, arrays and tuples lists, dataclasses objects, an Enum its value, keys texts.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_ready(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key.value if isinstance(key, Enum) else key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return json_ready(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return None if isinstance(value, float) and not math.isfinite(value) else value
