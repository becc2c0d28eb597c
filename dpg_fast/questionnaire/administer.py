"""Put an inventory to a chat model: many respondents, forms and items in one batch.

Each item is asked in a conversation of its own (or with some earlier items and answers before it). The answer is read from the
probabilities of the option labels or from generated text. A row's answer does not depend on what else is in its batch, up to
rounding of the base model's own products.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from dpg_fast.compat.transformers import cache_argument
from dpg_fast.compat.transformers_models import model_name
from dpg_fast.model import PersonalityModel
from dpg_fast.model.chatting import StageTokenizer
from dpg_fast.model.disk.identity import model_identity
from dpg_fast.personality.row import RowItem, read_row
from dpg_fast.questionnaire import forms as form_texts
from dpg_fast.questionnaire.forms import Form
from dpg_fast.questionnaire.inventory import Inventory, Item
from dpg_fast.questionnaire.session import AdministrationSettings, Answer, Respondent, Session
from dpg_fast.text.continuation import next_token_logp
from dpg_fast.text.prompting import chat_prompt, padding
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Count
from dpg_fast.util.store import Store


class OptionProcessor(LogitsProcessor):
    """Allows each row nothing but its options; with a temperature it draws among them by Gumbel noise.

    The noise of a row comes from its own seed, so a draw does not depend on the batch.

    Args:
        options: int64 [rows, options], token ids.
        temperature: 0 leaves the scores as they are.
        seeds: one for each row.
    """

    def __init__(self, options: Tensor, temperature: float = 0.0, seeds: Sequence[int] = ()) -> None:
        self.options = options
        self.noise: Tensor | None = None
        if temperature > 0:
            draws = np.stack([np.random.default_rng(seed).gumbel(size=options.shape[1]) for seed in seeds])
            self.noise = torch.tensor(draws * temperature, dtype=torch.float32, device=options.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [rows, vocabulary] with everything else at minus infinity."""
        kept = scores.gather(1, self.options)
        if self.noise is not None:
            kept = kept.float() + self.noise
        return torch.full_like(scores, -torch.inf).scatter(1, self.options, kept.to(scores.dtype))


@dataclass(frozen=True)
class _Task:
    respondent: Respondent
    form: Form
    item: Item
    ids: tuple[int, ...]
    before: int  # tokens ahead of the answer's own (of the prefill)
    options: tuple[int, ...]


def administer(
    model: Any,
    tokenizer: Any,
    inventory: Inventory,
    respondents: Sequence[Respondent],
    forms: Sequence[Form],
    settings: AdministrationSettings | None = None,
    *,
    checkpoint: Path | None = None,
    progress: Count | None = None,
) -> Session:
    """Ask every respondent every item of every form.

    Args:
        model: a `PersonalityModel`, or any causal LM of transformers if no respondent has a personality.
        tokenizer: with a chat template.
        inventory: the items.
        respondents: any number of personalities; rows of one batch have different ones.
        forms: see `make_forms`.
        settings: how to ask.
        checkpoint: file that every batch of answers is appended to; answers already in it are not asked for again.
        progress: called with how many answers there are, and of how many.

    Raises:
        ValueError: a personality for a model that takes none, labels that are not one token each, or a checkpoint of
            another session.
    """
    settings = settings or AdministrationSettings()
    if not isinstance(model, PersonalityModel):
        named = next((r.label for r in respondents if r.personality is not None), None)
        if named is not None:
            raise DPGError(
                f"{type(model).__name__} takes no personality, but {named!r} has one; wrap it in a PersonalityModel"
            )
    name = model_name(model) or type(model).__name__
    name = name.rstrip("/").rsplit("/", 1)[-1]
    identity = "" if checkpoint is None else model_identity(model)
    session = Session(inventory, tuple(respondents), tuple(forms), settings, name, identity)
    with session.store(checkpoint) as store:
        _Asker(model, tokenizer, session, store, progress).run()
    return session


