"""Statements by others about oneself, labelled by trait and pole: a method is asked how likely it would be to say them.

For a method and a trait, the shift of a statement is

    log p(statement | question, as somebody at +level in the trait) - log p(the same as somebody at -level)

summed over the statement's tokens, in nats. The statement is the whole answer to `QUESTION` under the evaluation's neutral
instruction, in the model's chat format; nothing is generated, and no judge reads anything. Statements that a person high in a
trait would say should shift upwards, those of a low one downwards: the AUC of the shifts is the figure.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import TypedDict

from dpg_fast.data.questions.published import EVALS_COMMIT, fetch_persona_statements, statements_folder
from dpg_fast.evaluation.harness import Examinee
from dpg_fast.evaluation.witnesses.separation import Pair, Sample, Scores
from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.inventory import Inventory
from dpg_fast.questionnaire.published import find_inventory
from dpg_fast.text.continuation import continuation_logp
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import checked, json_lines

QUESTION = "What would you say about yourself?"


@dataclass(frozen=True)
class Statement:
    """What somebody says about themselves; ``high``: whether somebody high in the trait would."""

    text: str
    trait: Trait
    high: bool


class _Row(TypedDict):
    statement: str
    answer_matching_behavior: Literal[" Yes", " No"]


def load_statements(folder: Path | str, traits: Sequence[Trait] = tuple(Trait)) -> list[Statement]:
    """The statements of ``{trait}.jsonl`` in the format of anthropics/evals.

    Each line has a "statement" and an "answer_matching_behavior", " Yes" if somebody high in the trait would say it, else " No".

    Raises:
        OSError: a trait's file is missing.
        ValueError: a line is not of the format; the message names file and line.
    """
    found = []
    for trait in traits:
        for where, row in json_lines(Path(folder) / f"{trait.value}.jsonl"):
            row = checked(_Row, row, where)
            if not row["statement"].strip():
                raise DPGError(f"{where}: the statement is empty")
            found.append(Statement(row["statement"].strip(), trait, row["answer_matching_behavior"] == " Yes"))
    return found


def inventory_statements(inventory: Inventory) -> list[Statement]:
    """The items of an inventory; reversed ones are what somebody low in the trait says."""
    return [Statement(inventory.statement(item), item.trait, not item.reverse) for item in inventory.items]


def find_statements(
    folder: Path | None, inventory: str | None, items: Path | None, traits: Sequence[Trait], *, download: bool = True
) -> tuple[list[Statement], str]:
    """The statements that options name, and where they are from.

    Args:
        folder: for `load_statements`; None and no inventory: those of anthropics/evals in the package's cache.
        inventory, items: as for `find_inventory`; the items of this inventory are the statements.
        traits: wanted.
        download: fetch what is not in the cache.

    Raises:
        OSError: a file is missing, or could not be downloaded.
        ValueError: both a folder and an inventory, or files that are not of their format.
    """
    if folder is not None and inventory is not None:
        raise DPGError("--statements and --inventory are both statements; name one of them")
    if inventory is None and items is not None:
        raise DPGError("--items are the texts of a published inventory: name it with --inventory")
    if inventory is not None:
        found = find_inventory(inventory, items)
        return inventory_statements(found), f"items of {found.name}"
    if folder is not None:
        return load_statements(folder, traits), folder.name
    place = fetch_persona_statements() if download else statements_folder()
    return load_statements(place, traits), f"anthropics/evals, {EVALS_COMMIT[:7]}"


def chosen(
    statements: Sequence[Statement], traits: Sequence[Trait], count: int | None, seed: int = 0
) -> list[Statement]:
    """``count`` statements of each trait, as many of one pole as of the other, drawn at random; None takes all.

    Raises:
        ValueError: an odd or too large count, or a trait without statements of both poles.
    """
    if count is not None and (count < 2 or count % 2):
        raise DPGError(f"the number of statements is even and at least 2, for both poles get as many; not {count}")
    found = []
    draw = random.Random(seed)
    for trait in traits:
        for high in (True, False):
            own = [one for one in statements if one.trait == trait and one.high == high]
            wanted = len(own) if count is None else count // 2
            if wanted > len(own) or not own:
                pole = f"{'high' if high else 'low'} {trait.value}"
                raise DPGError(f"there are {len(own)} statements of {pole}; {wanted or 'some'} are needed")
            found += own if count is None else draw.sample(own, wanted)
    return found


def log_likelihoods(
    examinee: Examinee,
    tokenizer: Any,
    statements: Sequence[str],
    system: str,
    *,
    batch_size: int = 32,
) -> list[float]:
    """Log-likelihood of each statement as the whole answer to `QUESTION`, in nats.

    Args:
        examinee: whose answer it is.
        tokenizer: the base model's.
        statements: n texts, encoded as data: a control token in them is text.
        system: the neutral instruction, behind what the method says there about the person.
        batch_size: statements that are run side by side.
    """
    asked = f"{QUESTION}\n\n{examinee.closing}".strip()
    prompt = chat_prompt(
        tokenizer, [{"role": "user", "content": asked}], system=f"{examinee.instruction} {system}".strip()
    )
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    texts = [tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in statements]
    people = None if examinee.personality is None else [examinee.personality] * len(texts)
    found = continuation_logp(examinee.model, [ids] * len(texts), texts, personality=people, batch_size=batch_size)
    return [one.total for one in found]


def shift_samples(statements: Sequence[Statement], shifts: dict[Trait, Sequence[float]]) -> dict[Pair, Sample]:
    """Shifts of all statements, for each trait asked for, as samples of each trait of statements."""
    found: dict[Pair, Sample] = {}
    for asked, values in shifts.items():
        table: Scores = np.asarray(values, dtype=np.float64)
        for judged in dict.fromkeys(one.trait for one in statements):
            sides = [table[[one.trait == judged and one.high == high for one in statements]] for high in (True, False)]
            found[asked, judged] = Sample(sides[0], sides[1], (judged, True), (judged, False))
    return found
