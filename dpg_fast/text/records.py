"""Records on disk: JSON Lines, one pydantic model for each kind of line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
)

from dpg_fast.personality.scores import MAX_SCORE, MIN_SCORE, Personality
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_atomically
from dpg_fast.util.reading import explain, text_lines

T = TypeVar("T", bound=BaseModel)
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Score = Annotated[float, Field(ge=MIN_SCORE, le=MAX_SCORE, allow_inf_nan=False)]


class Turn(BaseModel):
    """One message of a conversation.

    Attributes:
        role: who speaks.
        content: what is said.
        name: which of several speakers this is, where the role does not say; left out of what is written if there is none.
    """

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str
    name: Text | None = None

    @model_serializer(mode="wrap")
    def _without_empty_name(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        return found if self.name is not None else {key: value for key, value in found.items() if key != "name"}


Scores = tuple[Score, Score, Score, Score, Score]
OpenScores = tuple[Score | None, Score | None, Score | None, Score | None, Score | None]


class JudgeNote(BaseModel):
    """Who scored a record, and what was found.

    Attributes:
        model: its name.
        prompt_version: of the prompt's wording.
        cost: what it cost, in `currency`; None: unknown.
        scores: as judged, -5..5, OCEAN order, None where the judge found no evidence; None altogether: not recorded.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    prompt_version: str
    cost: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    currency: str | None = None
    scores: OpenScores | None = None


class Origin(BaseModel):
    """Where in which script a conversation is from, and how it lies to its character's other ones.

    Attributes:
        id: content address of the script's segment, or of the generated text.
        script: the file's name without its ending; of generated text, the cast.
        scene, heading, lines: place in the script; none of generated text. Lines count from 1.
        generated: written by a model in the character's manner, not taken from a script.
        scores: what the judge gave this conversation, -5..5, OCEAN order; of `imputed` traits the centre.
        imputed: traits of which the judge found no evidence in it.
        centre: mean scores of the character's training conversations.
        distance: Euclidean, from the judged scores to `centre`; with imputed traits, the others' distance scaled to five.
        outlier: far from the character's other conversations in at least one trait.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    script: str
    scene: int | None = None
    heading: str | None = None
    lines: tuple[int, int] | None = None
    generated: bool = False
    scores: Scores
    imputed: list[str] = []
    centre: Scores | None = None
    distance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    outlier: bool = False


class DialogueRecord(BaseModel):
    """A conversation, and what is known about who speaks as the assistant.

    Attributes:
        messages: the turns, at least one, in the `messages` convention of chat templates.
        personality: five scores in -5..5, OCEAN order; None if unknown.
        character: whose voice the assistant has, if anybody's.
        stage: stage of that character's life or story.
        source: where the text is from.
        judge: who gave the personality's scores.
        origin: place in a labelled script.
    """

    model_config = ConfigDict(extra="forbid")

    messages: list[Turn] = Field(min_length=1)
    personality: Scores | None = None
    character: str | None = None
    stage: str | None = None
    source: str
    judge: JudgeNote | None = None
    origin: Origin | None = None

    def get_personality(self) -> Personality | None:
        """The scores as a `Personality`."""
        return None if self.personality is None else Personality(self.personality)


class QuestionRecord(BaseModel):
    """A line of a PersonalityBench question file. Other keys (such as the published `old_data`) are ignored."""

    question: Text


class DroppedRecord(BaseModel):
    """A text that a rule removed, and why."""

    kind: Literal["question", "description", "dialogue"]
    target: str  # a trait ("openness"), a pole ("O+") or a character
    text: str
    reason: str
    detail: str = ""
    similar_to: str | None = None


def read_records(path: Path | str, model: type[T]) -> Iterator[T]:
    """The records of a JSON Lines file, one at a time; empty lines are skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not UTF-8, not JSON or not such a record; the message names file and line.
    """
    return (record for _, record in numbered_records(path, model))


def numbered_records(path: Path | str, model: type[T], name: str | None = None) -> Iterator[tuple[str, T]]:
    """As :func:`read_records`, each with its place, "file, line 3"; ``name`` is what the file is called there."""
    for where, line in text_lines(path, name):
        try:
            yield where, model.model_validate_json(line)
        except ValidationError as error:
            raise DPGError(f"{where}: {explain(error)}") from error


def write_records(path: Path | str, records: Iterable[BaseModel]) -> int:
    """Write records as JSON Lines, atomically and one at a time; how many there were."""
    count = 0

    def write(temporary: str) -> None:
        nonlocal count
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(record.model_dump_json() + "\n")
                count += 1

    write_atomically(Path(path), write)
    return count
