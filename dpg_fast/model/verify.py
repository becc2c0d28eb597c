"""Checks on the user's own model that its personalities act, and that nothing else changes.

Logits are compared along the same tokens: the bare model's greedy continuation of each prompt is forced on every generation. The
difference of two logit vectors is the norm of their difference over the norm of the second, both without their mean; of
several positions the largest counts. Bounds come from the bare model: `MARGIN` times the larger of its own difference in the same
comparison (alone or in a batch, cached or not, padded or not) and of what one rounding of its embeddings does to its logits.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dpg_fast.compat.accelerate import weight_value
from dpg_fast.compat.transformers import MASK_NAME
from dpg_fast.compat.transformers_models import model_name
from dpg_fast.hypernet import CombinedNetwork, StoredAdapters
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.rows import Row
from dpg_fast.model.steering import SteeringOptions
from dpg_fast.model.verification import Check, Verification
from dpg_fast.personality import POLES, Character, Personality

if TYPE_CHECKING:
    from dpg_fast.model.wrapper import PersonalityModel

#: bounds are this many times the bare model's own difference
MARGIN = 4.0
#: and ends that have to differ do so by more than this many times
APART = 2.0
TOKENS, QUICK_TOKENS = 8, 4
CHARACTERS = 8
PROMPTS = (
    "Tell me about your week.",
    "Your friends have planned a party. What do you do?",
    "A stranger on the train asks what you are reading. How do you answer, and what do you think of it?",
)
#: lengths of random prompts, where there is no tokenizer
LENGTHS = (6, 11, 17)
QUICK_PROMPTS = 2


def verify(
    model: PersonalityModel,
    prompts: Sequence[str] | Sequence[Tensor] | None = None,
    tokenizer: Any = None,
    quick: bool = False,
) -> Verification:
    """Behind :meth:`PersonalityModel.verify`."""
    runtime = model._runtime
    model._require_loaded()
    if runtime.busy:
        raise RuntimeError("verify() takes the model apart for a while: not while calls are running")
    ids = _prompts(model, prompts, tokenizer)[: QUICK_PROMPTS if quick else None]
    people = _people(model)
    base: Any = model.base
    dtype = str(getattr(base, "dtype", "")).removeprefix("torch.")
    name = model_name(base) or type(base).__name__
    title = f"{name}, {dtype}, {model.device}"
    with _quiet(model, tokenizer), torch.no_grad():
        reached = _check(
            "every changed module is reached", "one forward", functools.partial(_reached, model, ids[0], people)
        )
        if not reached.ok:  # such a model may be refused when it is wrapped again
            return Verification(title, (reached,))
        served = _snapshot(base)
        model.unload()
        try:
            before = _snapshot(base)
            bare = _Bare(base, ids, QUICK_TOKENS if quick else TOKENS, len(people) + 1)
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            return Verification(title, (reached, Check("the bare model generates", "", None, None, "failed", message)))
        finally:
            model._wrap_again()
        rows = [reached, *_Checks(model, bare, people, quick).run()]
        rows.append(
            _check(
                "unload is exact", "weights, classes, attributes, logits", lambda: _unload(model, bare, served, before)
            )
        )
    return Verification(title, tuple(rows), bare.rounding)


def _reached(model: PersonalityModel, ids: Tensor, people: dict[str, Row]) -> tuple[float, float, str]:
    reach = model._runtime.reach
    reach.restart()
    model(input_ids=ids, personality=next(iter(people.values())))
    return len(reach.unreached), 0.0, ", ".join(reach.unreached)


# ---------------------------------------------------------------- the bare model


class _Forced:
    """A logits processor that makes ``generate`` write the given tokens, int64 [rows, N], after ``start`` tokens."""

    def __init__(self, tokens: Tensor, start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wanted = self.tokens[:, input_ids.shape[1] - self.start, None]
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)


def _logits(model: Any, ids: Tensor, tokens: Tensor, vocabulary: int | None = None, **kwargs: Any) -> Tensor:
    """Logits float64 [rows, N, V] of a generation that writes ``tokens`` [rows or 1, N] after the prompts ``ids``."""
    tokens = tokens.expand(len(ids), -1)
    kwargs.setdefault(MASK_NAME, torch.ones_like(ids))
    output = model.generate(
        ids,
        logits_processor=[_Forced(tokens, ids.shape[1])],
        max_new_tokens=tokens.shape[1],
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **kwargs,
    )
    found = torch.stack(output.logits, 1)[..., :vocabulary]
    if found.shape[1] != tokens.shape[1] or not torch.equal(output.sequences[:, ids.shape[1] :], tokens):
        raise RuntimeError("generate() did not write the tokens that a logits processor forced on it")
    return found.cpu().double()


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest relative difference of logit vectors [..., V]; infinite where one is not finite and the other is."""
    found, wanted = torch.broadcast_tensors(found, wanted)
    finite = torch.isfinite(found) & torch.isfinite(wanted)
    if not torch.equal(torch.where(finite, 0.0, found), torch.where(finite, 0.0, wanted)):
        return float("inf")
    count = finite.sum(-1, keepdim=True).clamp_min(1)
    a, b = (
        torch.where(finite, x - torch.where(finite, x, 0.0).sum(-1, keepdim=True) / count, 0.0) for x in (found, wanted)
    )
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-30)).max())