class _Asker:
    def __init__(self, model: Any, tokenizer: Any, session: Session, store: Store, progress: Count | None) -> None:
        self.model, self.tokenizer, self.session = model, tokenizer, session
        self.store, self.progress = store, progress
        self.settings, self.inventory = session.settings, session.inventory
        self._prompts: dict[tuple[Any, ...], tuple[tuple[int, ...], int, tuple[int, ...]]] = {}
        constrained = self.settings.method == "generate" and self.settings.constrained
        if constrained and self.settings.steer == "answer" and getattr(model, "steering", None) is not None:
            raise DPGError(
                'constrained generation writes one token, which is chosen before anything steered by "answer" was read; '
                'use steer="all" or log-probabilities'
            )

    def run(self) -> None:
        session = self.session
        places = range(len(self.inventory.items))
        if self.settings.context == 0:
            self._ask([self._task(r, f, place) for r in session.respondents for f in session.forms for place in places])
        else:  # an item's prompt holds the answers before it
            for place in places:
                self._ask([self._task(r, f, place) for r in session.respondents for f in session.forms])

    def _task(self, respondent: Respondent, form: Form, place: int) -> _Task:
        item = self.inventory.items[form.item_order[place]]
        first = max(0, place - self.settings.context)
        earlier = [self._said(respondent, form, p) for p in range(first, place)]
        if earlier:
            ids, before, options = self._encode(form, place, earlier, respondent)
        else:  # the same prompt serves all respondents
            key = (form.number, item.id, respondent.system, respondent.stage)
            if key not in self._prompts:
                self._prompts[key] = self._encode(form, place, (), respondent)
            ids, before, options = self._prompts[key]
        return _Task(respondent, form, item, ids, before, options)

    def _said(self, respondent: Respondent, form: Form, place: int) -> str:
        """What the respondent answered earlier, as it stands in the conversation."""
        item = self.inventory.items[form.item_order[place]]
        answer = self.session.answers[respondent.label, form.number, item.id]
        if answer.distribution is not None and answer.text is None:
            rating = int(np.argmax(answer.distribution)) + 1
        elif answer.rating is not None:
            rating = round(answer.rating)
        else:
            return answer.text or ""
        return form.labels[form.option_order.index(rating)]

    def _encode(
        self, form: Form, place: int, earlier: Sequence[str], respondent: Respondent
    ) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
        turns = form_texts.messages(self.inventory, form, place, earlier)
        grown = grown_tokenizer(self.model, self.tokenizer, respondent.personality)
        if grown is None:
            prompt = chat_prompt(self.tokenizer, turns, system=respondent.system)
            return encode_with_options(self.tokenizer, prompt, self.settings.prefill, form.labels)
        prompt = chat_prompt(grown.tokenizer, grown.label(turns, respondent.personality), system=respondent.system)
        ids, before, options = encode_with_options(grown.tokenizer, prompt, self.settings.prefill, form.labels)
        return tuple(grown.own_ids(ids)), before, options

    def _keep(self, answers: Sequence[Answer]) -> None:
        self.store.append(map(asdict, answers))
        self.session.answers.update((answer.key, answer) for answer in answers)

    def _ask(self, tasks: Sequence[_Task]) -> None:
        answers = self.session.answers
        todo = [t for t in tasks if (t.respondent.label, t.form.number, t.item.id) not in answers]
        todo.sort(key=lambda task: len(task.ids))  # less padding
        if self.progress is not None:
            self.progress(len(answers), self.session.total)
        for batch in self._batches(todo):
            with torch.inference_mode():
                self._keep(batch())
            if self.progress is not None:
                self.progress(len(answers), self.session.total)

    def _batches(self, todo: Sequence[_Task]) -> Iterator[Callable[[], list[Answer]]]:
        """Batches of tasks, each as a function that answers it."""
        size = self.settings.batch_size
        if self.settings.method == "generate" or self.settings.context:
            answer = self._generated if self.settings.method == "generate" else self._probabilities
            for start in range(0, len(todo), size):
                yield partial(answer, todo[start : start + size])
            return
        # Prompts of one form begin alike: that part runs once for each respondent, and its cache serves all items.
        groups: dict[tuple[Any, ...], dict[str, list[_Task]]] = {}
        for task in todo:
            place = (task.form.number, task.respondent.system, task.respondent.stage)
            groups.setdefault(place, {}).setdefault(task.respondent.label, []).append(task)
        for people in groups.values():
            lists = sorted(people.values(), key=len)
            step = min(len(lists), max(1, size // 8))
            for start in range(0, len(lists), step):
                yield from self._shared(lists[start : start + step], max(1, size // step))

    def _shared(self, people: Sequence[Sequence[_Task]], at_once: int) -> Iterator[Callable[[], list[Answer]]]:
        """Batches of ``at_once`` items of each of some people, whose prompts have one beginning."""
        every = [task.ids for tasks in people for task in tasks]
        length = min(min(common_length(every[0], ids) for ids in every), min(map(len, every)) - 1)
        if length == 0:
            for tasks in people:
                yield from (partial(self._probabilities, tasks[i : i + at_once]) for i in range(0, len(tasks), at_once))
            return
        prefix: list[Any] = []

        def answer(rows: Sequence[_Task], counts: Sequence[int]) -> list[Answer]:
            if not prefix:
                prefix.append(self._prefix([tasks[0] for tasks in people], length))
            cache = copy.deepcopy(prefix[0])
            index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
            cache.batch_select_indices(index.to(self.model.device))
            return self._probabilities(rows, cache, length)

        for start in range(0, max(map(len, people)), at_once):
            parts = [tasks[start : start + at_once] for tasks in people]
            yield partial(answer, [task for part in parts for task in part], [len(part) for part in parts])

    def _prefix(self, first: Sequence[_Task], length: int) -> Any:
        """The cache of the first ``length`` tokens, one row for each respondent."""
        ids = torch.tensor([task.ids[:length] for task in first], device=self.model.device)
        extra: dict[str, Any] = {}
        if isinstance(self.model, PersonalityModel):
            # with steer="answer" no token of the beginning that all items share is steered
            start = 0 if self.settings.steer == "all" else length
            extra = {"personality": [task.respondent.personality for task in first], "steer_from": start}
        return next_token_logp(self.model, input_ids=ids, **extra)[1]

    def _batch(self, rows: Sequence[_Task], cached: int = 0) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
        """Left-padded inputs after the cached tokens, option tokens [rows, options], and the personalities."""
        device = self.model.device
        width = max(len(task.ids) for task in rows) - cached
        ids = torch.full((len(rows), width), padding(self.tokenizer, self.model))
        mask = torch.zeros((len(rows), cached + width), dtype=torch.long)
        mask[:, :cached] = 1
        for row, task in enumerate(rows):
            rest = len(task.ids) - cached
            ids[row, width - rest :] = torch.tensor(task.ids[cached:])
            mask[row, cached + width - rest :] = 1
        options = torch.tensor([task.options for task in rows], device=device)
        people: dict[str, Any] = {}
        if isinstance(self.model, PersonalityModel):
            people["personality"] = [task.respondent.personality for task in rows]
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}, options, people

    def _probabilities(self, rows: Sequence[_Task], cache: Any = None, cached: int = 0) -> list[Answer]:
        """Answers by the labels' probabilities; ``cache`` holds the first ``cached`` tokens of each row."""
        inputs, options, extra = self._batch(rows, cached)
        width = cached + inputs["input_ids"].shape[1]
        if extra and self.settings.steer == "answer":
            first = [width - len(t.ids) + min(t.before, len(t.ids) - 1) for t in rows]
            extra["steer_from"] = torch.tensor(first, device=self.model.device)
        if cache is not None:
            extra |= cache_argument(self.model, cache)
        positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)[:, cached:]
        table, _ = next_token_logp(self.model, position_ids=positions, **inputs, **extra)
        logp = table.gather(1, options).double().cpu().numpy()
        return [self._rated(task, values) for task, values in zip(rows, logp, strict=True)]

    def _rated(self, task: _Task, logp: np.ndarray[Any, np.dtype[np.float64]]) -> Answer:
        probability = np.exp(logp)
        share = np.exp(logp - np.logaddexp.reduce(logp))
        by_rating = np.zeros(self.inventory.levels)
        by_rating[np.array(task.form.option_order) - 1] = share
        # rounding may leave the scale by one unit in the last place
        rating = float(np.clip(by_rating @ np.arange(1, self.inventory.levels + 1), 1, self.inventory.levels))
        return Answer(
            task.respondent.label, task.form.number, task.item.id, "ok", rating,
            tuple(by_rating.tolist()), float(min(1.0, probability.sum())),
        )  # fmt: skip

    def _generated(self, rows: Sequence[_Task]) -> list[Answer]:
        inputs, options, extra = self._batch(rows)
        settings = self.settings
        if extra:
            extra["steer_tokens"] = "all" if settings.steer == "all" else "decode"
        if settings.constrained:
            seeds = [crc32(f"{settings.seed}|{t.respondent.label}|{t.form.number}|{t.item.id}".encode()) for t in rows]
            processor = OptionProcessor(options, settings.temperature, seeds)
            extra["logits_processor"] = LogitsProcessorList([processor])
        output = self.model.generate(
            **inputs,
            max_new_tokens=1 if settings.constrained else settings.max_new_tokens,
            do_sample=False,
            pad_token_id=padding(self.tokenizer, self.model),
            **extra,
        )
        fresh = output[:, inputs["input_ids"].shape[1] :].cpu()
        return [self._read(task, ids) for task, ids in zip(rows, fresh, strict=True)]

    def _read(self, task: _Task, ids: Tensor) -> Answer:
        where = (task.respondent.label, task.form.number, task.item.id)
        if self.settings.constrained:
            place = task.options.index(int(ids[0]))
            return Answer(*where, "ok", float(task.form.option_order[place]), text=task.form.labels[place])
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        status, rating = form_texts.read_answer(text, self.inventory, task.form)
        return Answer(*where, status, None if rating is None else float(rating), text=text)


def encode_with_options(
    tokenizer: Any, prompt: str, prefill: str, labels: Sequence[str]
) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Token ids of the prompt with its prefill; how many of them come before the prefill; and the token of each label after it.

    The labels are tokenised where they stand, behind the prefill, since many tokenizers merge a space into them.

    Raises:
        ValueError: a label is not one token there, or two labels are the same one.
    """
    gap = " " if prefill and not prefill[-1].isspace() else ""
    lines = [prompt + prefill + gap + label for label in labels]
    encoded: list[list[int]] = tokenizer(lines, add_special_tokens=False)["input_ids"]
    common = 0
    shortest = min(map(len, encoded))
    while common < shortest and len({ids[common] for ids in encoded}) == 1:
        common += 1
    tokens = tuple(ids[common] if len(ids) == common + 1 else -1 for ids in encoded)
    if -1 in tokens or len(set(tokens)) != len(tokens):
        raise DPGError(
            f"{type(tokenizer).__name__} does not write each of the labels {', '.join(labels)} as one token of its own after "
            f"{(prompt + prefill)[-20:]!r}"
        )
    before = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prefill else common
    return tuple(encoded[0][:common]), min(before, common), tokens


def grown_tokenizer(model: Any, tokenizer: Any, personality: RowItem) -> StageTokenizer | None:
    """The tokenizer with stage tokens for somebody whose personality has a stage; None for everybody else."""
    row = read_row(personality)
    if row is None or row.stage is None or not isinstance(model, PersonalityModel):
        return None
    return model.stage_tokenizer(tokenizer)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first elements two sequences share."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
