"""Checks on the user's own model that its personalities act, and that nothing else changes.

Logits are compared along the same tokens: the bare model's greedy continuation of each prompt is forced on every generation. The
difference of two logit vectors is the norm of their difference over the norm of the second, both without their mean; of
several positions the largest counts. Bounds come from the bare model: `bare.MARGIN` times the larger of its own difference in
the same comparison (alone or in a batch, cached or not, padded or not) and of what one rounding of its embeddings does to its
logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dpg_fast.compat.transformers_models import model_name
from dpg_fast.hypernet import CombinedNetwork, StoredAdapters
from dpg_fast.model.calibration import Calibration
from dpg_fast.model.layers.snapshot import left_behind, snapshot
from dpg_fast.model.steering import SteeringOptions
from dpg_fast.model.verification.bare import BareLogits, difference, forced_logits, uncached
from dpg_fast.model.verification.table import Check, Verification
from dpg_fast.personality.row import RowItem, read_row
from dpg_fast.personality.scores import POLES, Character, Personality
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.model.wrapper import PersonalityModel

#: ends that have to differ do so by more than this many times the bare model's own difference
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
    if runtime.live:
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
        served = snapshot(base)
        model.unload()
        try:
            before = snapshot(base)
            bare = BareLogits(base, ids, QUICK_TOKENS if quick else TOKENS, len(people) + 1)
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


def _reached(model: PersonalityModel, ids: Tensor, people: dict[str, RowItem]) -> tuple[float, float, str]:
    reach = model._runtime.reach
    reach.restart()
    model(input_ids=ids, personality=next(iter(people.values())))
    return len(reach.unreached), 0.0, ", ".join(reach.unreached)


# ---------------------------------------------------------------- the bare model


# ---------------------------------------------------------------- the checks


class _Checks:
    def __init__(self, model: PersonalityModel, bare: BareLogits, people: dict[str, RowItem], quick: bool) -> None:
        self.model, self.bare, self.people, self.quick = model, bare, people, quick
        self.rows: list[RowItem] = [None, *people.values()]

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

    def generation(self, index: int, rows: Sequence[RowItem]) -> Tensor:
        ids, new = self.bare.prompts[index], self.bare.tokens[index]
        return forced_logits(self.model, ids.repeat(len(rows), 1), new, self.bare.vocabulary, personality=list(rows))

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
        found = forced_logits(self.model, ids, new, self.bare.vocabulary, personality=self.rows, **self.bare.mask())
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
    model: PersonalityModel, bare: BareLogits, served: dict[str, Any], before: dict[str, Any]
) -> tuple[float, float, str]:
    """Unload the model that was used, compare it with what it was before (with and without personality), and wrap it again."""
    base = model.unload()
    try:
        after = snapshot(base)
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        for name in served.keys() & after.keys() - set(changed):
            module = name.startswith("module ")  # attributes may only have gone, bits are the same
            if after[name][2] - served[name][2] if module else after[name][-1] != served[name][-1]:
                changed.append(name)
        changed += [f"{name} ({what})" for name, what in left_behind(base)]
        if not torch.equal(forced_logits(base, bare.prompts[0], bare.tokens[0]), bare.logits[0]):
            changed.append("logits")
    finally:
        model._wrap_again()
    names = sorted(changed)
    return len(names), 0.0, ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


# ---------------------------------------------------------------- prompts, people, and the state of the model


def _prompts(model: PersonalityModel, prompts: Any, tokenizer: Any) -> list[Tensor]:
    device = model.device
    if prompts is not None and len(prompts) and all(isinstance(prompt, Tensor) for prompt in prompts):
        if any(p.is_floating_point() or p.dim() != 1 or not len(p) for p in prompts):
            raise DPGError("prompts are texts, or int64 tensors [length] of at least one id")
        return [prompt[None].to(device) for prompt in prompts]
    if prompts is not None and (isinstance(prompts, str) or not len(prompts)):
        raise DPGError("prompts are a list of texts, or of int64 tensors [length]")
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


def _people(model: PersonalityModel) -> dict[str, RowItem]:
    """Everything the model can be asked for, one thing at a time: ends of traits ("E+5") and characters ("@name").

    Raises:
        ValueError: there is nothing.
    """
    wanted: dict[str, RowItem] = {f"{pole}5": Personality(f"{pole}5") for pole in POLES}
    network = model.hypernet
    stored = network.stored if isinstance(network, CombinedNetwork) else network
    if isinstance(stored, StoredAdapters):
        wanted |= {f"@{name}": Character(name) for name in stored.names[:CHARACTERS]}
    found: dict[str, RowItem] = {}
    reason: ValueError | None = None
    for label, item in wanted.items():
        try:
            model._runtime.check([read_row(item)])
        except ValueError as error:
            reason = error
        else:
            found[label] = item
    if not found:
        raise DPGError(f"there is nothing to verify: {reason}")
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
