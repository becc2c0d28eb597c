"""What others do to a model before, while and after it is wrapped: forwards on instances, hooks, replaced modules."""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn

from dpg_fast import HypernetConfig, HyperNetwork, Personality, PersonalityModel
from dpg_fast.architecture.layers import UnsupportedArchitectureError, find_architecture
from dpg_fast.model.layers.reach import NoEffectError
from tests.model.characters import write_character
from tests.model.test_wrapper import greedy, personality_model, random_table
from tests.model.tiny import prompts, tiny_model

PEOPLE = [Personality("E+4 N-1"), None, Personality("O-5 C+2.5")]
IDS = prompts(3, 6)


@torch.no_grad()
def logits(model: Any, **kwargs: Any) -> Tensor:
    found: Tensor = model(IDS, **kwargs).logits
    return found


def expected() -> Tensor:
    return logits(personality_model(tiny_model("llama")), personality=PEOPLE)


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() < 1e-5 * wanted.norm())


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that is on the modules' instances, and their classes."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[name] = (type(module), {k: dict(v) if isinstance(v, dict) else v for k, v in vars(module).items()})
    found["requires_grad"] = [p.requires_grad for p in model.parameters()]
    found["values"] = {name: value.clone() for name, value in model.state_dict().items()}
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    values, others = one.pop("values"), other.pop("values")
    assert values.keys() == others.keys() and all(torch.equal(values[name], others[name]) for name in values)
    assert one.keys() == other.keys()
    for name in one:
        if isinstance(one[name], tuple):
            assert one[name][0] is other[name][0], name
            assert one[name][1].keys() == other[name][1].keys(), name
            for key, value in one[name][1].items():
                if not isinstance(value, Tensor):
                    assert value is other[name][1][key] or repr(value) == repr(other[name][1][key]), (name, key)
        else:
            assert one[name] == other[name], name


def swiglu(self: Any, x: Tensor) -> Tensor:
    return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Counting(ModelHook):
    def __init__(self) -> None:
        self.calls = 0

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


# ---------------------------------------------------------------- forwards on instances


def test_accelerate_hooks_before_and_after_wrapping(  # one device; weights that move are another matter
) -> None:
    base = dispatch_model(tiny_model("llama"), {"": "cpu"}, force_hooks=True)
    hook = Counting()
    add_hook_to_module(base.model.layers[1].mlp, hook, append=True)
    before, bare = snapshot(base), logits(base)
    model = personality_model(base)
    hook.calls = 0
    assert close(logits(model, personality=PEOPLE), expected()) and hook.calls == 1
    assert torch.equal(logits(model), bare) and hook.calls == 2
    assert model.unload() is base
    same(snapshot(base), before)
    assert torch.equal(logits(base), bare) and hook.calls == 3

    late = personality_model(tiny_model("llama"))
    logits(late, personality=PEOPLE)
    dispatch_model(late.base, {"": "cpu"}, force_hooks=True)
    assert close(logits(late, personality=PEOPLE), expected())
    assert close(logits(copy.deepcopy(late), personality=PEOPLE), expected())
    assert torch.equal(logits(copy.deepcopy(late.base)), bare)
    hooked = late.unload()
    assert torch.equal(logits(hooked), bare)
    remove_hook_from_module(hooked, recurse=True)
    assert torch.equal(logits(hooked), bare)
    assert close(logits(personality_model(hooked), personality=PEOPLE), expected())

    taken = dispatch_model(tiny_model("llama"), {"": "cpu"}, force_hooks=True)
    model = personality_model(taken)
    for layer in taken.model.layers:
        remove_hook_from_module(layer, recurse=True)
    assert close(logits(model, personality=PEOPLE), expected())
    assert torch.equal(logits(model.unload()), bare)


def test_the_class_s_own_forward_on_the_instance_is_no_obstacle() -> None:
    base = tiny_model("llama")
    for module in base.modules():
        if module is not base:
            module.forward = types.MethodType(type(module).forward, module)
    before, bare = snapshot(base), logits(base)
    model = personality_model(base)
    assert close(logits(model, personality=PEOPLE), expected()) and torch.equal(logits(model), bare)
    model.unload()
    same(snapshot(base), before)


