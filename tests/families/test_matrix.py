"""Methods by families, as PEFT tests its own: each family of the registry with a bank, neurons, both and stored characters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dpg_fast import PersonalityModel
from dpg_fast.architecture.layers import UnsupportedArchitectureError
from tests.families.checks import CHECKS, METHODS, Case, applies, generated, problems
from tests.families.registry import FAMILIES, REFUSED, SUPPORTED, Family, NotInstalledError
from tests.model.test_wrapper import random_table

pytest.importorskip("peft", reason="PEFT is the reference here")


def expect(request: pytest.FixtureRequest, name: str, check: str) -> None:
    if (reason := FAMILIES[name].wrong.get(check)) is not None:
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


@pytest.mark.parametrize("name", SUPPORTED)
def test_bank_and_neurons_together(name: str, tmp_path: Path) -> None:
    """The compact check of each family: rows by hand, alone and without a personality, generation, unloading."""
    family = FAMILIES[name]
    case = Case(family, family.method, tmp_path)
    try:
        wrong = problems("forward", CHECKS["forward"](case))
        if family.generates and "generate" not in family.wrong:
            wrong += problems("generate", generated(case, padded=family.pads, uncached=False))
    finally:
        left = CHECKS["unload"](case)
    assert wrong + left == []


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_before_anything_is_changed(name: str, request: pytest.FixtureRequest) -> None:
    family = FAMILIES[name]
    expect(request, name, "wrap")
    base = family.build()
    classes = [type(module) for module in base.modules()]
    with pytest.raises(UnsupportedArchitectureError, match=family.refused):
        PersonalityModel.from_model(base, steering=random_table(3, 96))
    assert [type(module) for module in base.modules()] == classes
    assert "forward" not in base.__dict__


def test_families_of_other_versions_are_reported() -> None:
    with pytest.raises(NotInstalledError, match="has no NoSuchForCausalLM"):
        Family("Nobody's", "NoSuchForCausalLM").build()
    missing = [name for name, family in FAMILIES.items() if not family.installed]
    if missing:
        pytest.skip(f"the installed transformers lacks the classes of {', '.join(missing)}")


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    name, method = request.param
    made = Case(FAMILIES[name], method, tmp_path_factory.mktemp("case"))
    yield made
    if made.model._loaded:
        made.model.unload()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)  # unloading comes last
@pytest.mark.parametrize(
    "case",
    [(n, m) for n in SUPPORTED for m in METHODS if FAMILIES[n].neurons or m in ("bank", "characters")],
    indirect=True,
    ids="-".join,
)
def test_method_and_family(case: Case, check: str, request: pytest.FixtureRequest) -> None:
    if (reason := applies(case.family, case.method, check)) is not None:
        pytest.skip(reason)
    if not (case.method == "neurons" and check == "beams"):
        expect(request, case.family.name, check)
    assert problems(check, CHECKS[check](case)) == []
