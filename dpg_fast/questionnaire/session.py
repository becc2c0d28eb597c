"""What an administration was given and what came of it; kept on disk so that a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dpg_fast.personality.row import RowItem, read_row
from dpg_fast.personality.scores import Personality
from dpg_fast.questionnaire.forms import Form, Status
from dpg_fast.questionnaire.inventory import Inventory
from dpg_fast.util.errors import DPGError
from dpg_fast.util.store import Store

Method = Literal["logprobs", "generate"]
METHODS: tuple[Method, ...] = get_args(Method)
ANSWER_KEY = ("respondent", "form", "item")


@dataclass(frozen=True)
class Respondent:
    """Somebody who fills in the form.

    Attributes:
        label: unique name.
        personality: given to a `PersonalityModel`; None is the base model.
        system: a system text, such as a description of a person: steering by prompt, to compare with.
        asked: the personality that the system text describes, if it is known: what measured scores are compared with.
    """

    label: str
    personality: RowItem = None
    system: str | None = None
    asked: Personality | None = None

    @property
    def target(self) -> Personality | None:
        """The five scores asked for, by whatever means; None if there are none."""
        return self.personality if isinstance(self.personality, Personality) else self.asked

    @property
    def stage(self) -> tuple[str, str] | None:
        """(character, stage of its life) that the personality names, or None."""
        row = read_row(self.personality)
        return None if row is None else row.stage

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a personality as text."""
        return {
            "label": self.label,
            "personality": None if self.personality is None else str(self.personality),
            "system": self.system,
            "asked": None if self.asked is None else str(self.asked),
        }


@dataclass(frozen=True)
class AdministrationSettings:
    """How items are put to the model.

    Attributes:
        method: "logprobs" reads the probabilities of the option labels after the prompt (the rating is their expected value);
            "generate" lets the model write its answer.
        constrained: with "generate", allow nothing but a label.
        temperature: of constrained generation; 0 takes the most probable label. Free answers are greedy.
        context: how many earlier items stay in the conversation, with the answers given to them (most probable labels).
        prefill: beginning of the answer, written for the model, such as "My answer is".
        steer: tokens whose neurons are steered: "all", or those of the "answer" (from the last token of the prompt, or the
            first of the prefill, on). LoRA always acts on all.
        batch_size: prompts in one forward pass.
        max_new_tokens: length of a free answer.
        seed: of sampling.

    Raises:
        ValueError: a setting out of range.
    """

    method: Method = "logprobs"
    constrained: bool = True
    temperature: float = 0.0
    context: int = 0
    prefill: str = ""
    steer: Literal["all", "answer"] = "all"
    batch_size: int = 16
    max_new_tokens: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DPGError(f"method is one of {', '.join(METHODS)}; not {self.method!r}")
        if self.steer not in ("all", "answer"):
            raise DPGError(f"steer is all or answer, not {self.steer!r}")
        if min(self.batch_size, self.max_new_tokens) < 1 or self.context < 0 or not 0 <= self.temperature < 100:
            raise DPGError("batch_size and max_new_tokens are at least 1, context and temperature not negative")
        if self.temperature and (self.method != "generate" or not self.constrained):
            raise DPGError("a temperature belongs to constrained generation")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """One item of one form, answered by one respondent.

    Attributes:
        status: "ok", "refusal" or "invalid".
        rating: 1..levels, an expected value with log-probabilities; None if there was no valid answer.
        distribution: probability of the ratings 1, 2, ... among the labels; None for free answers.
        mass: probability of all labels together; the rest is what the model would have said instead.
        text: what was generated.
    """

    respondent: str
    form: int
    item: str
    status: Status
    rating: float | None
    distribution: tuple[float, ...] | None = None
    mass: float | None = None
    text: str | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """What identifies it within a session; the values of `ANSWER_KEY`."""
        return self.respondent, self.form, self.item

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Answer:
        """The answer of which ``row`` holds the fields in JSON types."""
        shares = row["distribution"]
        return cls(**{**row, "distribution": None if shares is None else tuple(shares)})


