"""Public names of the package mean one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import dpg_fast

PACKAGE = Path(dpg_fast.__file__).parent


def public_classes() -> dict[str, list[str]]:
    """Name of a class, or of a type alias, without an underscore -> the modules that define it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).endswith("TypeAlias"):
                names = [ast.unparse(node.target)]
            for name in names:
                if not name.startswith("_"):
                    found[name].append(path.relative_to(PACKAGE).as_posix())
    return found


def test_no_public_class_is_defined_twice() -> None:
    found = public_classes()
    assert "PersonalityModel" in found and "Row" in found
    assert {name: where for name, where in found.items() if len(where) > 1} == {}
