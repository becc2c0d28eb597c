"""`verify()` passes on sound models of every kind, finds each planted fault, and leaves the model as it was."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dpg_fast import PersonalityModel
from dpg_fast.architecture.layers import UnsupportedArchitectureError
from dpg_fast.cli.app import app
from dpg_fast.compat import transformers as names
from dpg_fast.model import speaking
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.layers import surgery
from dpg_fast.model.layers.stacks import Stack
from dpg_fast.model.verification.bare import difference
from dpg_fast.personality.scores import Pole
from tests.model.test_wrapper import PEOPLE, greedy, personality_model
from tests.model.tiny import prompts, tiny_model
from tests.support.doubles import DOUBLES

Patch = pytest.MonkeyPatch


def wrapped(family: str = "llama", **options: Any) -> Any:
    return personality_model(tiny_model(family), **options)


def failed(model: Any, **options: Any) -> set[str]:
    return {check.name for check in model.verify(quick=True, **options).failures}


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
def test_sound_models(family: str) -> None:
    found = wrapped(family).verify()
    assert found.ok and found.require() is found, str(found)
    assert {check.outcome for check in found.checks} == {"ok"}
    assert len(found.checks) == 7 + 10, "five traits, each by the hypernetwork and by the neurons"
    for check in found.checks:
        assert check.bound is not None and check.bound < 1e-3, "a bound above what a fault does finds nothing"


@pytest.mark.parametrize("parts", [{"lora": False}, {"steer": False}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_part_alone(parts: dict[str, bool], dtype: torch.dtype) -> None:
    model = personality_model(tiny_model("llama", dtype=dtype), **parts)
    found = model.verify([prompts(1, 5)[0], prompts(1, 9)[0]], quick=True)
    assert found.ok and len(found.checks) == 7 + 5, str(found)


def test_prints() -> None:
    found = wrapped(lora=False).verify(quick=True)
    assert "left padding changes nothing" in str(found) and found.table().row_count == len(found.checks)


# ---------------------------------------------------------------- planted faults


def entered(patch: Patch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """The slots of a call's rows are others."""
    own = speaking.Speaking.__enter__

    def enter(self: Any) -> Any:
        made = own(self)
        if self.active:
            self.row_slots = change(self.row_slots)
        return made

    patch.setattr(speaking.Speaking, "__enter__", enter)


def rolled(patch: Patch, _: Any) -> None:
    """Rows of a batch are given each other's slots."""
    entered(patch, lambda slots: slots.roll(1))


def leaky(patch: Patch, _: Any) -> None:
    """Beside others, a None row is given slot 0."""
    entered(patch, lambda slots: slots.clamp(min=0))


def past_is(patch: Patch, change: Callable[[Any], Any]) -> None:
    own = speaking.forward_shape

    def shape(*args: Any) -> Any:
        rows, length, past, kept = own(*args)
        return rows, length, change(past), kept

    patch.setattr(speaking, "forward_shape", shape)


def overlooked_cache(patch: Patch, _: Any) -> None:
    past_is(patch, lambda _: 0)


def one_behind(patch: Patch, _: Any) -> None:
    """The cache is taken to hold one token less: the first new token is not steered."""
    past_is(patch, lambda past: max(0, (past or 0) - 1))


def no_names(patch: Patch, _: Any) -> None:
    """No argument of the model's forward is known by name or by type."""
    patch.setattr(names, "CACHE_NAMES", ("gone",))
    patch.setattr(names, "is_cache", lambda value: False)
    patch.setattr(names, "MASK_NAME", "gone")


def pads_counted_out(patch: Patch, _: Any) -> None:
    """Of the padded batch, which is longer than any prompt, the prompt's last tokens are steered."""
    own = speaking.Speaking.bind

    def bind(self: Any, *args: Any) -> Any:
        start, longest = self.steer_from, 11
        if isinstance(start, int) and start > longest:
            self.steer_from = start - 3
        return own(self, *args)

    patch.setattr(speaking.Speaking, "bind", bind)