@pytest.mark.parametrize("lora", [True, False])
def test_another_forward_of_an_mlp_is_refused_by_name(lora: bool) -> None:
    base = tiny_model("llama")
    base.model.layers[2].mlp.forward = types.MethodType(swiglu, base.model.layers[2].mlp)
    before = snapshot(base)
    with pytest.raises(
        UnsupportedArchitectureError, match=r"model\.layers\.2\.mlp .*test_surgery\.swiglu.* take it off"
    ):
        personality_model(base, lora=lora)
    same(snapshot(base), before)


def _noting(inner: Callable[..., Any], seen: list[Any]) -> Callable[..., Any]:
    def forward(x: Tensor) -> Tensor:
        seen.append(x)
        found: Tensor = inner(x)
        return found

    return forward


def test_another_forward_of_a_linear_layer_takes_part() -> None:
    base = tiny_model("llama")
    seen: list[Any] = []
    for kind in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj", "mlp.up_proj"):
        layer = base.get_submodule(f"model.layers.1.{kind}")
        layer.forward = _noting(layer.forward, seen)
    before = snapshot(base)
    model = personality_model(base)
    seen.clear()
    assert close(logits(model, personality=PEOPLE), expected())
    assert len(seen) == 4
    model.unload()
    same(snapshot(base), before)
    logits(base)
    assert len(seen) == 8


def test_layers_compiled_before_and_after_wrapping() -> None:
    base = tiny_model("llama")
    base.model.layers[0].mlp.compile(backend="eager")
    model = personality_model(base)
    assert close(logits(model, personality=PEOPLE), expected())
    base.model.layers[1].compile(backend="eager")
    layer = base.model.layers[2].mlp
    layer.forward = torch.compile(layer.forward, backend="eager")
    assert close(logits(model, personality=PEOPLE), expected())
    torch._dynamo.reset()


def test_foreign_layers_are_what_peft_makes_of_them(tmp_path: Path) -> None:
    """A layer that scales or clips: the low-rank part is added to what it gives, as in PEFT."""
    from peft import PeftModel

    class Clipped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 1.5 * super().forward(x).clamp(-0.4, 0.3)

    base = tiny_model("llama")
    for kind in ("self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"):
        base.get_submodule(f"model.layers.1.{kind}").__class__ = Clipped
    torch.manual_seed(0)
    network = HyperNetwork(HypernetConfig(rank=3, codes=6), find_architecture(base).sites)
    network.randomize_(torch.Generator().manual_seed(0), std=0.1)
    model = PersonalityModel.from_model(copy.deepcopy(base), hypernet=network)
    person = Personality("E+4 N-1")
    model.to_peft(person, tmp_path / "peft")
    assert close(logits(model, personality=person), logits(PeftModel.from_pretrained(base, str(tmp_path / "peft"))))


# ---------------------------------------------------------------- changes after wrapping


def _liger(base: Any) -> None:
    for layer in base.model.layers:
        layer.mlp.forward = types.MethodType(swiglu, layer.mlp)


def _replaced(base: Any) -> None:
    base.model.layers[1].self_attn.q_proj = nn.Linear(48, 48, bias=False)


def _plain_root(base: Any) -> None:
    base.forward = types.MethodType(type(base).forward, base)


def _wrapping(base: Any) -> None:
    for module in (base, base.model.layers[0], base.model.layers[1].mlp, base.model.layers[1].self_attn.k_proj):
        module.forward = (lambda inner: lambda *args, **kwargs: inner(*args, **kwargs))(module.forward)


class Recorder:
    def __init__(self, module: nn.Module) -> None:
        self.inner = module.forward
        self.seen: list[Any] = []

    def __call__(self, *args: Any) -> Any:
        self.seen.append(args)
        return self.inner(*args)


def _recording(base: Any) -> None:
    for layer in base.model.layers:
        layer.mlp.forward = Recorder(layer.mlp)


