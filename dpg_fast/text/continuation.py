"""Log-probability of continuations given prompts, the same for every family of models.

A bare model is run as decoder and output layer, so that logits exist at the positions that count alone, and a prompt that
several continuations share is run once and cached. Whether that gives what ``model(...).logits`` gives (scales and caps are
taken from the configuration, and some layers cannot continue from a cache with several tokens at once) is tried on a few
tokens, once for each model; where it does not, the model's own forward over whole texts is used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dpg_fast.compat.accelerate import input_device
from dpg_fast.compat.transformers import cache_argument, last_logits, output_cache
from dpg_fast.compat.transformers_models import decoder, finish_logits, output_layer, text_config
from dpg_fast.personality.row import RowItem
from dpg_fast.util.errors import DPGError

_AT_ONCE = 1024  # positions whose logits exist at a time
_TRIED = 8  # tokens that a model is tried on


@dataclass(frozen=True)
class Continuation:
    """What a model thinks of one continuation.

    Attributes:
        logp: float64 [n] on the CPU, log-probability of each token in nats.
        greedy: whether each token is the likeliest one.
    """

    logp: Tensor
    greedy: bool

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation in nats."""
        return float(self.logp.sum())


class _Way(NamedTuple):
    """How a model is run: as decoder and output layer or by its own forward; prompts cached or texts whole."""

    split: bool
    cached: bool


_WAYS: WeakKeyDictionary[Any, dict[bool, _Way]] = WeakKeyDictionary()


@torch.inference_mode()
def continuation_logp(
    model: Any,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    personality: Sequence[RowItem] | None = None,
    steer_prompt: bool = True,
    batch_size: int = 16,
    autocast: torch.dtype | None = None,
) -> list[Continuation]:
    """How probable each continuation is after its prompt: log_softmax of ``model(...).logits`` in float32, up to rounding.

    Args:
        model: a causal LM of transformers, or a `PersonalityModel`.
        prompts: n lists of token ids. Equal ones (under equal personalities) are run once.
        continuations: n lists of token ids; an empty one has no tokens and needs no prompt.
        personality: n of them, for a `PersonalityModel`; None runs the model as it is.
        steer_prompt: whether neurons are steered in the prompt too, or from the continuation's first token on.
        batch_size: continuations that are run side by side.
        autocast: dtype of the decoder; the output layer keeps its own.

    Raises:
        DPGError: a prompt without tokens.
        ValueError: lists of different lengths.
    """
    rows: list[RowItem] = [None] * len(prompts) if personality is None else list(personality)
    found = [Continuation(torch.zeros(0, dtype=torch.float64), True)] * len(prompts)
    groups: dict[tuple[tuple[int, ...], RowItem], list[int]] = {}
    for i, (prompt, continuation, row) in enumerate(zip(prompts, continuations, rows, strict=True)):
        if continuation and not prompt:
            raise DPGError("a continuation needs a prompt of at least one token")
        if continuation:
            groups.setdefault((tuple(prompt), row), []).append(i)
    if not groups:
        return found
    (example, _), (first, *_) = next(iter(groups.items()))
    way = _way(model, [*continuations[first], *example], personality is not None)
    reader = _Reader(model, way, personality is not None, steer_prompt, batch_size, autocast)
    for batch in _batches(groups, batch_size):
        for i, score in reader.read([(*key, [(i, continuations[i]) for i in groups[key]]) for key in batch]):
            found[i] = score
    return found


def next_token_logp(model: Any, **inputs: Any) -> tuple[Tensor, Any]:
    """float32 [rows, vocabulary], log-probability of what follows the last token of each row, and the cache.

    Args:
        model: a causal LM of transformers, or a `PersonalityModel`.
        **inputs: of its forward; prompts are padded on the left.
    """
    output = model(use_cache=True, **last_logits(model), **inputs)
    return output.logits[:, -1].float().log_softmax(-1), output_cache(output)


_Asked = tuple[tuple[int, ...], RowItem, list[tuple[int, Sequence[int]]]]  # prompt, personality, numbered continuations


def _batches(groups: dict[tuple[tuple[int, ...], RowItem], list[int]], size: int) -> Iterator[list[Any]]:
    """Prompts of like lengths with ``size`` continuations together, or one prompt with more."""
    batch: list[Any] = []
    count = 0
    for key in sorted(groups, key=lambda key: len(key[0])):  # less padding
        if batch and count + len(groups[key]) > size:
            yield batch
            batch, count = [], 0
        batch.append(key)
        count += len(groups[key])
    yield batch


