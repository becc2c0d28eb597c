"""What a wrapped model of any family has to do, each as a number: 0 is exact, None where it does not apply.

References are made by hand on a copy of the base: LoRA pairs are merged into the weights, and a hook behind each MLP's
activation adds and caps what the steering table says. PEFT reads what ``to_peft`` wrote as a second reference. Where the base
model itself is not exact (rows apart, cache, padding), its own error is measured in the same way and stands beside.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from dpg_fast import Character, HypernetConfig, HyperNetwork, Personality, PersonalityModel, SteeringTable
from dpg_fast.architecture.layers import Architecture, find_architecture
from dpg_fast.architecture.mlps import ACTIVATIONS, Mlp, gate_and_up
from dpg_fast.hypernet import from_peft
from dpg_fast.model.calibration import Calibration
from tests.families.registry import Family, shared_model
from tests.model.test_wrapper import random_table

METHODS = ("bank", "neurons", "both", "characters")
PEOPLE = (Personality("E+4 N-2"), None, Personality("O-5 C+2.5"))
NAMES = ("ann", "bob")
CAST = (Character("ann"), None, Character("bob"))
LENGTH, NEW = 9, 5
SHORT = 4
"""Padding tokens of the last row where a prompt is padded."""
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
}
EXACT = 1e-5
"""Relative error of float32 logits that sums in another order account for."""


class Case:
    """A family wrapped for one method; the base is unwrapped at the end.

    Attributes:
        model: the wrapped model.
        bare: a copy of the base made before.
        people: one personality for each of three rows, the second None.
        ids: int64 [3, LENGTH].
    """

    def __init__(self, family: Family, method: str, folder: Path, base: nn.Module | None = None) -> None:
        self.family, self.method, self.folder = family, method, folder
        self.base = shared_model(family.name) if base is None else base
        self.bare = copy.deepcopy(self.base)
        self.architecture: Architecture = find_architecture(self.bare, dense_only=family.dense_only)
        self.people: tuple[Any, ...] = CAST if method == "characters" else PEOPLE
        self.ids = torch.randint(2, 90, (3, LENGTH), generator=torch.Generator().manual_seed(1))
        network: Any = None
        self.table: SteeringTable | None = None
        if method != "neurons":
            network = self._network()
        if method == "characters":
            for seed, name in enumerate(NAMES):
                profile = self._network(seed + 3)
                profile.to_peft(Personality("E+3 A-4"), folder / name, base_model="base")
            network = from_peft({name: folder / name for name in NAMES})
        if method in ("neurons", "both"):
            self.table = random_table(self.architecture.num_layers, self.architecture.intermediate, strength=1.2)
            if family.dense_only:
                self.table.origin["dense_only"] = True
        self.network = network
        self.model = PersonalityModel.from_model(self.base, hypernet=network, steering=self.table)

    def _network(self, seed: int = 0) -> HyperNetwork:
        torch.manual_seed(seed)
        network = HyperNetwork(
            HypernetConfig(rank=3, codes=6, alpha=6.0, dense_only=self.family.dense_only), self.architecture.sites
        )
        network.randomize_(torch.Generator().manual_seed(seed), std=0.1)
        return network

    @property
    def lora(self) -> bool:
        return self.network is not None

    def logits(self, ids: Tensor, people: Any, **kwargs: Any) -> Tensor:
        return values(self.model(ids, personality=people, **kwargs))

    def expected(self, row: int, ids: Tensor | None = None, steer_from: int = 0, **kwargs: Any) -> Tensor:
        """Logits [1, T, vocabulary] of one row, by hand."""
        person = self.people[row]
        ids = self.ids[row : row + 1] if ids is None else ids
        merged = self.merged(person)
        with self.hooked(person, steer_from):
            return values(functional_call(self.bare, merged, (ids,), kwargs))

    def merged(self, person: Any) -> dict[str, Tensor]:
        """The adapted weights by name; gradients reach the network."""
        if person is None or self.network is None:
            return {}
        weights = dict(self.bare.named_parameters())
        scale = self.network.config.scale
        return {
            f"{name}.weight": weights[f"{name}.weight"] + self._oriented(name, scale * (B @ A))
            for name, (A, B) in self.network.materialise(person).items()
        }

    def _oriented(self, name: str, delta: Tensor) -> Tensor:
        """GPT-2 keeps its weights [in, out]."""
        return delta.T if type(self.bare.get_submodule(name)).__name__ == "Conv1D" else delta

    @contextmanager
    def hooked(self, person: Any, steer_from: int) -> Iterator[None]:
        """The bare copy steers one row's neurons from a token on."""
        handles = []
        if person is not None and self.table is not None:
            strengths = torch.tensor(Calibration().strengths(person))
            for mlp in self.architecture.mlps:
                add = strengths @ self.table.add[mlp.layer]
                active = sum(1 << pole for pole in range(10) if strengths[pole] > 0)
                capped = (self.table.clamp_mask[mlp.layer] & active) != 0
                handles += _steer(mlp, functools.partial(_steered, add=add, capped=capped, first=steer_from))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _steered(v: Tensor, add: Tensor, capped: Tensor, first: int) -> Tensor:
    """``v`` [..., T, I] with one person's neurons capped and added to, from token ``first`` on."""
    late = torch.arange(v.shape[-2]) >= first
    return torch.where(late[:, None], torch.where(capped, v.clamp_max(0), v) + add, v)