class _Bare:
    """Logits of the unwrapped model, and its own differences: in a batch, without a cache, padded, rounded."""

    def __init__(self, base: Any, prompts: Sequence[Tensor], tokens: int, rows: int) -> None:
        self.base, self.prompts, self.rows = base, list(prompts), rows
        self.tokens = [
            base.generate(ids, max_new_tokens=tokens, do_sample=False, **{MASK_NAME: torch.ones_like(ids)})[
                :, ids.shape[1] :
            ]
            for ids in self.prompts
        ]
        self.logits = [_logits(base, ids, new) for ids, new in zip(self.prompts, self.tokens, strict=True)]
        ids, new = self.prompts[0], self.tokens[0]
        self.vocabulary = self.logits[0].shape[-1]
        batch = _logits(base, ids.repeat(rows, 1), new)
        self.batch = difference(batch, self.logits[0])
        self.uncached = difference(uncached(base, ids.repeat(rows, 1), new), batch)
        self.padded = difference(
            _logits(base, *self.layout(), self.vocabulary, **self.mask()), torch.cat(self.wanted(self.logits))
        )
        self.rounding = self._rounding()

    def bound(self, own: float, margin: float = MARGIN) -> float:
        return margin * max(own, self.rounding)

    def layout(self) -> tuple[Tensor, Tensor]:
        """All prompts in turn in one batch of ``rows``, padded on the left, and the tokens that follow each."""
        width = max(ids.shape[1] for ids in self.prompts) + 3
        which = [row % len(self.prompts) for row in range(self.rows)]
        pad = int(self.base.generation_config.pad_token_id)
        ids = [
            torch.nn.functional.pad(self.prompts[i], (width - self.prompts[i].shape[1], 0), value=pad) for i in which
        ]
        return torch.cat(ids), torch.cat([self.tokens[i] for i in which])

    def mask(self) -> dict[str, Tensor]:
        ids, _ = self.layout()
        lengths = torch.tensor([self.prompts[row % len(self.prompts)].shape[1] for row in range(self.rows)])
        position = torch.arange(ids.shape[1])
        return {MASK_NAME: (position >= ids.shape[1] - lengths[:, None]).long().to(ids.device)}

    def wanted(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Of logits [rows or 1, N, V] for each prompt, those of the rows of `layout`, [1, N, V] each."""
        chosen = [logits[row % len(logits)] for row in range(self.rows)]
        return [own[min(row, len(own) - 1)][None] for row, own in enumerate(chosen)]

    def _rounding(self) -> float:
        """What a random rounding error in each value of the embeddings does to the logits."""
        ids, new = self.prompts[0], self.tokens[0]
        generator = torch.Generator().manual_seed(0)

        def move(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            sign = torch.randint(0, 2, output.shape, generator=generator).to(output.device) * 2 - 1
            return (output * (1 + sign * torch.finfo(output.dtype).eps)).to(output.dtype)

        handle = self.base.get_input_embeddings().register_forward_hook(move)
        try:
            moved = _logits(self.base, ids, new)
        finally:
            handle.remove()
        return max(difference(moved, self.logits[0]), float(torch.finfo(self.base.dtype).eps))


def uncached(model: Any, ids: Tensor, tokens: Tensor, **kwargs: Any) -> Tensor:
    """The logits of `_logits` by one forward over prompt and tokens."""
    whole = torch.cat([ids, tokens.expand(len(ids), -1)[:, :-1]], 1)
    logits: Tensor = model(input_ids=whole, **{MASK_NAME: torch.ones_like(whole)}, **kwargs).logits
    return logits[:, ids.shape[1] - 1 :].cpu().double()


# ---------------------------------------------------------------- the checks


class _Checks:
    def __init__(self, model: PersonalityModel, bare: _Bare, people: dict[str, Row], quick: bool) -> None:
        self.model, self.bare, self.people, self.quick = model, bare, people, quick
        self.rows: list[Row] = [None, *people.values()]

    def run(self) -> list[Check]:
        bare = self.bare
        found = [
            _check("a None row equals the bare model", f"in a batch of {len(self.rows)}", self.none_row),
            _check("no personality equals the bare model", "generation", self.idle),
        ]
        for label, ends in self.ends().items():
            for part, logits in self.parts(label).items():
                others = "the same without neurons" if logits == "neurons" else "each other and None"
                name = f"{label} differ{f' ({part})' if part else ''}"
                measure = functools.partial(self.apart, ends, logits)
                found.append(_check(name, f"with {others}", measure, apart=True))
        found += [
            _check("a row alone equals itself in the batch", f"{len(self.alone_rows())} rows", self.alone),
            _check("cached equals uncached", f"{len(self.rows)} rows, {bare.tokens[0].shape[1]} tokens", self.cached),
            _check("left padding changes nothing", f"{len(self.rows)} rows", self.padding),
        ]
        return [self._judged(check) for check in found]

    @functools.cached_property
    def mixed(self) -> list[Tensor]:
        """For each prompt, logits [rows, N, V] of everybody in one batch."""
        return [self.generation(index, self.rows) for index in range(len(self.bare.prompts))]

    @functools.cached_property
    def unsteered(self) -> list[Tensor]:
        """The same with every steering strength at zero."""
        before = self.model.calibration
        self.model.calibration = Calibration(dict.fromkeys(POLES, 0.0))
        try:
            return [self.generation(index, self.rows) for index in range(len(self.bare.prompts))]
        finally:
            self.model.calibration = before

    def generation(self, index: int, rows: Sequence[Row]) -> Tensor:
        ids, new = self.bare.prompts[index], self.bare.tokens[index]
        return _logits(self.model, ids.repeat(len(rows), 1), new, self.bare.vocabulary, personality=list(rows))

    def ends(self) -> dict[str, list[str]]:
        """What each check of differences is called -> labels of the people that have to differ from each other and from None."""
        groups: dict[str, list[str]] = {}
        for label, item in self.people.items():
            trait = isinstance(item, Personality)
            groups.setdefault(f"ends of {label[0]}" if trait else "characters", []).append(label)
        return groups

    def parts(self, label: str) -> dict[str, str]:
        """What is said of, and the key for, each part of the model that has to act by itself."""
        both = self.model.hypernet is not None and self.model.steering is not None and label.startswith("ends")
        generated = not isinstance(self.model.hypernet, StoredAdapters)
        return {"hypernetwork": "unsteered", "neurons": "neurons"} if both and generated else {"": "mixed"}

    def apart(self, ends: Sequence[str], part: str) -> tuple[float, float]:
        places = [list(self.people).index(label) + 1 for label in ends]
        logits = self.unsteered if part == "unsteered" else self.mixed
        if part == "neurons":
            pairs = [(self.mixed, place, self.unsteered, place) for place in places]
        else:
            pairs = [(logits, a, logits, b) for i, a in enumerate(places) for b in [0, *places[:i]]]
        smallest = min(
            max(difference(one[p][a], other[p][b]) for p in range(len(self.bare.prompts))) for one, a, other, b in pairs
        )
        return smallest, self.bare.bound(self.bare.batch, APART)

    def idle(self) -> tuple[float, float, str]:
        found = max(difference(self.generation(index, [None]), logits) for index, logits in enumerate(self.bare.logits))
        return found, self.bare.rounding, "" if found else "bit for bit"

    def none_row(self) -> tuple[float, float]:
        found = max(difference(own[0], bare[0]) for own, bare in zip(self.mixed, self.bare.logits, strict=True))
        return found, self.bare.bound(self.bare.batch)

    def alone_rows(self) -> list[int]:
        every = range(1, len(self.rows))
        return list(every)[:: max(1, len(every) // 3)] if self.quick else list(every)

    def alone(self) -> tuple[float, float]:
        found = 0.0
        for row in self.alone_rows():
            index = row % len(self.bare.prompts)
            found = max(found, difference(self.generation(index, [self.rows[row]])[0], self.mixed[index][row]))
        return found, self.bare.bound(self.bare.batch)

    def cached(self) -> tuple[float, float]:
        ids, new = self.bare.prompts[0], self.bare.tokens[0]
        whole = uncached(self.model, ids.repeat(len(self.rows), 1), new, personality=self.rows, steer_from=ids.shape[1])
        return difference(self.mixed[0], whole[..., : self.bare.vocabulary]), self.bare.bound(self.bare.uncached)

    def padding(self) -> tuple[float, float]:
        ids, new = self.bare.layout()
        found = _logits(self.model, ids, new, self.bare.vocabulary, personality=self.rows, **self.bare.mask())
        return difference(found, torch.cat(self.bare.wanted(self.mixed))), self.bare.bound(self.bare.padded)

    @functools.cached_property
    def effect(self) -> float:
        """What one of the people does to the logits of the first prompt."""
        try:
            return median(difference(row, self.mixed[0][0]) for row in self.mixed[0][1:])
        except Exception:  # which the checks that need these logits report
            return float("inf")

    def _judged(self, check: Check) -> Check:
        """Where the bare model's own difference is as large as a personality's effect, equality tells nothing."""
        if check.apart or not (check.bound and check.difference) or not check.ok or check.bound < self.effect:
            return check
        note = f"the bound is above what a personality does ({self.effect:.2g})"
        return Check(check.name, check.compared, check.difference, check.bound, "cannot tell", note)


def _check(name: str, compared: str, measure: Callable[[], tuple[Any, ...]], apart: bool = False) -> Check:
    """The check's row; an error of the model is a failure with its message."""
    try:
        found, bound, *notes = measure()
    except Exception as error:
        return Check(name, compared, None, None, "failed", f"{type(error).__name__}: {error}", apart)
    good = found > bound if apart else found <= bound
    note = notes[0] if notes else ""
    return Check(name, compared, float(found), float(bound), "ok" if good else "failed", note, apart)


# ---------------------------------------------------------------- unload


def _unload(
    model: PersonalityModel, bare: _Bare, served: dict[str, Any], before: dict[str, Any]
) -> tuple[float, float, str]:
    """Unload the model that was used, compare it with what it was before (with and without personality), and wrap it again."""
    base = model.unload()
    try:
        after = _snapshot(base)
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        for name in served.keys() & after.keys() - set(changed):
            module = name.startswith("module ")  # attributes may only have gone, bits are the same
            if after[name][2] - served[name][2] if module else after[name][-1] != served[name][-1]:
                changed.append(name)
        changed += [f"{name} ({what})" for name, what in _left_behind(base)]
        if not torch.equal(_logits(base, bare.prompts[0], bare.tokens[0]), bare.logits[0]):
            changed.append("logits")
    finally:
        model._wrap_again()
    names = sorted(changed)
    return len(names), 0.0, ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _snapshot(base: nn.Module) -> dict[str, Any]:
    """Every module's class and attributes, and every tensor's identity, layout and bits."""
    found: dict[str, Any] = {}
    for name, module in base.named_modules(remove_duplicate=False):
        found[f"module {name}"] = (type(module), id(module), frozenset(module.__dict__), module.__dict__.get("forward"))
    tensors = (*base.named_parameters(remove_duplicate=False), *base.named_buffers(remove_duplicate=False))
    for name, tensor in tensors:
        identity, value = id(tensor), tensor
        if tensor.is_meta and isinstance(tensor, nn.Parameter):  # offloaded: another object after every forward
            identity, value = 0, weight_value(base, name)
        found[name] = (
            *(identity, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device, tensor.requires_grad),
            _bits(value),
        )
    return found


def _bits(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes."""
    if tensor.device.type == "meta":
        return 0
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    value = 0
    for part in flat.split(1 << 26):
        value = zlib.crc32(part.cpu().numpy(), value)
    return value


def _left_behind(base: nn.Module) -> Iterator[tuple[str, str]]:
    for name, module in base.named_modules():
        left = [key for key in module.__dict__ if key.startswith("dpg_")]
        if type(module).__module__.startswith("dpg_fast."):
            left.append(type(module).__name__)
        if hasattr(module.__dict__.get("forward"), "dpg_root"):
            left.append("forward")
        yield from ((name or type(module).__name__, what) for what in left)


# ---------------------------------------------------------------- prompts, people, and the state of the model


def _prompts(model: PersonalityModel, prompts: Any, tokenizer: Any) -> list[Tensor]:
    device = model.device
    if prompts is not None and len(prompts) and all(isinstance(prompt, Tensor) for prompt in prompts):
        if any(p.is_floating_point() or p.dim() != 1 or not len(p) for p in prompts):
            raise ValueError("prompts are texts, or int64 tensors [length] of at least one id")
        return [prompt[None].to(device) for prompt in prompts]
    if prompts is not None and (isinstance(prompts, str) or not len(prompts)):
        raise ValueError("prompts are a list of texts, or of int64 tensors [length]")
    if tokenizer is None:
        try:
            tokenizer = model._default_tokenizer()
        except ValueError:
            if prompts is not None:
                raise
    if tokenizer is not None:
        return [tokenizer(text, return_tensors="pt")["input_ids"].to(device) for text in prompts or PROMPTS]
    size = model.base.get_input_embeddings().num_embeddings  # type: ignore[operator, union-attr]
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(size // 8, size, (1, length), generator=generator).to(device) for length in LENGTHS]


def _people(model: PersonalityModel) -> dict[str, Row]:
    """Everything the model can be asked for, one thing at a time: ends of traits ("E+5") and characters ("@name").

    Raises:
        ValueError: there is nothing.
    """
    wanted: dict[str, Row] = {f"{pole}5": Personality(f"{pole}5") for pole in POLES}
    network = model.hypernet
    stored = network.stored if isinstance(network, CombinedNetwork) else network
    if isinstance(stored, StoredAdapters):
        wanted |= {f"@{name}": Character(name) for name in stored.names[:CHARACTERS]}
    found: dict[str, Row] = {}
    reason: ValueError | None = None
    for label, item in wanted.items():
        try:
            model._runtime.check_items([item])
        except ValueError as error:
            reason = error
        else:
            found[label] = item
    if not found:
        raise ValueError(f"there is nothing to verify: {reason}")
    return found


@contextmanager
def _quiet(model: PersonalityModel, tokenizer: Any) -> Iterator[None]:
    """In eval mode, with plain greedy settings, without a random mask; everything is put back at the end."""
    from transformers import GenerationConfig

    base: Any = model.base
    training = {module: module.training for module in model.modules()}
    config, options, calibration, own = (
        base.generation_config,
        model.steering_options,
        model.calibration,
        model._tokenizer,
    )
    pad = next((i for i in (config.pad_token_id, config.eos_token_id) if isinstance(i, int)), 0)
    base.generation_config = GenerationConfig(pad_token_id=pad, cache_implementation=config.cache_implementation)
    model.steering_options = SteeringOptions(tokens="decode")
    model._tokenizer = own if tokenizer is None else tokenizer
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        base.generation_config = config
        model.steering_options, model.calibration, model._tokenizer = options, calibration, own