class _Reader:
    def __init__(
        self,
        model: Any,
        way: _Way,
        people: bool,
        steer_prompt: bool,
        batch_size: int,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.way, self.people, self.steer_prompt = model, way, people, steer_prompt
        self.batch_size, self.autocast = batch_size, autocast
        self.device = input_device(getattr(model, "base", model))
        self.inner: Any = decoder(model) if way.split else model
        self.head: Any = output_layer(model) if way.split else None

    def read(self, asked: Sequence[_Asked]) -> Iterator[tuple[int, Continuation]]:
        """The number and the score of each continuation."""
        if self.way.cached:
            yield from self._from_cache(asked)
        else:
            rows = [(prompt, row, i, ids) for prompt, row, own in asked for i, ids in own]
            for start in range(0, len(rows), self.batch_size):
                yield from self._whole(rows[start : start + self.batch_size])

    def _from_cache(self, asked: Sequence[_Asked]) -> Iterator[tuple[int, Continuation]]:
        device, people = self.device, [row for _, row, _ in asked]
        width = max(len(prompt) for prompt, _, _ in asked)
        ids, real = _padded([prompt for prompt, _, _ in asked], device, left=True)
        mask = None if bool(real.all()) else real.long()
        last = torch.zeros_like(real)
        last[:, -1] = True
        states, cache = self._run(ids, last, people, mask, steer_from=0 if self.steer_prompt else width)
        order = sorted(((w, i, c) for w, (_, _, own) in enumerate(asked) for i, c in own), key=lambda row: len(row[2]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            which = torch.tensor([w for w, _, _ in rows], device=device)
            ids, real = _padded([c for _, _, c in rows], device)
            found = states.new_zeros(*ids.shape, states.shape[-1])
            found[:, 0] = states[which.to(states.device)]
            if ids.shape[1] > 1:
                own = cache if start + self.batch_size >= len(order) else copy.deepcopy(cache)
                own.batch_select_indices(which)
                # Padding follows the continuation, where causal attention never looks.
                rest = None if mask is None else torch.cat([mask[which], torch.ones_like(ids[:, 1:])], 1)
                later = [people[w] for w, _, _ in rows]
                found[:, 1:][real[:, 1:].to(found.device)], _ = self._run(
                    ids[:, :-1], real[:, 1:], later, rest, width, own
                )
            logp, best = self._picked(found[real.to(found.device)], ids, real)
            yield from _collect([i for _, i, _ in rows], logp, best, real)

    def _whole(
        self, rows: Sequence[tuple[tuple[int, ...], RowItem, int, Sequence[int]]]
    ) -> Iterator[tuple[int, Continuation]]:
        """Whole texts, padded on the right: needs neither a cache nor a mask."""
        device = self.device
        ids, real = _padded([[*prompt, *own] for prompt, _, _, own in rows], device)
        begin = torch.tensor([len(prompt) for prompt, _, _, _ in rows], device=device)
        wanted = real & (torch.arange(ids.shape[1], device=device) >= begin[:, None])
        before = wanted.roll(-1, 1)  # a prompt has a token, so nothing wraps around
        states, _ = self._run(ids, before, [row for _, row, _, _ in rows], steer_from=0 if self.steer_prompt else begin)
        logp, best = self._picked(states, ids, wanted)
        yield from _collect([i for _, _, i, _ in rows], logp, best, wanted)

    def _run(
        self,
        ids: Tensor,
        wanted: Tensor,
        people: Sequence[RowItem],
        mask: Tensor | None = None,
        past: int = 0,
        cache: Any = None,
        steer_from: int | Tensor = 0,
    ) -> tuple[Tensor, Any]:
        """What `_logits` reads at the n ``wanted`` positions of ``ids`` [rows, length], and the cache."""
        options: dict[str, Any] = {"use_cache": self.way.cached}
        if self.way.cached:
            positions = torch.arange(past, past + ids.shape[1], device=ids.device).expand_as(ids)
            if mask is not None:
                positions = (mask.cumsum(1) - 1).clamp_min(0)[:, past:]
                options["attention_mask"] = mask
            options["position_ids"] = positions
        if cache is not None:
            options |= cache_argument(self.inner, cache)
        if self.people:
            options |= {"personality": list(people), "steer_from": steer_from}
        if not self.way.split:
            kept = ids.shape[1] - int(wanted.any(0).nonzero()[0])
            options |= last_logits(self.model, kept)
        with nullcontext() if self.autocast is None else torch.autocast(ids.device.type, dtype=self.autocast):
            output = self.inner(input_ids=ids, **options)
        states = output.last_hidden_state if self.way.split else output.logits
        return states[wanted[:, -states.shape[1] :].to(states.device)], output_cache(
            output
        ) if self.way.cached else None

    def _logits(self, states: Tensor) -> Tensor:
        """float32 [n, vocabulary]."""
        if self.head is None:
            return states.float()
        weight = getattr(self.head, "weight", states)
        own = weight.dtype if weight.is_floating_point() else states.dtype
        with torch.autocast(states.device.type, enabled=False):  # logits in bfloat16 are too coarse to subtract
            return finish_logits(self.model.config, self.head(states.to(own)).float())

    def _picked(self, states: Tensor, ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """float64 [rows, length], log-probability of the n ``real`` ones of ``ids``, and bool, whether each is the likeliest."""
        tokens, found, best = ids[real], [], []
        for part, own in zip(states.split(_AT_ONCE), tokens.split(_AT_ONCE), strict=True):
            logits = self._logits(part)
            own = own.to(logits.device)
            found.append(logits.gather(1, own[:, None])[:, 0] - logits.logsumexp(1))
            best.append(logits.argmax(1) == own)
        logp = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
        likeliest = torch.ones_like(real)
        logp[real] = torch.cat(found).double().to(ids.device)
        likeliest[real] = torch.cat(best).to(ids.device)
        return logp, likeliest


def _padded(rows: Sequence[Sequence[int]], device: torch.device, left: bool = False) -> tuple[Tensor, Tensor]:
    """int64 [rows, longest] of lists of ids, and bool, which of them are real."""
    parts = [torch.tensor(row, device=device) for row in rows]
    side = "left" if left else "right"
    ids = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_side=side)
    ones = [torch.ones_like(part, dtype=torch.bool) for part in parts]
    return ids, nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)


def _collect(numbers: Iterable[int], logp: Tensor, best: Tensor, real: Tensor) -> Iterator[tuple[int, Continuation]]:
    for i, own, right, there in zip(numbers, logp.cpu(), best.cpu(), real.cpu(), strict=True):
        yield i, Continuation(own[there], bool(right[there].all()))


def _way(model: Any, text: Sequence[int], people: bool) -> _Way:
    """The fastest way that agrees with the model's own logits on a few tokens of ``text``; remembered for the model."""
    slowest = _Way(split=False, cached=False)
    if getattr(model, "training", False):  # with dropout nothing agrees
        return slowest
    known = _WAYS.setdefault(model, {})
    if people not in known:
        parts = decoder(model) is not None and output_layer(model) is not None and not people
        ways = [_Way(split, cached) for split in (True, False)[not parts :] for cached in (True, False)]
        size = getattr(text_config(model), "vocab_size", None) or max(text) + 1
        plain = [token for token in text if token < size]  # stage tokens lie beyond the vocabulary
        tried = (plain * _TRIED)[:_TRIED]
        known[people] = next((way for way in ways[:-1] if tried and _agrees(model, way, tried)), slowest)
    return known[people]


def _agrees(model: Any, way: _Way, text: Sequence[int]) -> bool:
    half = len(text) // 2
    # Two prompts, one padded and continued twice: a cache has to bear all of it.
    asked: list[_Asked] = [
        (tuple(text[:n]), None, [(n + len(text) * i, text[n : n + half]) for i in range(half - n + 1)])
        for n in (half, half - 1)
    ]
    logits = model(input_ids=torch.tensor([text], device=input_device(getattr(model, "base", model)))).logits
    table = logits[0, :-1].float().log_softmax(-1)
    wanted = table.gather(1, torch.tensor(text[1:], device=table.device)[:, None])[:, 0].double().cpu()
    exact = logits.dtype in (torch.float32, torch.float64)
    tolerance = 1e-3 if exact else 0.1
    try:
        scores = dict(_Reader(model, way, False, True, 3).read(asked))
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False  # no cache, or one that cannot do it
    return all(
        bool(torch.isclose(found.logp, wanted[n % len(text) - 1 :][:half], rtol=tolerance, atol=tolerance).all())
        for n, found in scores.items()
    )