@dataclass
class Session:
    """All answers to an inventory by some respondents on some forms.

    Attributes:
        model: its name.
        identity: what tells it from other models of that name (see `model_identity`).
        answers: (respondent, form, item) -> answer.
    """

    inventory: Inventory
    respondents: Sequence[Respondent]
    forms: Sequence[Form]
    settings: AdministrationSettings
    model: str
    identity: str = ""
    answers: dict[tuple[str, int, str], Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = [respondent.label for respondent in self.respondents]
        if not labels or len(set(labels)) != len(labels):
            raise DPGError(f"at least one respondent is needed, each with a label of its own: {labels}")
        if not self.forms or len({form.number for form in self.forms}) != len(self.forms):
            raise DPGError("at least one form is needed, each with a number of its own")

    @property
    def total(self) -> int:
        """How many answers a complete session has."""
        return len(self.respondents) * len(self.forms) * len(self.inventory.items)

    def ratings(self) -> NDArray[np.float64]:
        """[respondents, forms, items], as given (not reversed), nan where there is no valid answer."""
        table = np.full((len(self.respondents), len(self.forms), len(self.inventory.items)), np.nan)
        for r, respondent in enumerate(self.respondents):
            for f, form in enumerate(self.forms):
                for i, item in enumerate(self.inventory.items):
                    answer = self.answers.get((respondent.label, form.number, item.id))
                    if answer is not None and answer.rating is not None:
                        table[r, f, i] = answer.rating
        return table

    def header(self) -> dict[str, Any]:
        """What must be the same for answers to belong together."""
        return {
            "model": self.model,
            "identity": self.identity,
            "inventory": self.inventory.to_dict(),
            "respondents": [respondent.to_dict() for respondent in self.respondents],
            "forms": [form.to_dict() for form in self.forms],
            "settings": self.settings.to_dict(),
        }

    def store(self, path: Path | str | None) -> Store:
        """The file of the answers, whose answers of an earlier run are taken over. The batch size may differ from that run's.

        Raises:
            ValueError: the file is of another session or another format, or another process is writing it.
        """
        found = Store(path, self.header(), ANSWER_KEY, free={"settings.batch_size"}.__contains__)
        try:
            answers = [Answer.from_dict(row) for row in found.rows.values()]
        except (TypeError, KeyError) as error:
            found.close()
            raise DPGError(
                f"{path} does not hold answers of a session ({error!r}); remove it to start again"
            ) from error
        self.answers.update((answer.key, answer) for answer in answers)
        return found


def by_prompt(respondents: Sequence[Respondent], persona: Callable[[Personality], str]) -> list[Respondent]:
    """The same people as instructions to the bare model: the baseline of every other way.

    Args:
        respondents: those without a personality stay as they are.
        persona: text that describes a personality; an empty one gives no instruction.

    Raises:
        ValueError: somebody is a stored character, which no text describes.
    """
    found = []
    for respondent in respondents:
        if respondent.personality is None:
            found.append(respondent)
            continue
        if not isinstance(respondent.personality, Personality):
            raise DPGError(f"{respondent.label!r} is not given by five scores, so no text can describe it")
        text = persona(respondent.personality)
        found.append(Respondent(respondent.label, system=text or None, asked=respondent.personality))
    return found


def population(count: int, *, seed: int = 0) -> list[Respondent]:
    """``count`` people whose five scores are drawn evenly from -5..5 (rounded to 0.5), named p01, p02, ...

    The scores of each trait are a shuffled even spread (a Latin hypercube), so that few people cover every trait.

    Raises:
        ValueError: no people.
    """
    if count < 1:
        raise DPGError(f"a population has at least one person, not {count}")
    rng = np.random.default_rng(seed)
    columns = []
    for _ in range(5):
        cells = (rng.permutation(count) + rng.random(count)) / count
        columns.append(np.round((cells * 10 - 5) * 2) / 2)
    scores = np.stack(columns, axis=1)
    return [Respondent(f"p{n:02d}", Personality(row.tolist())) for n, row in enumerate(scores, 1)]
