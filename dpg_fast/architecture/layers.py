"""Find the MLPs and attention projections of a causal LM by structure.

A model is supported when its decoder layers hold one MLP each, gated or plain (:mod:`dpg_fast.architecture.mlps`), whatever the
names; some
layers may hold none (Mamba layers of hybrids). A mixture of experts is refused unless asked for: only what is dense in it,
attention and shared experts, can be adapted and steered. Nothing is assumed from the model's name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn

from dpg_fast.architecture.finder import MlpFinder, activation_of
from dpg_fast.architecture.mlps import (
    ActName,
    Mlp,
    UnsupportedArchitectureError,
    is_linear,
    linear_children,
    linear_shape,
    walk,
)
from dpg_fast.architecture.sites import SHARED_INPUTS, Site
from dpg_fast.compat.transformers_models import expert_counts, shape_of

ATTENTION_LAYOUTS = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "dense"),
    ("qkv_proj", "o_proj"),
    ("qkv_proj", "out_proj"),
    ("query_key_value", "dense"),
    ("c_attn", "c_proj"),
    ("Wqkv", "out_proj"),
    ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"),
    ("q_proj", "kv_a_proj_with_mqa", "o_proj"),
)
"""Attention projections of one module. Latent attention's ``kv_b_proj`` is none of them: at each decode step it is given the
whole cache, whose tokens have no slots any more."""

#: attention projections that are given the same input
SHARED_INPUT = SHARED_INPUTS[0]


@dataclass(frozen=True)
class Architecture:
    """What personality control needs to know of a model.

    Attributes:
        kind: name of the model's class.
        decoder: holds the layers; its forward takes ``input_ids``.
        layers: the decoder layers.
        mlps: in layer order.
        linears: the adaptable linear layers by name (sites).
        others: linear layers of the decoder layers that are not sites, and experts, by name: they stay as they are.
        experts: modules with routed experts, by name; not empty only where :func:`find_architecture` was told to leave them.
    """

    kind: str
    decoder: nn.Module
    layers: nn.ModuleList
    mlps: tuple[Mlp, ...]
    linears: dict[str, nn.Module]
    others: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The adaptable linear layers with their sizes."""
        return tuple(Site(name, *linear_shape(module)) for name, module in self.linears.items())

    @property
    def num_layers(self) -> int:
        """MLPs, L: one for each decoder layer of most models."""
        return len(self.mlps)

    @property
    def intermediate(self) -> int:
        """Neurons per layer, I.

        Raises:
            UnsupportedArchitectureError: the layers' MLPs are not of one size, or there are none, so neurons cannot be steered.
        """
        sizes = sorted({mlp.intermediate for mlp in self.mlps})
        acts = [id(module) for mlp in self.mlps if (module := mlp.act_module) is not None]
        if len(sizes) != 1 or len(set(acts)) != len(acts):
            what = f"layers of different MLP sizes {sizes}" if len(sizes) > 1 else "no dense MLP"
            if len(sizes) == 1:
                what = "one activation module for several layers"
            raise UnsupportedArchitectureError(
                f"{self.kind} has {what}; neurons are found and steered where each has its own and all are of one size (a "
                "hypernetwork works)"
            )
        return sizes[0]

    @property
    def act(self) -> ActName | None:
        """The activation that all MLPs have; None where it is one that the kernels do not know, or not the same in all."""
        names = {mlp.act for mlp in self.mlps}
        return names.pop() if len(names) == 1 else None

    def mixture(self) -> str:
        """What is said of a mixture of experts that was not asked for."""
        layer = self.experts[0].rpartition(".")[0]
        beside = [m.name for m in self.mlps if m.name.startswith(layer) or layer.startswith(m.name.rpartition(".")[0])]
        dense = f"attention and the shared expert {beside[0]}" if beside else "attention"
        return (
            f"{self.kind} is a mixture of experts ({self.experts[0]}), which personality control cannot adapt or steer. "
            f"dense_only=True (of HypernetConfig or SearchSettings) takes what is dense in it, here {dense}; the routed experts "
            "then stay as they are"
        )

    def describe(self, adapted: Collection[str] | None = None, *, neurons: bool = True) -> str:
        """What can be adapted and steered, and what stays as it is, in a few lines.

        Args:
            adapted: names of the sites that a bank has; None for all.
            neurons: whether they are steered.
        """
        count = len(self.layers)
        lines = [f"{self.kind}: {count} layers"]
        kinds = Counter((m.layout.gated, m.act, m.intermediate) for m in self.mlps)
        for (gated, act, size), number in kinds.items() if neurons else ():
            what = f"{size} neurons of a {'gated' if gated else 'plain'} MLP{f' ({act})' if act else ''}"
            lines.append(f"  {_share(number, count)}: {what}")
        sites = [name for name in self.linears if adapted is None or name in adapted]
        left = [name for name in self.linears if name not in sites]
        for title, names in (("LoRA", sites), ("left as they are", (*left, *self.others, *self.experts))):
            paths: dict[str, set[str]] = {}
            for name in names:
                layer, path = _in_layer(name)
                paths.setdefault(path, set()).add(layer)
            shares: dict[int, list[str]] = {}
            for path, layers in paths.items():
                shares.setdefault(len(layers), []).append(path)
            lines += [f"  {_share(number, count)}: {title}: {', '.join(found)}" for number, found in shares.items()]
        return "\n".join(lines)