def _steer(mlp: Any, steered: Callable[[Tensor], Tensor]) -> list[Any]:
    """Hooks that put ``steered`` behind an MLP's activation, or, where that is a function, before its last product."""
    if mlp.act_module is not None:
        return [mlp.act_module.register_forward_hook(lambda module, inputs, output: steered(output))]
    down = mlp.module.get_submodule(mlp.layout.down)
    if not mlp.layout.gated:
        return [down.register_forward_pre_hook(lambda module, inputs: (steered(inputs[0]),))]
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    def again(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        if mlp.layout.merged is not None:
            gate, up = mlp.halves(seen[mlp.layout.merged])
        else:
            gate, up = seen[mlp.layout.gate], seen[mlp.layout.up]
        v = FUNCTIONS[mlp.act](gate)
        torch.testing.assert_close(v * up, inputs[0])  # or this is no reference
        return (steered(v) * up,)

    hooks = [
        mlp.module.get_submodule(name).register_forward_hook(keep(name))
        for name in mlp.layout.linears
        if name != mlp.layout.down
    ]
    return [*hooks, down.register_forward_pre_hook(again)]


def values(output: Any) -> Tensor:
    """Logits, or hidden states of a model without a head."""
    found: Tensor = output.logits if "logits" in output else output.last_hidden_state
    return found


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative, by norm; infinite where it is not finite."""
    difference = float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))
    return difference if difference == difference else float("inf")


class Forward(NamedTuple):
    """Errors of a forward of three rows, the second without a personality.

    Attributes:
        by_hand: against the merged and hooked copy.
        none: of the row without a personality against the bare model.
        alone: of each row alone against the batch.
        bare_alone: the same of the bare model.
        change: by how much the personality changes the logits (relative).
    """

    by_hand: float
    none: float
    alone: float
    bare_alone: float
    change: float


@torch.no_grad()
def forward(case: Case) -> Forward:
    found = case.logits(case.ids, list(case.people))
    plain = values(case.bare(case.ids))
    rows = range(3)
    by_hand = max(error(found[row], case.expected(row)[0]) for row in rows)
    alone = max(error(case.logits(case.ids[row : row + 1], case.people[row])[0], found[row]) for row in rows)
    bare_alone = max(error(values(case.bare(case.ids[row : row + 1]))[0], plain[row]) for row in rows)
    change = min(error(found[row], plain[row]) for row in (0, 2))
    return Forward(by_hand, error(found[1], plain[1]), alone, bare_alone, change)


class Generated(NamedTuple):
    """Errors of greedy generation with a cache, prompts padded on the left.

    Attributes:
        cached: logits of each step against one forward over the whole text, by hand, alone and without padding.
        bare: the same of the bare model.
        same_uncached: ``use_cache=False`` gives the same tokens.
        change: by how much the personality changes the logits (relative) from the second token on.
    """

    cached: float
    bare: float
    same_uncached: bool
    change: float


@torch.no_grad()
def generated(case: Case, padded: bool = True, uncached: bool = True) -> Generated:
    ids, mask = case.ids.clone(), torch.ones_like(case.ids)
    pads = [0, 0, SHORT if padded else 0]
    for row, pad in enumerate(pads):
        ids[row, :pad], mask[row, :pad] = 0, 0
    options: dict[str, Any] = {
        "attention_mask": mask,
        "do_sample": False,
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    people = list(case.people)
    found = case.model.generate(ids, personality=people, **options)
    plain = case.bare.generate(ids, **options)
    errors: dict[str, list[float]] = {"found": [], "plain": []}
    change: list[float] = []
    for row, pad in enumerate(pads):
        steps = {name: torch.stack(out.logits, 1)[row] for name, out in (("found", found), ("plain", plain))}
        text = {name: out.sequences[row : row + 1, pad:-1] for name, out in (("found", found), ("plain", plain))}
        start = LENGTH - pad
        wanted = case.expected(row, text["found"], steer_from=start)[0, start - 1 :]
        bare = values(case.bare(text["plain"]))[0, start - 1 :]
        errors["found"].append(error(steps["found"], wanted))
        errors["plain"].append(error(steps["plain"], bare))
        if people[row] is not None:
            change.append(error(wanted[1:], values(case.bare(text["found"]))[0, start:]))
    same = True
    if uncached:
        again = case.model.generate(ids, personality=people, use_cache=False, **options)
        same = torch.equal(again.sequences, found.sequences)
    return Generated(max(errors["found"]), max(errors["plain"]), same, min(change))


@torch.no_grad()
def beams(case: Case) -> tuple[bool, bool]:
    """Whether each row of a beam search is what it is alone; the same of the bare model."""

    def search(model: Any, ids: Tensor, **kwargs: Any) -> Tensor:
        mask = torch.ones_like(ids)
        options = {"num_beams": 2, "do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
        return model.generate(ids, attention_mask=mask, **options, **kwargs)

    ids, people = case.ids[:2], list(case.people[:2])
    together, plain = search(case.model, ids, personality=people), search(case.bare, ids)
    rows = range(2)
    found = [search(case.model, ids[r : r + 1], personality=people[r])[0] for r in rows]
    bare = [search(case.bare, ids[r : r + 1])[0] for r in rows]
    return (
        all(torch.equal(found[r], together[r]) for r in rows) and torch.equal(together[1], plain[1]),
        all(torch.equal(bare[r], plain[r]) for r in rows),
    )


def gradients(case: Case) -> float | None:
    """Largest relative error of the network's gradients, by hand; None where nothing can be trained."""
    if case.network is None:
        return None
    trained = [p for p in case.network.parameters() if p.requires_grad]
    if not trained:
        return None
    weights = torch.randn(case.ids.shape, generator=torch.Generator().manual_seed(2))

    def loss(logits: Tensor, row: int) -> Tensor:
        return (logits[0].float().pow(2).mean(-1) * weights[row, : logits.shape[1]]).sum()

    rows = (0, 2)
    if values(case.bare(case.ids[:1])).dim() == 2:  # one result for each text
        return None
    found = case.logits(case.ids, list(case.people))
    ours = torch.autograd.grad(sum(loss(found[r : r + 1], r) for r in rows), trained, allow_unused=True)
    theirs = torch.autograd.grad(sum(loss(case.expected(r), r) for r in rows), trained, allow_unused=True)
    with torch.no_grad():  # RecurrentGemma keeps its last states, which cannot be copied while they have gradients
        case.bare(case.ids)
        case.model(case.ids)
    errors = []
    for our, their in zip(ours, theirs, strict=True):
        if (our is None) != (their is None):
            return float("inf")
        if our is not None:
            errors.append(error(our, their))
    return max(errors) if errors else float("inf")


@torch.no_grad()
def saved(case: Case) -> float:
    """Logits of the saved and loaded adapter on a new copy of the base, against those before."""
    case.model.save_pretrained(case.folder / "saved")
    again = PersonalityModel.load(copy.deepcopy(case.bare), case.folder / "saved")
    found = values(again(case.ids, personality=list(case.people)))
    return error(found, case.logits(case.ids, list(case.people)))


@torch.no_grad()
def through_peft(case: Case) -> float | None:
    """Logits of PEFT with what ``to_peft`` wrote, on a copy of the base, against ours; neurons are left out of both."""
    if case.network is None:
        return None
    import peft

    kwargs = {"steer_from": LENGTH} if case.table is not None else {}
    found = case.logits(case.ids, list(case.people), **kwargs)
    errors = []
    for row, person in enumerate(case.people):
        if person is None:
            continue
        directory = case.folder / f"peft{row}"
        case.model.to_peft(person, directory, overwrite=True)
        rival = peft.PeftModel.from_pretrained(copy.deepcopy(case.bare), str(directory)).eval()
        errors.append(error(found[row], values(rival(case.ids[row : row + 1]))[0]))
    return max(errors)


@torch.no_grad()
def unloaded(case: Case) -> list[str]:
    """What ``unload`` did not give back; empty when everything is as it was. The case cannot be used after it."""
    restored: Any = case.model.unload()
    wrong = [] if restored is case.base else ["another object"]
    before, after = dict(case.bare.named_modules()), dict(restored.named_modules())
    if list(before) != list(after):
        wrong.append("modules")
    for name, module in after.items():
        old = before[name]
        if type(module) is not type(old) or set(module.__dict__) != set(old.__dict__):
            wrong.append(f"{name or 'model'}: class or attributes")
    states = case.bare.state_dict(), restored.state_dict()
    if list(states[0]) != list(states[1]) or not all(torch.equal(states[0][k], v) for k, v in states[1].items()):
        wrong.append("weights")
    if [p.requires_grad for p in case.bare.parameters()] != [p.requires_grad for p in restored.parameters()]:
        wrong.append("requires_grad")
    if len({p.untyped_storage().data_ptr() for p in case.bare.parameters()}) != len(
        {p.untyped_storage().data_ptr() for p in restored.parameters()}
    ):
        wrong.append("memory of the weights")
    if not torch.equal(values(restored(case.ids)), values(case.bare(case.ids))):
        wrong.append("logits")
    return wrong


def sites(architecture: Architecture) -> str:
    """Which layers are adapted, in words."""
    inside = {f"{mlp.name}.{name}" for mlp in architecture.mlps for name in mlp.layout.linears}
    layers = {
        id(layer): name for name, layer in architecture.decoder.named_modules() if layer in set(architecture.layers)
    }
    total = len(layers)
    found = []
    for what, names in (("attention", set(architecture.linears) - inside), ("MLP", inside & set(architecture.linears))):
        count = sum(any(f"{layer}." in name for name in names) for layer in layers.values())
        found += [what if count == total else f"{what} of {count} of {total} layers"] if count else []
    return ", ".join(found)


def _padded(case: Case) -> Generated:
    return generated(case, padded=case.family.pads)


CHECKS: dict[str, Callable[[Case], Any]] = {
    "forward": forward,
    "generate": _padded,
    "beams": beams,
    "gradient": gradients,
    "save": saved,
    "peft": through_peft,
    "unload": unloaded,
}


def applies(family: Family, method: str, check: str) -> str | None:
    """Why a check says nothing of a family and a method; None where it does."""
    if check in ("generate", "beams") and not family.generates:
        return "this class has no generate()"
    if check in ("gradient", "peft") and method == "neurons":
        return "neurons alone have no weights"
    if check == "peft" and not family.peft:
        return "PEFT's adapters for causal LMs do not take this class"
    if check == "gradient" and family.model.endswith("SequenceClassification"):
        return "one result for each text, not for each token"
    return None


def problems(check: str, result: Any) -> list[str]:
    """What is wrong in the result of one of `CHECKS`; empty when it is right."""
    if check == "forward":
        told = {
            f"by hand {result.by_hand:.0e}": result.by_hand < EXACT,
            f"row without a personality {result.none:.0e}": result.none < EXACT,
            f"alone {result.alone:.0e}, bare {result.bare_alone:.0e}": result.alone < max(EXACT, 3 * result.bare_alone),
            f"a personality changes {result.change:.0e}": result.change > 0.05,
        }
    elif check == "generate":
        told = {
            f"cached {result.cached:.0e}, bare {result.bare:.0e}": result.cached < max(EXACT, 3 * result.bare),
            f"the bare model's own cache {result.bare:.0e}": result.bare < 1e-3,
            "other tokens without a cache": result.same_uncached,
            f"a personality changes {result.change:.0e}": result.change > 0.05,
        }
    elif check == "beams":
        told = {"a row of a beam search is another alone": result[0] or not result[1]}
    elif check == "unload":
        return list(result)
    elif result is None:
        return ["nothing was measured"]
    else:
        told = {f"{check} {result:.0e}": result < (1e-4 if check == "gradient" else EXACT)}
    return [text for text, right in told.items() if not right]


def behind_activation(mlp: Mlp, change: Callable[..., Tensor]) -> list[RemovableHandle]:
    """Hooks that change what the activation gives; where it is a function, what goes into the last layer is made anew."""
    if mlp.act_module is not None:
        return [mlp.act_module.register_forward_hook(change)]
    assert mlp.act is not None
    outputs: dict[str, Tensor] = {}
    layout, function = mlp.layout, ACTIVATIONS[mlp.act]

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: outputs.update({name: output})

    def make(module: nn.Module, inputs: Any) -> Tensor:
        gate, up = gate_and_up(layout, mlp.intermediate, outputs.__getitem__)
        return change(module, (gate,), function(gate)) * up

    layers = {name: mlp.module.get_submodule(name) for name in layout.linears}
    handles = [layers[name].register_forward_hook(keep(name)) for name in layout.linears if name != layout.down]
    return [*handles, layers[layout.down].register_forward_pre_hook(make)]