def _injected(base: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(target_modules=["q_proj", "gate_proj"]), base)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (_liger, r"model\.layers\.0\.mlp: it was given another forward, .*swiglu"),
        (_replaced, r"model\.layers\.1\.self_attn\.q_proj: another module"),
        (_plain_root, "the base model's forward was replaced"),
        (_wrapping, None),
        (_recording, None),
        (_injected, None),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_what_happens_after_wrapping_is_noticed(
    patch: Callable[[Any], None], message: str | None, training: bool
) -> None:
    model = personality_model(tiny_model("llama"))
    logits(model, personality=PEOPLE)
    patch(model.base)

    def call() -> Tensor:
        found: Tensor = model(IDS, personality=PEOPLE).logits
        return found.detach() if training else logits(model, personality=PEOPLE)

    if message is None:
        assert close(call(), expected())
    else:
        for _ in range(2):
            with pytest.raises(NoEffectError, match=message):
                call()
    bare = logits(model)
    assert torch.equal(logits(model.unload()), bare)


def test_layers_of_a_stack_replaced_or_patched_later_are_used() -> None:
    base = tiny_model("llama")
    model = personality_model(base)
    logits(model, personality=PEOPLE)
    gate = base.model.layers[0].mlp.gate_proj
    gate.forward = lambda x: 2 * nn.functional.linear(x, gate.weight)
    base.model.layers[1].mlp.up_proj = other = nn.Linear(48, 72, bias=False)
    changed = tiny_model("llama")
    changed.model.layers[0].mlp.gate_proj.weight.data *= 2
    changed.model.layers[1].mlp.up_proj.weight = other.weight
    wanted = logits(personality_model(changed), personality=PEOPLE)
    assert close(logits(model, personality=PEOPLE), wanted)


def test_a_tool_that_puts_back_what_it_had_found() -> None:
    base = tiny_model("llama")
    found = {layer.mlp: layer.mlp.forward for layer in base.model.layers}
    model = personality_model(base)
    for module, forward in found.items():
        module.forward = forward
    assert close(logits(model, personality=PEOPLE), expected())


def test_activations_are_read_and_changed_by_hooks() -> None:
    """Forward hooks of the activation see its input with the LoRA in it and its output as it was steered."""
    model = personality_model(tiny_model("llama"))
    mlp = model.base.model.layers[1].mlp  # type: ignore[union-attr]
    seen: dict[str, Any] = {}
    handles = [
        mlp.act_fn.register_forward_hook(lambda m, args, out: seen.update(gate=args[0], act=out)),
        mlp.down_proj.register_forward_pre_hook(lambda m, args: seen.update(steered=args[0])),
        mlp.up_proj.register_forward_hook(lambda m, args, out: seen.update(up=out)),
    ]
    assert close(logits(model, personality=PEOPLE), expected())
    assert seen["gate"].shape == (3, 6, 72)
    assert torch.allclose(seen["act"][1], nn.functional.silu(seen["gate"][1]), atol=1e-6)
    for row in (0, 2):
        assert not torch.allclose(seen["act"][row], nn.functional.silu(seen["gate"][row]), atol=1e-2)
    lora = personality_model(tiny_model("llama"), steer=False)
    other: dict[str, Any] = {}
    lora.base.model.layers[1].mlp.act_fn.register_forward_hook(lambda m, args, out: other.update(gate=args[0], act=out))  # type: ignore[union-attr]
    logits(lora, personality=PEOPLE)
    assert torch.equal(other["act"], nn.functional.silu(other["gate"]))
    logits(lora)
    assert not torch.allclose(other["gate"][0], seen["gate"][0], atol=1e-2), "the LoRA is in it"
    for handle in handles:
        handle.remove()

    handle = mlp.act_fn.register_forward_hook(lambda m, args, out: 0 * out)
    silent = tiny_model("llama")
    silent.model.layers[1].mlp.down_proj.weight.data.zero_()
    wanted = personality_model(silent)
    down = wanted.base.model.layers[1].mlp.down_proj  # type: ignore[union-attr]
    down.register_forward_pre_hook(lambda m, args: (0 * args[0],))
    assert close(logits(model, personality=PEOPLE), logits(wanted, personality=PEOPLE))
    assert not close(logits(model, personality=PEOPLE), expected())
    ids = prompts(2, 5)
    model(ids, personality=["E+4", "N+3"], labels=ids).loss.backward()  # with gradients too
    assert all(p.grad is not None for p in model.hypernet.parameters())
    handle.remove()
    count: list[int] = []
    everywhere = nn.modules.module.register_module_forward_hook(
        lambda m, args, out: count.append(1) if m is mlp.act_fn else None
    )
    try:
        assert close(logits(model, personality=PEOPLE), expected()) and count == [1]
    finally:
        everywhere.remove()