def _share(number: int, of: int) -> str:
    return f"all {of} layers" if number == of else f"{number} of {of} layers"


def _in_layer(name: str) -> tuple[str, str]:
    """A module's decoder layer and its path below that, experts and the like by one name."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdecimal()), -1)
    return ".".join(parts[: first + 1]), ".".join("*" if part.isdecimal() else part for part in parts[first + 1 :])


def find_architecture(model: nn.Module, *, dense_only: bool = False) -> Architecture:
    """Find the MLPs and adaptable linear layers of ``model``'s text decoder.

    Args:
        model: a Hugging Face causal LM.
        dense_only: accept a mixture of experts: attention and shared experts are found, routed experts are left as they are.

    Raises:
        UnsupportedArchitectureError: names what is missing and what is accepted.
    """
    kind = type(model).__name__
    decoder, layers = _find_layers(model)
    prefixes = {id(module): name for name, module in model.named_modules()}
    counts, width = expert_counts(model), shape_of(model)["hidden_size"]
    finder = MlpFinder()
    mlps: list[Mlp] = []
    linears: dict[str, nn.Module] = {}
    others: list[str] = []
    experts: list[str] = []
    for index, layer in enumerate(layers):
        name = prefixes[id(layer)]
        routed = list(_experts(layer, finder, counts, width))
        experts += [f"{name}.{path}" for path in routed]
        inside = [
            (path, module)
            for path, module in walk(layer)
            if not any(path == part or path.startswith(f"{part}.") for part in routed)
        ]
        found = {
            path: layout for path, module in inside if (layout := finder.layout(module)) and not _attention(module)
        }
        if len(found) > 1:
            found.pop("", None)  # layers that lie in the decoder layer itself, beside its MLP (Gemma 4)
        if len(found) > 1:
            paths = ", ".join(found)
            raise UnsupportedArchitectureError(
                f"layer {index} of {kind} has {len(found)} MLPs ({paths}); {_accepted()}"
            )
        for path, module in inside:
            prefix = f"{name}.{path}" if path else name
            names = found[path].linears if path in found else _attention(module)
            for attribute in names:
                linear = linears[f"{prefix}.{attribute}"] = module.get_submodule(attribute)
                if not is_linear(linear):
                    raise UnsupportedArchitectureError(
                        f"{prefix}.{attribute} ({type(linear).__name__}) is not a linear layer that states its sizes "
                        "(in_features, out_features), so it cannot be adapted"
                    )
            others += [f"{prefix}.{attribute}" for attribute in linear_children(module) if attribute not in names]
            if path in found:
                down = linear_shape(module.get_submodule(found[path].down))
                act = activation_of(module, found[path])
                mlps.append(Mlp(len(mlps), prefix, module, found[path], act, down[0]))
    if not mlps and not experts:
        raise UnsupportedArchitectureError(f"the layers of {kind} have no MLP; {_accepted()}{_unloaded(model)}")
    if len({id(mlp.module) for mlp in mlps}) != len(mlps):
        raise UnsupportedArchitectureError(f"{kind} has one MLP for several layers")
    architecture = Architecture(kind, decoder, layers, tuple(mlps), linears, tuple(others), tuple(experts))
    if experts and not dense_only:
        raise UnsupportedArchitectureError(architecture.mixture())
    if not linears:
        raise UnsupportedArchitectureError(f"{kind} has no linear layer that can be adapted; {_accepted()}")
    return architecture


def _find_layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The text decoder and its list of layers: that of ``get_decoder()``, or the largest of the configuration's length."""
    try:
        decoder = model.get_decoder()  # type: ignore[operator]
    except (AttributeError, TypeError, ValueError, NotImplementedError):
        decoder = None
    count = shape_of(model)["num_hidden_layers"]
    # What `get_decoder` finds by its name may be anything, such as the head of ModernBERT's decoder.
    for root in (decoder, model):
        if not isinstance(root, nn.Module):
            continue
        if isinstance(layers := getattr(root, "layers", None), nn.ModuleList) and len(layers):
            return root, layers
        lists = [
            (owner, child)
            for owner in root.modules()
            for child in owner.children()
            if isinstance(child, nn.ModuleList) and len(child) and (count is None or len(child) == count)
        ]
        if lists:
            return max(lists, key=lambda found: sum(parameter.numel() for parameter in found[1].parameters()))
    raise UnsupportedArchitectureError(
        f"{type(model).__name__} has no list of decoder layers (a ModuleList, {count or 'some'} long); {_accepted()}"
    )


