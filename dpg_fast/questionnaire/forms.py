"""Forms of an inventory: the same items in other orders, with the options in other places under other labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from dpg_fast.questionnaire.inventory import Inventory, Item
from dpg_fast.text.prompting import Message
from dpg_fast.util.errors import DPGError

LABELS = "ABCDEFGHI"
Status = Literal["ok", "refusal", "invalid"]
_REFUSAL = re.compile(
    r"\b(?:as an ai|language model|i(?:'m| am) sorry|i apologi[sz]e|i (?:can(?:'t|not)|am unable|am not able|won't)|"
    r"i do(?: not|n't) have (?:personal|feelings|a personality))\b"
)


@dataclass(frozen=True)
class Form:
    """One way to print an inventory.

    Attributes:
        number: 0 is the plain form.
        item_order: positions of the items in the inventory, in the order of asking.
        option_order: rating (1..levels) that stands in each place.
        labels: label of each place.
    """

    number: int
    item_order: tuple[int, ...]
    option_order: tuple[int, ...]
    labels: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Form:
        """Read what `to_dict` gives."""
        return cls(value["number"], tuple(value["item_order"]), tuple(value["option_order"]), tuple(value["labels"]))


def make_forms(
    inventory: Inventory,
    count: int,
    *,
    seed: int = 0,
    items: bool = True,
    options: Literal["keep", "reverse", "shuffle"] = "shuffle",
    labels: bool = True,
) -> list[Form]:
    """``count`` forms. The first is plain: items as printed, options ascending, labels A, B, C ...

    Forms come in pairs whose options run in opposite directions (0 and 1, 2 and 3, ...), so that in an even number of forms
    a liking for first or last places cancels out of the mean rating of every item.

    Args:
        inventory: to be given.
        count: how many, at least 1.
        seed: the same seed gives the same forms, and more forms leave the first ones as they are.
        items: whether the later forms shuffle the items. It matters only where earlier items stay in the conversation.
        options: "keep" the ascending order, only "reverse" it in every second form, or draw an order for each later pair.
        labels: whether later pairs draw which label stands in which place.

    Raises:
        ValueError: no forms, or another word for options.
    """
    if count < 1:
        raise DPGError(f"at least one form is needed, not {count}")
    if options not in ("keep", "reverse", "shuffle"):
        raise DPGError(f"options are keep, reverse or shuffle, not {options!r}")
    levels, size = inventory.levels, len(inventory.items)
    forms = []
    for number in range(count):
        pair = np.random.default_rng([seed, number // 2])
        order, names = np.arange(1, levels + 1), np.array(list(LABELS[:levels]))
        drawn_order, drawn_names = pair.permutation(order), pair.permutation(names)
        if number >= 2:
            order = drawn_order if options == "shuffle" else order
            names = drawn_names if labels else names
        if number % 2 and options != "keep":
            order = order[::-1]
        asked = np.random.default_rng([seed, 1, number]).permutation(size) if items and number else np.arange(size)
        forms.append(Form(number, tuple(map(int, asked)), tuple(map(int, order)), tuple(map(str, names))))
    return forms


def question(inventory: Inventory, item: Item, form: Form) -> str:
    """The user's turn that asks for a rating of one item. The statement comes last: what is before it is shared by all items."""
    options = zip(form.labels, form.option_order, strict=True)
    lines = "\n".join(f"{label}. {inventory.options[rating - 1]}" for label, rating in options)
    return (
        "How accurately does the statement below describe you? Answer with one letter only.\n\n"
        f'{lines}\n\nStatement: "{inventory.statement(item)}"'
    )


def option_question(inventory: Inventory, form: Form, statement: str) -> str:
    """The same without labels, for comparing the likelihoods of the options' own texts."""
    lines = "\n".join(inventory.options[rating - 1] for rating in form.option_order)
    return (
        "How accurately does the statement below describe you? Answer with one of these:\n\n"
        f'{lines}\n\nStatement: "{statement}"'
    )


def messages(inventory: Inventory, form: Form, place: int, earlier: Sequence[str] = ()) -> list[Message]:
    """The conversation that asks the item in ``place`` of the form, after the answers (labels) to the items before it."""
    turns: list[Message] = []
    first = place - len(earlier)
    for offset, label in enumerate(earlier):
        asked = inventory.items[form.item_order[first + offset]]
        turns += [
            {"role": "user", "content": question(inventory, asked, form)},
            {"role": "assistant", "content": label},
        ]
    item = inventory.items[form.item_order[place]]
    return [*turns, {"role": "user", "content": question(inventory, item, form)}]


def read_answer(text: str, inventory: Inventory, form: Form) -> tuple[Status, int | None]:
    """The rating that a free answer gives: its leading label, else the one option that it quotes.

    Returns:
        ("ok", rating), ("refusal", None) for an answer that says it will not or cannot, or ("invalid", None).
    """
    body = text.strip()
    lead = re.match(
        r"(?:(?:my|the)?\s*answer\s*(?:is|:)\s*)?[\"'(\[*]*([A-I])[\"')\]*]*\s*(?:$|[.,:;)\n-])", body, re.IGNORECASE
    )
    if lead and lead[1].upper() in form.labels:
        return "ok", form.option_order[form.labels.index(lead[1].upper())]
    lowered = body.casefold().replace("\u2019", "'")
    if _REFUSAL.search(lowered):
        return "refusal", None
    found = [
        n for n, option in enumerate(inventory.options, 1) if re.search(rf"\b{re.escape(option.casefold())}\b", lowered)
    ]
    # "accurate" stands inside "very accurate": only the longest of nested options counts
    texts = [inventory.options[n - 1].casefold() for n in found]
    whole = [
        n for n, text in zip(found, texts, strict=True) if not any(text != other and text in other for other in texts)
    ]
    return ("ok", whole[0]) if len(whole) == 1 else ("invalid", None)