# ---------------------------------------------------------------- the model's own forward


def _method(base: Any) -> None:
    base.forward = types.MethodType(type(base).forward, base)


def _function(base: Any) -> None:
    inner = base.forward

    def forward(input_ids: Any = None, **kwargs: Any) -> Any:
        base.calls = getattr(base, "calls", 0) + 1
        return inner(input_ids=input_ids, **kwargs)

    base.forward = forward


def _compiled(base: Any) -> None:
    base.forward = torch.compile(base.forward, backend="eager")


def _hooked(base: Any) -> None:
    add_hook_to_module(base, Counting())


@pytest.mark.parametrize("patch", [_method, _function, _compiled, _hooked])
def test_the_users_forward_is_called_and_given_back(patch: Callable[[Any], None], tmp_path: Path) -> None:
    base = tiny_model("llama")
    patch(base)
    own, bare = base.__dict__["forward"], logits(base)
    calls = getattr(base, "calls", 0)
    before = snapshot(base)
    model = personality_model(base)
    assert close(logits(model, personality=PEOPLE), expected())
    assert torch.equal(
        greedy(model, IDS, personality=PEOPLE), greedy(personality_model(tiny_model("llama")), IDS, personality=PEOPLE)
    )
    if patch is _function:
        assert base.calls > calls
    write_character(tiny_model("llama"), tmp_path / "wong", "wong", seed=1, stages={})
    model.add_characters({"wong": tmp_path / "wong"})
    count = getattr(base, "calls", 0)
    assert not close(logits(model, personality=Personality(character="wong")), bare)
    if patch is _function:
        assert base.calls > count, "after add_characters() too"
        del base.calls, before[""][1]["calls"]
    model.unload()
    assert base.__dict__["forward"] is own
    if patch is not _compiled:  # what torch.compile keeps for itself is not compared
        same(snapshot(base), before)
    assert torch.equal(logits(base), bare)
    torch._dynamo.reset()


@pytest.mark.parametrize("patch", [_method, _function, _compiled, _hooked, None])
def test_a_forward_put_on_a_wrapped_model_is_kept(patch: Callable[[Any], None] | None) -> None:
    bare = logits(tiny_model("llama"))
    base = tiny_model("llama")
    _function(base)
    first = base.forward
    for _ in range(1 if patch is _hooked else 2):  # a second hook of accelerate would drop what is over the first
        model = personality_model(base)
        if patch is not None and patch is not _method:
            patch(base)
        patched = base.__dict__["forward"]
        assert close(logits(model, personality=PEOPLE), expected())
        if patch is _method:
            patch(base)
            patched = base.__dict__["forward"]
            with pytest.raises(RuntimeError, match="was replaced"):
                logits(model, personality=PEOPLE)
        model.unload()
        assert base.__dict__["forward"] is (first if patch is None else patched)
        calls = base.calls
        assert torch.equal(logits(base), bare)
        assert patch is _method or base.calls > calls, "the first patch is still inside"
    torch._dynamo.reset()


# ---------------------------------------------------------------- exact undo


