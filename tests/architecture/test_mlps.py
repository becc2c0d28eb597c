"""MLPs of any name and kind, made up here: what is found, what is computed, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpg_fast import HypernetConfig, Personality, PersonalityModel
from dpg_fast.architecture.finder import MlpFinder, activation_of, is_activation
from dpg_fast.architecture.layers import UnsupportedArchitectureError, find_architecture
from dpg_fast.architecture.mlps import ACTIVATIONS
from tests.model.test_wrapper import greedy, random_table
from tests.model.tiny import prompts, tiny_model

WIDTH, NEURONS = 48, 72


class Module(nn.Module):
    """An MLP whose parts have any names; ``compute`` is given the parts."""

    def __init__(self, parts: dict[str, nn.Module], compute: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def gated(names: tuple[str, str, str], act: str, order: tuple[int, ...], as_module: bool) -> Module:
    gate, up, down = names
    parts: dict[str, nn.Module] = {
        gate: nn.Linear(WIDTH, NEURONS),
        up: nn.Linear(WIDTH, NEURONS, bias=False),
        down: nn.Linear(NEURONS, WIDTH),
    }
    parts = {names[i]: parts[names[i]] for i in order}
    if as_module:
        parts["nonlinearity"] = {"silu": nn.SiLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh")}[act]

    def compute(m: Any, x: Tensor) -> Tensor:
        function = m.nonlinearity if as_module else ACTIVATIONS[act]
        return m.get_submodule(down)(function(m.get_submodule(gate)(x)) * m.get_submodule(up)(x))

    return Module(parts, compute)


def merged(up_first: bool) -> Module:
    def compute(m: Any, x: Tensor) -> Tensor:
        a, b = m.inner(x).chunk(2, -1)
        return m.outer(F.silu(b) * a if up_first else F.silu(a) * b)

    return Module({"inner": nn.Linear(WIDTH, 2 * NEURONS), "outer": nn.Linear(NEURONS, WIDTH)}, compute)


def plain(act: nn.Module, down_first: bool = False) -> Module:
    parts: dict[str, nn.Module] = {"one": nn.Linear(WIDTH, NEURONS), "two": nn.Linear(NEURONS, WIDTH), "f": act}
    if down_first:
        parts = dict(reversed(parts.items()))
    return Module(parts, lambda m, x: m.two(m.f(m.one(x))))


def scaled() -> Module:
    """Gated with factors and a clip: not the plain formula, so that it keeps its own forward."""
    parts = {n: nn.Linear(*s) for n, s in (("a", (WIDTH, NEURONS)), ("b", (WIDTH, NEURONS)), ("c", (NEURONS, WIDTH)))}
    return Module(
        {**parts, "f": nn.SiLU()}, lambda m, x: 0.5 * m.c(m.f(0.7 * m.a(x)).clamp(max=2.0) * m.b(x).clamp(-2, 2))
    )


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


def with_mlps(make: Any) -> Any:
    """A Llama whose MLPs are replaced."""
    base = tiny_model("llama")
    torch.manual_seed(3)
    for layer in base.model.layers:
        layer.mlp = make()
        for parameter in layer.mlp.parameters():
            nn.init.normal_(parameter, 0, 0.15)
    return base.eval()


@pytest.mark.parametrize("as_module", [True, False])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gate_and_up_are_told_apart_whatever_their_names_and_order(act: str, as_module: bool) -> None:
    for order in itertools.permutations(range(3)):
        for names in (("w1", "w3", "w2"), ("x", "y", "z"), ("up", "gate", "out")):
            module = gated(names, act, order, as_module)
            layout = MlpFinder().layout(module)
            assert layout is not None
            assert (layout.gate, layout.up, layout.down) == names
            assert layout.act == ("nonlinearity" if as_module else None)
            assert activation_of(module, layout) == act


@pytest.mark.parametrize("up_first", [True, False])
def test_halves_of_a_merged_layer_are_told_apart(up_first: bool) -> None:
    layout = MlpFinder().layout(merged(up_first))
    assert layout is not None
    assert (layout.merged, layout.down, layout.up_first) == ("inner", "outer", up_first)


def test_layers_that_are_no_mlp_are_not_taken_for_one() -> None:
    def attention(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        return m.o(m.f(m.q(x)) @ mask)

    mixes = Module(
        {
            "a": nn.Linear(WIDTH, NEURONS),
            "b": nn.Linear(NEURONS, WIDTH),
            "c": nn.Linear(WIDTH, NEURONS),
            "f": nn.SiLU(),
        },
        lambda m, x: m.b(m.f(m.a(x)).cumsum(-2) * m.c(x)),
    )
    finder = MlpFinder()
    assert finder.layout(mixes) is None  # rows are not kept apart
    other = Module(
        {"q": nn.Linear(WIDTH, WIDTH), "k": nn.Linear(WIDTH, NEURONS), "o": nn.Linear(NEURONS, WIDTH)}, attention
    )
    assert finder.layout(other) is None
    assert finder.layout(Module({"q": nn.Linear(WIDTH, WIDTH)}, lambda m, x: m.q(x))) is None


def test_activations_are_known_by_what_they_do() -> None:
    for act in (nn.ReLU(), nn.SiLU(), Squared(), nn.Hardtanh(), nn.PReLU()):
        assert is_activation(act)
    for other in (
        nn.Identity(),
        nn.Dropout(0.1),
        nn.LayerNorm(WIDTH),
        nn.RMSNorm(257),
        nn.Softmax(-1),
        nn.Linear(257, 257),
    ):
        assert not is_activation(other)


KINDS: dict[str, Any] = {
    "w1 w3 w2": lambda: gated(("w1", "w3", "w2"), "silu", (0, 1, 2), False),
    "up before gate": lambda: gated(("b", "a", "c"), "gelu", (1, 0, 2), True),
    "merged": lambda: merged(False),
    "merged, up first": lambda: merged(True),
    "factors": scaled,
    "plain": lambda: plain(nn.GELU()),
    "plain, down first": lambda: plain(nn.ReLU(), True),
    "plain, squared": lambda: plain(Squared()),
    "sequential": lambda: nn.Sequential(nn.Linear(WIDTH, NEURONS), nn.ReLU(), nn.Linear(NEURONS, WIDTH)),
}
FUSED = ("w1 w3 w2", "up before gate", "merged", "merged, up first")


@pytest.mark.parametrize("kind", KINDS)
def test_bank_and_neurons_of_any_mlp(kind: str) -> None:
    """Against merged weights and a hook behind the activation, on a copy."""
    people = [Personality("E+4 N-2"), None, Personality("O-5")]
    base, bare = with_mlps(KINDS[kind]), with_mlps(KINDS[kind])
    table = random_table(3, NEURONS)
    torch.manual_seed(5)
    model = PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=3), steering=table)
    network: Any = model.hypernet
    network.randomize_(torch.Generator().manual_seed(1), std=0.1)
    assert all(a.fused == (kind in FUSED) for a in model._runtime._surgery.mlp_adapters.values())
    ids = prompts(3, 7)
    with torch.no_grad():
        found = model(ids, personality=people).logits
        calm = model(ids, personality=people, steer_from=99).logits
    for row, person in enumerate(people):
        expected = _by_hand(bare, network, table, person, ids[row : row + 1], kind)
        assert (found[row] - expected).norm() < 1e-5 * expected.norm()
        if person is not None:
            assert (calm[row] - found[row]).norm() > 1e-3 * found[row].norm(), "neurons have no effect"
    loss = model(ids, personality=people).logits.square().mean()
    loss.backward()
    assert all(network.bank.B(site).grad.abs().sum() > 0 for site in network.sites)
    fresh = with_mlps(KINDS[kind])
    with torch.no_grad():
        assert torch.equal(model.unload()(ids).logits, fresh(ids).logits)


def _by_hand(bare: Any, network: Any, table: Any, person: Any, ids: Tensor, kind: str) -> Tensor:
    from torch.func import functional_call

    from dpg_fast.model.calibration import Calibration
    from tests.families.checks import behind_activation

    weights, handles = {}, []
    if person is not None:
        named = dict(bare.named_parameters())
        for name, (A, B) in network.materialise(person).items():
            weights[f"{name}.weight"] = named[f"{name}.weight"] + network.config.scale * (B @ A)
        strengths = torch.tensor(Calibration().strengths(person))
        active = sum(1 << pole for pole in range(10) if strengths[pole] > 0)
        for mlp in find_architecture(bare).mlps:
            capped = (table.clamp_mask[mlp.layer] & active) != 0
            add = strengths @ table.add[mlp.layer]

            def steer(module: nn.Module, inputs: Any, v: Tensor, capped: Tensor = capped, add: Tensor = add) -> Tensor:
                return torch.where(capped, v.clamp(max=0), v) + add

            handles += behind_activation(mlp, steer)
    try:
        with torch.no_grad():
            return functional_call(bare, weights, (ids,)).logits[0]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain, squared", "factors"])
def test_own_forwards_compile_and_generate(kind: str) -> None:
    model = PersonalityModel.from_model(with_mlps(KINDS[kind]), steering=random_table(3, NEURONS))
    ids = prompts(2, 6)
    people = ["E+5", None]
    expected = greedy(model, ids, personality=people)
    assert not torch.equal(expected[0], greedy(model, ids)[0])
    assert torch.equal(expected[1], greedy(model, ids)[1])
    with torch.no_grad():
        plain_logits = model(ids, personality=people).logits
        model.compile(backend="eager", fullgraph=True)
        assert torch.allclose(model(ids, personality=people).logits, plain_logits, atol=1e-6)


def test_function_without_a_module_and_without_the_formula_is_refused() -> None:
    def clipped() -> Module:
        module = gated(("w1", "w3", "w2"), "silu", (0, 1, 2), False)
        module.compute = lambda m, x: m.w2(F.silu(m.w1(x)) * m.w3(x)).clamp(-0.01, 0.01)
        return module

    base = with_mlps(clipped)
    with pytest.raises(UnsupportedArchitectureError, match=r"layers\.0\.mlp .* as a function"):
        PersonalityModel.from_model(base, steering=random_table(3, NEURONS))
    odd = with_mlps(lambda: gated(("gate_proj", "up_proj", "down_proj"), "silu", (0, 1, 2), True))
    odd.model.layers[2].mlp.compute = lambda m, x: m.down_proj(F.silu(m.gate_proj(x)) * m.up_proj(x).tanh())
    with pytest.raises(UnsupportedArchitectureError, match=r"layers\.2\.mlp .* does not call each of"):
        PersonalityModel.from_model(odd, steering=random_table(3, NEURONS))


def test_each_mlp_is_checked_by_itself() -> None:
    """Llama with a clip in one layer: that layer keeps its own forward, the others are fused."""
    base = tiny_model("llama")
    original = type(base.model.layers[1].mlp)

    class Clipped(original):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).clamp(-0.01, 0.01)

    base.model.layers[1].mlp.__class__ = Clipped
    model = PersonalityModel.from_model(base, hypernet=HypernetConfig(), steering=random_table(3, NEURONS))
    assert [a.fused for a in model._runtime._surgery.mlp_adapters.values()] == [True, False, True]
    ids = prompts(2, 5)
    with torch.no_grad():
        assert torch.allclose(model(ids, personality=[None, "E+5"]).logits[0], model(ids).logits[0], atol=1e-5)


def test_dropout_inside_an_mlp_stays() -> None:
    module = gated(("w1", "w3", "w2"), "silu", (0, 1, 2), True)

    def make() -> Module:
        module = gated(("w1", "w3", "w2"), "silu", (0, 1, 2), True)
        module.drop = nn.Dropout(0.5)
        inner = module.compute
        module.compute = lambda m, x: m.drop(inner(m, x))
        return module

    assert MlpFinder().layout(module) is not None
    model = PersonalityModel.from_model(with_mlps(make), hypernet=HypernetConfig())
    model.train()
    ids = prompts(1, 5)
    with torch.no_grad():
        assert not torch.equal(model(ids, personality="E+1").logits, model(ids, personality="E+1").logits)


def test_what_is_adapted_is_said() -> None:
    text = find_architecture(tiny_model("llama")).describe()
    assert text.splitlines()[:2] == ["LlamaForCausalLM: 3 layers", "  all 3 layers: 72 neurons of a gated MLP (silu)"]
    assert "all 3 layers: LoRA: self_attn.q_proj" in text
    assert "left" not in text
    model = PersonalityModel.from_model(
        tiny_model("llama"), hypernet=HypernetConfig(targets=("q_proj",), first_layer=1)
    )
    assert model.describe().splitlines()[1:3] == [
        "  2 of 3 layers: LoRA: self_attn.q_proj",
        "  1 of 3 layers: left as they are: self_attn.q_proj",
    ]
    assert "neurons" not in model.describe()


@pytest.mark.parametrize("name", ["GPT-2", "OPT", "Llama 4, dense", "LFM2", "Zamba 2"])
def test_descriptions_are_read_by_models_of_other_names(name: str) -> None:
    from tests.families.registry import FAMILIES

    base = FAMILIES[name].build()
    model = PersonalityModel.from_model(
        base,
        hypernet=HypernetConfig(rank=2, encoder="text", text_features=3),
        tokenizer=lambda text, return_tensors: {
            "input_ids": torch.tensor([[2 + sum(map(ord, word)) % 90 for word in text.split()][:100]])
        },
    )
    network: Any = model.hypernet
    network.encoder.fit(24)
    network.randomize_(torch.Generator().manual_seed(1), std=0.2)
    with torch.no_grad():
        for parameter in network.trunk.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        logits = model(prompts(2, 5)[:1].repeat(2, 1), personality=["E+5", "E-5"]).logits
    assert (logits[0] - logits[1]).norm() > 1e-3 * logits[0].norm()


def test_published_directory_is_written_for_transposed_layers(tmp_path: Path) -> None:
    """GPT-2's Conv1D keeps its weights [in, out]; PEFT merges the adapter into it."""
    peft = pytest.importorskip("peft")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, n_inner=40, vocab_size=97, n_positions=32)).eval()
    model = PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=3))
    model.hypernet.randomize_(torch.Generator().manual_seed(1), std=0.2)  # type: ignore[operator, union-attr]
    ids = prompts(1, 6)
    with torch.no_grad():
        found, bare = model(ids, personality="E+5").logits, model(ids).logits
    model.to_peft(Personality("E+5"), tmp_path / "adapter")
    rival = peft.PeftModel.from_pretrained(model.unload(), str(tmp_path / "adapter")).merge_and_unload()
    with torch.no_grad():
        expected = rival(ids).logits
    assert (expected - bare).norm() > 1e-2 * bare.norm()
    assert (found - expected).norm() < 1e-5 * expected.norm()