def one_end_off(_: Patch, model: Any) -> None:
    model.calibration = Calibration({Pole.parse("E-"): 0.0})


def fresh_bank(_: Patch, model: Any) -> None:
    with torch.no_grad():
        for site in model.hypernet.sites:
            model.hypernet.bank.B(site).zero_()


def weights_moved(patch: Patch, _: Any) -> None:
    """Stacking spoils a bit of the base's weights."""
    own = Stack._build

    def build(self: Any, *args: Any) -> None:
        own(self, *args)
        self.layers[0].weight.data[0, 0] += 1.0

    patch.setattr(Stack, "_build", build)


def something_left(patch: Patch, _: Any) -> None:
    own = surgery.Surgery.undo

    def undo(self: Any) -> None:
        module = self.changed[0]
        own(self)
        module.note = 1

    patch.setattr(surgery.Surgery, "undo", undo)


def still_frozen(patch: Patch, model: Any) -> None:
    own, seen = PersonalityModel.unload, []

    def unload(self: Any) -> Any:
        base = own(self)
        seen.append(0)
        if len(seen) > 1:
            next(base.parameters()).requires_grad_(False)
        return base

    patch.setattr(PersonalityModel, "unload", unload)


def own_forward(_: Patch, model: Any) -> None:
    mlp = model.base.model.layers[1].mlp
    mlp.forward = types.MethodType(type(mlp).__mro__[2].forward, mlp)


EVERYTHING = {f"ends of {letter} differ (neurons)" for letter in "OCEAN"} | {
    *(f"ends of {letter} differ (hypernetwork)" for letter in "OCEAN"),
    *("a None row equals the bare model", "a row alone equals itself in the batch"),
    *("cached equals uncached", "left padding changes nothing"),
}
FAULTS: dict[Callable[[Patch, Any], None], set[str]] = {
    rolled: {"a None row equals the bare model", "a row alone equals itself in the batch"},
    leaky: {"a None row equals the bare model", "ends of O differ (hypernetwork)"},  # slot 0 is the first end's
    overlooked_cache: EVERYTHING - {name for name in EVERYTHING if "hypernetwork" in name},
    one_behind: {"cached equals uncached"},
    no_names: {"cached equals uncached"},
    pads_counted_out: {"left padding changes nothing"},
    one_end_off: {"ends of E differ (neurons)"},
    fresh_bank: {f"ends of {letter} differ (hypernetwork)" for letter in "OCEAN"},
    weights_moved: {"no personality equals the bare model", "a None row equals the bare model", "unload is exact"},
    something_left: {"unload is exact"},
    still_frozen: {"unload is exact"},
    own_forward: {"every changed module is reached"},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_planted_faults(fault: Callable[[Patch, Any], None], monkeypatch: Patch) -> None:
    model = wrapped()
    fault(monkeypatch, model)
    found = model.verify(quick=True)
    assert {check.name for check in found.failures} >= FAULTS[fault], str(found)
    with pytest.raises(RuntimeError, match="Llama"):
        found.require()
    exact = {one_behind, pads_counted_out, one_end_off, fresh_bank, something_left, still_frozen, own_forward, leaky}
    if fault in exact:
        assert {check.name for check in found.failures} == FAULTS[fault], str(found)


@pytest.mark.parametrize("name", DOUBLES)
def test_doubles_of_the_library_are_right_or_fail(name: str) -> None:
    ids = prompts(4, 7)
    wanted = greedy(wrapped(), ids, personality=PEOPLE)
    try:
        model = personality_model(DOUBLES[name].build())
    except UnsupportedArchitectureError:
        return
    good = model.verify([prompts(1, 5)[0], prompts(1, 9)[0]], quick=True)
    try:
        right = torch.equal(greedy(model, ids, personality=PEOPLE), wanted)
    except (RuntimeError, ValueError):
        right = False
    assert good.ok == right, str(good)


# ---------------------------------------------------------------- the model afterwards


@pytest.mark.parametrize("fault", [None, overlooked_cache, something_left])
def test_the_model_is_as_before(fault: Any, monkeypatch: Patch) -> None:
    model = wrapped()
    model.base.generation_config.do_sample = True
    model.base.generation_config.top_k = 3
    model.train()
    model.base.model.layers[0].eval()
    calibration = model.calibration = Calibration({Pole.parse("E+"): 0.7})
    options, config = model.steering_options, model.base.generation_config
    ids = prompts(4, 7)
    before = model(ids, personality=PEOPLE, labels=ids)
    before.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.hypernet.named_parameters()}
    model.zero_grad()
    modes = {name: module.training for name, module in model.named_modules()}
    if fault is not None:
        fault(monkeypatch, model)
    model.verify(quick=True)
    monkeypatch.undo()
    assert model.base.generation_config is config and config.do_sample
    assert model.calibration is calibration and model.steering_options is options
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert not any(p.requires_grad for p in model.base.parameters())
    after = model(ids, personality=PEOPLE, labels=ids)
    assert torch.equal(before.logits, after.logits)
    after.loss.backward()
    for name, p in model.hypernet.named_parameters():
        assert torch.equal(gradients[name], p.grad)
    base = model.unload()
    assert all(p.requires_grad for p in base.parameters())