def test_undo_is_exact() -> None:
    base = tiny_model("llama").train()
    base.model.layers[1].eval()
    base.model.embed_tokens.weight.requires_grad_(False)
    base.model.layers[0].mlp.gate_proj.weight.requires_grad_(False)
    base.model.layers[0].mlp.register_forward_hook(lambda *args: None)
    base.model.layers[0].mlp.up_proj.register_forward_hook(lambda *args: None)
    before = snapshot(base)
    model = personality_model(base)
    logits(model, personality=PEOPLE)
    handle = base.model.layers[1].mlp.up_proj.register_forward_hook(lambda *args: None)  # the stack is in place already
    model.unload()
    handle.remove()
    same(snapshot(base), before)
    for parameter in base.parameters():
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


def test_weights_replaced_while_wrapped_can_be_trained_afterwards() -> None:
    base = tiny_model("llama")
    model = personality_model(base)
    base.load_state_dict(tiny_model("llama", seed=3).state_dict(), assign=True)
    assert not any(p.requires_grad for p in base.parameters())
    _injected(base)
    model.unload()
    assert all(p.requires_grad for p in base.parameters())


# ---------------------------------------------------------------- inference mode, then training


def test_everything_in_inference_mode_and_training_afterwards(tmp_path: Path) -> None:
    write_character(tiny_model("llama"), tmp_path / "wong", "wong", seed=1, stages={})
    base = tiny_model("llama")
    table = random_table(3, 72)
    with torch.inference_mode():
        model = PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=3), steering=table)
        model(IDS, personality=PEOPLE)
        greedy(model, IDS, personality=PEOPLE)
        with model.speaking(PEOPLE, 3) as speaking:
            base(IDS)
            speaking.change(["E-5", "N+3", None])
            base(IDS)
        model.to_peft(Personality("E+4"), tmp_path / "out")
    with model.speaking(PEOPLE, 3) as speaking, torch.no_grad():
        base(IDS)
        with torch.inference_mode():
            speaking.change(["E-4", "N+4", None])
            base(IDS)
        speaking.change(["E-3", "N+2", None])
        base(IDS)
    model(IDS, labels=IDS, personality=PEOPLE).loss.backward()
    assert all(p.grad is not None for p in model.hypernet.parameters())
    with torch.inference_mode():
        model(IDS, personality=[Personality(E=i / 40) for i in (1, 2, 3)])
        model.add_characters({"wong": tmp_path / "wong"})
        model(IDS, personality=[Personality(character="wong"), "E+3", None])
        copied = copy.deepcopy(model)
        copied(IDS, personality=PEOPLE)
        model.unload()
    copied(IDS, labels=IDS, personality=PEOPLE).loss.backward()
    for found in (base, copied.unload()):
        assert not any(p.is_inference() for p in found.parameters())
        found(IDS, labels=IDS).loss.backward()
        assert all(p.grad is not None for p in found.parameters())


def test_a_wide_head_in_inference_mode_and_training_afterwards() -> None:
    model = PersonalityModel.from_model(tiny_model("llama"), hypernet=HypernetConfig(rank=3, hidden=8, head="wide"))
    with torch.inference_mode():
        model(IDS, personality=PEOPLE)
    model(IDS, labels=IDS, personality=PEOPLE).loss.backward()
    with torch.inference_mode():
        model(prompts(12, 4), personality=[Personality(E=i / 4) for i in range(1, 13)])  # more than there are slots
    model(IDS, labels=IDS, personality=PEOPLE).loss.backward()
    logits(model, personality=PEOPLE)
    with torch.inference_mode():
        base = model.unload()
    base(IDS, labels=IDS).loss.backward()


# ---------------------------------------------------------------- copies


def test_a_copied_model_is_independent() -> None:
    model = personality_model(tiny_model("llama"))
    model.steering_options = model.steering_options.__class__(seed=7)
    wanted = logits(model, personality=PEOPLE)
    copied = copy.deepcopy(model)
    assert copied.steering_options.seed == 7 and type(copied) is PersonalityModel
    assert torch.equal(logits(copied, personality=PEOPLE), wanted)
    mine = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    assert not mine & {p.untyped_storage().data_ptr() for p in (*copied.parameters(), *copied.buffers())}
    for one, other in ((model, copied), (copied, model)):
        before, kept = logits(one, personality=PEOPLE), logits(other, personality=PEOPLE)
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.mul_(0.5)
        assert not close(logits(one, personality=PEOPLE), before)
        assert torch.equal(logits(other, personality=PEOPLE), kept)
        one(IDS, personality=PEOPLE, labels=IDS).loss.backward()
        assert all(p.grad is None for p in other.parameters()) or other is model
    bare = logits(copied)
    model.unload()
    assert torch.equal(logits(copied), bare) and not close(logits(copied, personality=PEOPLE), bare)
    with model_lock(copied), torch.no_grad():
        personality_model(model.base)(IDS, personality=PEOPLE)  # the other's lock does not stop it
    assert all(p.requires_grad for p in copied.unload().parameters())