def _experts(layer: nn.Module, finder: MlpFinder, counts: set[int], width: int | None) -> Iterator[str]:
    """Paths in ``layer`` of modules that hold routed experts: several MLPs of one class, or weights stacked for all experts."""
    inside: list[str] = []
    for path, module in walk(layer):
        if any(path.startswith(f"{part}.") for part in inside):
            continue
        if _listed(module, finder) or _stacked(path, module, counts, width):
            inside.append(path)
            yield path


def _listed(module: nn.Module, finder: MlpFinder) -> bool:
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)) or len(module) < 2:
        return False
    children = list(module.children())
    return len({type(child) for child in children}) == 1 and finder.layout(children[0]) is not None


def _stacked(path: str, module: nn.Module, counts: set[int], width: int | None) -> bool:
    """Whether a module holds weights [experts, ...] with the model's width among the sizes, or says that it is of experts."""
    named = "experts" in path.rpartition(".")[2].lower() and not is_linear(module)
    own = [p for p in module.parameters(recurse=False) if p.dim() >= 2]
    return any(
        (named and "shared" not in path)
        or (
            p.dim() >= 3
            and p.shape[0] in counts
            and width in p.shape[1:]
            and not isinstance(module, nn.modules.conv._ConvNd)
        )
        for p in own
    )


def _attention(module: nn.Module) -> tuple[str, ...]:
    children = dict(module.named_children())
    return next((names for names in ATTENTION_LAYOUTS if all(name in children for name in names)), ())


def _accepted() -> str:
    return (
        "accepted are causal LMs whose layers have one MLP each, gated, down(act(gate(x)) * up(x)), or plain, "
        "down(act(first(x))) (Llama, Mistral, Qwen, Gemma, Phi, GPT-2 and models of their shapes)"
    )


def _unloaded(model: nn.Module) -> str:
    on_meta = any(parameter.device.type == "meta" for parameter in model.parameters())
    return (
        " Its weights are not loaded (device meta), and MLPs of other names are found by running them"
        if on_meta
        else ""
    )