def test_checkpointing_goes_on() -> None:
    ids = prompts(4, 7)
    gradients = []
    for checks in (False, True):
        model = wrapped()
        model.train()
        model.activation_checkpointing_enable()
        if checks:
            assert model.verify(quick=True).ok
        model(ids, personality=PEOPLE, labels=ids).loss.backward()
        gradients.append([p.grad for p in model.hypernet.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_what_cannot_be_verified() -> None:
    with pytest.raises(ValueError, match="nothing to verify"):
        PersonalityModel(tiny_model("llama")).verify()
    model = wrapped()
    for wrong in ("text", [], [torch.ones(3)], [torch.ones(2, 3, dtype=torch.long)]):
        with pytest.raises(ValueError, match="prompts are"):
            model.verify(wrong)
    with model.speaking("E+4", 1), pytest.raises(RuntimeError, match="calls are running"):
        model.verify()
    model.unload()
    with pytest.raises(RuntimeError, match="unloaded"):
        model.verify()


def test_rounding_above_the_effect_is_said() -> None:
    """A personality too weak to be told from rounding is no proof of equality, and its ends fail."""
    model = wrapped(steer=False)
    with torch.no_grad():
        for site in model.hypernet.sites:
            model.hypernet.bank.B(site).mul_(1e-7)
    found = model.verify(quick=True)
    assert not found.ok and "cannot tell" in {check.outcome for check in found.checks}


def test_difference() -> None:
    a = torch.tensor([[1.0, 2.0, 3.0]]).double()
    assert difference(a, a + 5) < 1e-12, "a constant is no difference"
    assert difference(a, 2 * a) == pytest.approx(0.5)
    assert difference(torch.tensor([[1.0, float("nan"), 3.0]]).double(), a) == float("inf")
    hidden = torch.tensor([[1.0, -float("inf"), 3.0]]).double()
    assert difference(hidden, hidden) == 0 and difference(hidden, a) == float("inf")


# ---------------------------------------------------------------- the command


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
def test_the_command(monkeypatch: Patch) -> None:
    arguments = [
        "verify",
        "--quick",
        "--adapter",
        "smollm2",
        "--prompt",
        "Hello there.",
        "--prompt",
        "How was your day?",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "every check passed" in result.output, result.output
    overlooked_cache(monkeypatch, None)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "some checks failed" in result.output


def test_the_command_says_what_it_takes() -> None:
    for arguments, message in (
        (["--dtype", "int8"], "'int8' is not one of"),
        (["--base-model", "other"], "give an --adapter"),
        (["--character", "marit"], "NAME=DIRECTORY"),
    ):
        result = CliRunner().invoke(app, ["verify", *arguments])
        assert result.exit_code == 2 and message in result.output