def model_lock(model: PersonalityModel) -> Any:
    class Held:
        def __enter__(self) -> None:
            self.free = threading.Event()
            taken = threading.Event()

            def hold() -> None:
                with model._runtime.state.lock:
                    taken.set()
                    self.free.wait(20)

            self.thread = threading.Thread(target=hold)
            self.thread.start()
            taken.wait(20)

        def __exit__(self, *args: Any) -> None:
            self.free.set()
            self.thread.join()

    return Held()


def test_averages_of_a_model() -> None:
    from torch.optim.swa_utils import AveragedModel

    model = personality_model(tiny_model("llama"))
    logits(model, personality=PEOPLE)
    average = AveragedModel(model)
    average.update_parameters(model)
    with torch.no_grad():
        for parameter in model.hypernet.parameters():
            parameter.mul_(0.5)
    average.update_parameters(model)
    found = logits(average, personality=PEOPLE)
    assert not close(found, logits(model, personality=PEOPLE)) and not close(found, logits(model))


def test_a_copied_base_is_the_bare_model() -> None:
    base = tiny_model("llama")
    _function(base)
    bare = logits(base)
    model = personality_model(base)
    logits(model, personality=PEOPLE)
    for source in (base, model.base):
        copied = copy.deepcopy(source)
        assert {name: type(m) for name, m in copied.named_modules()} == {
            name: type(m) for name, m in tiny_model("llama").named_modules()
        }
    plain = PersonalityModel(tiny_model("llama"))
    copied = copy.deepcopy(plain.base)
    assert torch.equal(logits(copied), bare) and torch.equal(greedy(copied, IDS), greedy(plain, IDS))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not logits(copied).any(), "it runs its own weights"
    assert torch.equal(logits(plain), bare)
    with model.speaking(PEOPLE, 3), torch.no_grad():
        assert not copied(IDS).logits.any()
    again = personality_model(copy.deepcopy(plain.base))
    assert close(logits(again, personality=PEOPLE), expected())
    restored = again.unload()
    assert not [name for name in restored.__dict__ if name.startswith("dpg") or name == "forward"]
    layer = copy.deepcopy(model.base.model.layers[0])  # type: ignore[union-attr]
    assert not [name for name in vars(layer.mlp) if name.startswith("dpg")]


def test_checkpointing_is_copied_and_leaves_the_original_alone() -> None:
    model = personality_model(tiny_model("llama").train())
    model.activation_checkpointing_enable()
    copied = copy.deepcopy(model)
    for one in (model, copied):
        one(IDS, personality=PEOPLE, labels=IDS).loss.backward()
    pairs = list(zip(model.hypernet.parameters(), copied.hypernet.parameters(), strict=True))
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)
    bare = copy.deepcopy(model.base)
    bare.requires_grad_(True)
    bare(IDS, labels=IDS).loss.backward()
    assert bare.model.layers[0].mlp.up_proj.weight.grad is not None  # type: ignore[union-attr]


def test_other_copies_are_refused_and_say_what_to_do(tmp_path: Path) -> None:
    import pickle

    model = personality_model(tiny_model("llama"))
    for part in (model, model.base, model.base.model.layers[0].mlp):  # type: ignore[union-attr]
        with pytest.raises(TypeError, match=r"save_pretrained\(\).*unload\(\)"):
            pickle.dumps(part)
        with pytest.raises(TypeError, match=r"save_pretrained\(\).*unload\(\)"):
            torch.save(part, tmp_path / "whole.pt")
    with pytest.raises(TypeError, match=r"copy\.deepcopy"):
        copy.copy(model)
    plain = PersonalityModel(tiny_model("llama"))
    with pytest.raises(TypeError, match="save_pretrained"):
        pickle.dumps(plain.base)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    pickle.dumps(model.unload())
    with pytest.raises(RuntimeError, match="unloaded"):
        copy.deepcopy(model)


