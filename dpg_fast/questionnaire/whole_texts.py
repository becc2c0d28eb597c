"""Read ratings from how probable whole texts are, instead of from labels: small models pick a label by its place or letter.

Four ways, from the log-likelihoods log p(text | prompt) that the respondent's model gives:

- "text": each option's own text as the answer, mean over its tokens. The ratings' shares are a softmax over the options.
- "pmi": log p(option | question) - log p(option | the same question with the statement left blank), summed over tokens: what the
  statement adds to an option that is likely anyway (Holtzman et al. 2021, "Surface form competition", with this prompt as the
  domain). Softmax over the options.
- "statement": the statement itself as the answer to "what is true of you?" and to "what is not true of you?". Its probability of
  belonging to the first, at even odds, is the rating's place between the ends of the scale. No options are shown.
- "shift": the statement as the answer to "what is true of you?", mean over its tokens, compared with the same model without
  any personality or system text; a logistic curve maps the difference in nats per token to the scale. The bare model is at
  the midpoint by definition, so this says what a personality changes, and nothing about the model itself.

"text" and "pmi" list the options in the form's order, without labels; "statement" and "shift" word their question differently on
every form (:data:`FRAMES`, in turn).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpg_fast.compat.transformers import cache_argument, output_cache
from dpg_fast.model import PersonalityModel
from dpg_fast.model.chatting import StageTokenizer, padding
from dpg_fast.personality.row import RowItem, read_row
from dpg_fast.questionnaire.forms import Form
from dpg_fast.questionnaire.inventory import Inventory, Item
from dpg_fast.questionnaire.session import AdministrationSettings, Answer, Respondent
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.util.errors import DPGError

#: questions about what is, and what is not, true of the respondent; a form takes one pair
FRAMES = (
    ("Tell me one thing that is true of you.", "Tell me one thing that is not true of you."),
    ("Describe yourself in one sentence.", "Describe in one sentence how you are not."),
    ("Which sentence fits you very well?", "Which sentence does not fit you at all?"),
    ("Say something about yourself that everybody who knows you would confirm.",
     "Say something about yourself that everybody who knows you would deny."),
    ("What are you like?", "What are you not like at all?"),
    ("Give an accurate statement about yourself.", "Give an inaccurate statement about yourself."),
)  # fmt: skip
BLANK = "..."  # stands for the statement where "pmi" asks without one


@dataclass(frozen=True)
class TextRow:
    """A text whose likelihood is wanted.

    Attributes:
        ids: the prompt's tokens and then the text's.
        length: tokens of the text, at least 1.
        personality: of the row.
    """

    ids: tuple[int, ...]
    length: int
    personality: RowItem = None


def grown_tokenizer(model: Any, tokenizer: Any, personality: RowItem) -> StageTokenizer | None:
    """The tokenizer with stage tokens for somebody whose personality has a stage; None for everybody else."""
    row = read_row(personality)
    if row is None or row.stage is None or not isinstance(model, PersonalityModel):
        return None
    return model.stage_tokenizer(tokenizer)


class TextReader:
    """Answers items of a session by the likelihoods of whole texts.

    Args:
        model: a `PersonalityModel`, or any causal LM if nobody has a personality.
        tokenizer: with a chat template.
        inventory: the items.
        settings: method "text", "pmi", "statement" or "shift".
        last_only: whether the model can leave out the logits of earlier positions.
    """

    def __init__(
        self, model: Any, tokenizer: Any, inventory: Inventory, settings: AdministrationSettings, last_only: bool
    ) -> None:
        self.model, self.tokenizer, self.inventory = model, tokenizer, inventory
        self.settings, self.last_only = settings, last_only
        self._kept: dict[tuple[Any, ...], NDArray[np.float64]] = {}
        self._tokens: dict[str, tuple[int, ...]] = {}

    def batches(self, tasks: Sequence[tuple[Respondent, Form, Item]]) -> Iterator[list[Answer]]:
        """Answers to the tasks, a batch at a time; tasks of one respondent and form share the beginning of their prompts."""
        groups: dict[tuple[str, int], list[tuple[Respondent, Form, Item]]] = {}
        for task in tasks:
            groups.setdefault((task[0].label, task[1].number), []).append(task)
        for group in groups.values():
            for start in range(0, len(group), self.settings.batch_size):
                part = group[start : start + self.settings.batch_size]
                yield self._answers(part[0][0], part[0][1], [item for _, _, item in part])

    def _answers(self, person: Respondent, form: Form, items: Sequence[Item]) -> list[Answer]:
        if self.settings.method in ("text", "pmi"):
            return self._by_options(person, form, items)
        return self._by_statement(person, form, items)

    def _by_options(self, person: Respondent, form: Form, items: Sequence[Item]) -> list[Answer]:
        options, pmi = self.inventory.options, self.settings.method == "pmi"
        rows = [
            self._row(person, option_question(self.inventory, form, self.inventory.statement(item)), option)
            for item in items
            for option in options
        ]
        sums = self.likelihoods(rows).reshape(len(items), len(options))
        if pmi:
            key = (person.label, form.number)
            if key not in self._kept:
                blank = option_question(self.inventory, form, BLANK)
                self._kept[key] = self.likelihoods([self._row(person, blank, option) for option in options])
            values = sums - self._kept[key]
        else:
            values = sums / np.array([row.length for row in rows], dtype=np.float64).reshape(sums.shape)
        shares = np.exp(values - np.logaddexp.reduce(values, axis=1, keepdims=True))
        mass = np.minimum(1.0, np.exp(sums).sum(axis=1))  # what is left over would have begun otherwise
        scale = np.arange(1, len(options) + 1)
        return [
            Answer(
                person.label, form.number, item.id, "ok", float(np.clip(share @ scale, 1, len(options))),
                tuple(share.tolist()), float(total),
            )
            for item, share, total in zip(items, shares, mass, strict=True)
        ]  # fmt: skip

    def _by_statement(self, person: Respondent, form: Form, items: Sequence[Item]) -> list[Answer]:
        true, untrue = FRAMES[form.number % len(FRAMES)]
        texts = [self.inventory.statement(item) for item in items]
        rows = [self._row(person, true, text) for text in texts]
        found = self.likelihoods(rows)
        if self.settings.method == "statement":
            gap = found - self.likelihoods([self._row(person, untrue, text) for text in texts])
        else:
            gap = (found - self._bare(true, texts)) / np.array([row.length for row in rows])
        place = 1 / (1 + np.exp(-np.clip(gap, -500, 500)))
        ratings = 1 + (self.inventory.levels - 1) * place
        return [
            Answer(person.label, form.number, item.id, "ok", float(rating))
            for item, rating in zip(items, ratings, strict=True)
        ]

    def _bare(self, frame: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """Log-likelihoods under the model without personality or system text."""
        nobody = Respondent("")
        missing = [text for text in texts if (frame, text) not in self._kept]
        if missing:
            found = self.likelihoods([self._row(nobody, frame, text) for text in missing])
            self._kept.update(((frame, text), value) for text, value in zip(missing, found, strict=True))
        return np.array([self._kept[frame, text] for text in texts])

    def _row(self, person: Respondent, asked: str, text: str) -> TextRow:
        turns = [{"role": "user", "content": asked}]
        grown = grown_tokenizer(self.model, self.tokenizer, person.personality)
        if grown is None:
            prompt = chat_prompt(self.tokenizer, turns, system=person.system)
            before, whole = self._encode(prompt), self._encode(prompt + text)
        else:
            prompt = chat_prompt(grown.tokenizer, grown.label(turns, person.personality), system=person.system)
            parts = grown.tokenizer([prompt, prompt + text], add_special_tokens=False)["input_ids"]
            before, whole = (tuple(grown.own_ids(ids)) for ids in parts)
        # where the tokenizer joins the seam, the text begins with the joined token
        start = common_length(before, whole)
        if start == len(whole):
            raise DPGError(f"{type(self.tokenizer).__name__} writes no token for the text {text!r}")
        return TextRow(whole, len(whole) - start, person.personality)

    def _encode(self, text: str) -> tuple[int, ...]:
        if text not in self._tokens:
            if len(self._tokens) > 100_000:
                self._tokens.clear()
            self._tokens[text] = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._tokens[text]

    def likelihoods(self, rows: Sequence[TextRow]) -> NDArray[np.float64]:
        """Log-likelihood of each row's text in nats, float64 [rows]; the rows are one respondent's.

        What all prompts begin with is run once, every prompt once, and only the texts for each row.
        """
        prompts: dict[tuple[int, ...], list[int]] = {}
        for n, row in enumerate(rows):
            prompts.setdefault(row.ids[: -row.length], []).append(n)
        order = sorted(prompts, key=len)  # less padding
        shared = min(min(common_length(order[0], ids) for ids in order), len(order[0]) - 1)
        cache = self._prefix(order[0][:shared], rows[0].personality) if shared > 0 else None
        size = self.settings.batch_size
        step = max(1, size * len(prompts) // len(rows))
        result = np.zeros(len(rows))
        for start in range(0, len(order), step):
            asked = order[start : start + step]
            first, own, mask = self._ask(asked, rows[0].personality, cache, max(shared, 0))
            places = [(n, which) for which, ids in enumerate(asked) for n in prompts[ids]]
            for begin in range(0, len(places), size):
                part = places[begin : begin + size]
                result[[n for n, _ in part]] = self._score(
                    [rows[n] for n, _ in part], torch.tensor([which for _, which in part]), first, own, mask
                )
        return result

    def _prefix(self, ids: tuple[int, ...], personality: RowItem) -> Any:
        extra: dict[str, Any] = {"logits_to_keep": 1} if self.last_only else {}
        batch = torch.tensor([ids], device=self.model.device)
        return output_cache(self._forward(batch, [personality], len(ids), **extra))

    def _ask(
        self, prompts: Sequence[tuple[int, ...]], personality: RowItem, cache: Any, cached: int
    ) -> tuple[Tensor, Any, Tensor]:
        """What comes after each prompt: log-probabilities [n, vocabulary], the cache, and its mask [n, tokens]."""
        width = max(map(len, prompts)) - cached
        ids = torch.full((len(prompts), width), padding(self.tokenizer, self.model))
        mask = torch.ones((len(prompts), cached + width), dtype=torch.long)
        for n, prompt in enumerate(prompts):
            rest = len(prompt) - cached
            ids[n, width - rest :] = torch.tensor(prompt[cached:])
            mask[n, cached : cached + width - rest] = 0
        extra: dict[str, Any] = {"logits_to_keep": 1} if self.last_only else {}
        if cache is not None:
            own = copy.deepcopy(cache)
            own.batch_repeat_interleave(len(prompts))
            extra |= cache_argument(self.model, own)
        mask = mask.to(self.model.device)
        output = self._forward(
            ids.to(self.model.device), [personality] * len(prompts), cached + width - 1, mask=mask, **extra
        )
        return output.logits[:, -1].float().log_softmax(1), output_cache(output), mask

    def _score(
        self, rows: Sequence[TextRow], which: Tensor, first: Tensor, cache: Any, mask: Tensor
    ) -> NDArray[np.float64]:
        """Log-likelihoods of texts, each after prompt ``which``."""
        device, longest = self.model.device, max(row.length for row in rows)
        which = which.to(device)
        ids = torch.full((len(rows), longest), padding(self.tokenizer, self.model))
        real = torch.zeros((len(rows), longest), dtype=torch.long)
        for n, row in enumerate(rows):
            ids[n, : row.length] = torch.tensor(row.ids[-row.length :])
            real[n, : row.length] = 1
        ids, real = ids.to(device), real.to(device)
        found = first[which].gather(1, ids[:, :1])
        if longest > 1:
            own = copy.deepcopy(cache)
            own.batch_select_indices(which)
            output = self._forward(
                ids[:, :-1],
                [row.personality for row in rows],
                0,
                mask=torch.cat([mask[which], real[:, :-1]], dim=1),
                **cache_argument(self.model, own),
            )
            logits = output.logits.float()
            later = logits.gather(2, ids[:, 1:, None])[:, :, 0] - logits.logsumexp(2)
            found = torch.cat([found, later], dim=1)
        sums: NDArray[np.float64] = found.double().masked_fill(real == 0, 0.0).sum(1).cpu().numpy()
        return sums

    def _forward(
        self, ids: Tensor, people: Sequence[RowItem], answer_from: int, *, mask: Tensor | None = None, **extra: Any
    ) -> Any:
        """One pass; ``answer_from`` is the first token that steer="answer" steers, earlier tokens of the cache counted."""
        if isinstance(self.model, PersonalityModel):
            extra["personality"] = list(people)
            extra["steer_from"] = 0 if self.settings.steer == "all" else answer_from
        if mask is not None:
            extra["attention_mask"] = mask
            extra["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        return self.model(input_ids=ids, use_cache=True, **extra)


def option_question(inventory: Inventory, form: Form, statement: str) -> str:
    """The user's turn of "text" and "pmi": the options in the form's order without labels, and then the statement."""
    lines = "\n".join(inventory.options[rating - 1] for rating in form.option_order)
    return (
        "How accurately does the statement below describe you? Answer with one of these:\n\n"
        f'{lines}\n\nStatement: "{statement}"'
    )


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first elements two sequences share."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))