# ---------------------------------------------------------------- running calls


def test_nothing_is_changed_while_a_call_runs(tmp_path: Path) -> None:
    write_character(tiny_model("llama"), tmp_path / "wong", "wong", seed=1, stages={})
    model = personality_model(tiny_model("llama"))
    wanted = logits(model, personality=PEOPLE)

    def refused() -> None:
        with pytest.raises(RuntimeError, match=r"unload\(\) while"):
            model.unload()
        with pytest.raises(RuntimeError, match=r"add_characters\(\) while"):
            model.add_characters({"wong": tmp_path / "wong"})

    with model.speaking(PEOPLE, 3):
        refused()
    handle = model.base.model.layers[1].register_forward_hook(lambda *args: refused())  # type: ignore[union-attr]
    # A watched layer adds and normalises by itself, so the last bits may differ.
    torch.testing.assert_close(logits(model, personality=PEOPLE), wanted)
    logits(model)
    logits(model.base)
    handle.remove()
    inside, go = threading.Event(), threading.Event()

    def wait(*args: Any) -> None:
        inside.set()
        go.wait(20)

    found: list[Tensor] = []
    handle = model.base.model.layers[1].register_forward_hook(wait)  # type: ignore[union-attr]
    thread = threading.Thread(target=lambda: found.append(logits(model, personality=PEOPLE)))
    thread.start()
    inside.wait(20)
    refused()
    go.set()
    thread.join()
    handle.remove()
    torch.testing.assert_close(found[0], wanted)
    model.add_characters({"wong": tmp_path / "wong"})
    assert close(logits(model, personality=PEOPLE)[1], logits(model)[1])
    model.unload()


def test_a_call_inside_a_call_leaves_the_outer_one_its_personality() -> None:
    model = personality_model(tiny_model("llama"))
    wanted = logits(model, personality=PEOPLE)
    busy: list[int] = []

    def again(*args: Any) -> None:
        if not busy:
            busy.append(1)
            logits(model)

    model.base.model.layers[0].register_forward_hook(again)  # type: ignore[union-attr]
    assert close(logits(model, personality=PEOPLE), wanted) and busy


# ---------------------------------------------------------------- every MLP is verified


def sparse_gemma3n(pattern: list[float]) -> Any:
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    config = Gemma3nTextConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=len(pattern),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=97,
        laurel_rank=4,
        num_kv_shared_layers=0,
        layer_types=["full_attention"] * len(pattern),
        activation_sparsity_pattern=[float(share) for share in pattern],
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return Gemma3nForCausalLM(config).eval()


@pytest.mark.parametrize("pattern", [[0, 0.95], [0.95, 0], [0, 0.95, 0]])
def test_each_mlp_is_verified_and_a_sparse_one_keeps_its_own_forward(pattern: list[float], tmp_path: Path) -> None:
    from peft import PeftModel

    base = sparse_gemma3n(pattern)
    bare, person = logits(base), Personality("E+4 N-1")
    own = copy.deepcopy(base)
    before = snapshot(own)
    model = personality_model(own)
    adapters = model._runtime._surgery.mlp_adapters
    assert [adapters[layer].fused for layer in range(len(pattern))] == [not share for share in pattern]
    found = logits(model, personality=PEOPLE)
    assert close(found[1], bare[1]) and not close(found[0], bare[0])
    lora = personality_model(copy.deepcopy(base), steer=False)
    lora.to_peft(person, tmp_path / "peft")
    assert close(logits(lora, personality=person), logits(PeftModel.from_pretrained(base, str(tmp_path / "peft"))))
    same(snapshot(model.unload()), before)
