"""The prompt-only baseline over an API: a (strong) model is told the five scores and answers in character."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dpg_fast.evaluation.harness import Examinee
from dpg_fast.evaluation.methods import SimplePrompt
from dpg_fast.llm import Call, LLMClient, LLMError, Usage
from dpg_fast.personality.scores import Personality
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.personas import score_text
from dpg_fast.util.errors import DPGError

PROMPT_VERSION = "play-a-personality-1"
_ROOM = (
    3  # a reply may be this often as long as an answer, and JSON around it: a reply that is cut is paid for and lost
)
_JSON_TOKENS = 40


class SpokenReply(BaseModel):
    """A model's reply."""

    model_config = ConfigDict(title="Spoken")  # part of the key of replies in a cache

    words: str = Field(description="what the person says, nothing else")


class APIPrompt:
    """A model behind an API, told the five scores in numbers and words in its instruction. Nothing of it is trained.

    Answers are cut to as many tokens (of the base model's tokenizer) as every other method's. DPG compared itself with a
    prompted GPT-4; its prompt is not public, this one is ours.

    Args:
        client: the model, its stored replies and its parameters.
        tokenizer: of the base model; counts tokens.
        settings: of the answers.
    """

    name: str = "prompt over an API"
    neutral_is_bare: bool = False
    has_likelihoods: bool = False

    def __init__(self, client: LLMClient, tokenizer: Any, settings: AnswerSettings) -> None:
        self.client, self.tokenizer, self.settings = client, tokenizer, settings
        self.failures: dict[str, str] = {}
        self.paid = Usage()

    def describe(self) -> str:
        lost = f" {len(self.failures)} replies were unusable and count as empty answers." if self.failures else ""
        return (
            f"{self.client.settings.model} over an API, prompted with the scores in numbers and words (wording ours, "
            f"{PROMPT_VERSION}); answers cut to {self.settings.max_new_tokens} tokens of the base model.{lost}"
        )

    def about(self) -> Mapping[str, Any]:
        settings = self.client.settings
        return {
            "api": settings.model,
            "parameters": dict(settings.parameters),
            "prompt": PROMPT_VERSION,
            "example": self.instruction(Personality("O5 C-4 E3 A-2 N1")),
        }

    def instruction(self, personality: Personality | None) -> str:
        """The system message."""
        if personality is None or personality.is_neutral:
            return self.settings.system
        return f"{score_text(personality)} {SimplePrompt.words(personality)} Stay in character. {self.settings.system}"

    def calls(self, asked: Iterable[tuple[str, Personality | None]]) -> list[Call[SpokenReply]]:
        """What is sent for (question, personality) pairs."""
        limit = {"max_completion_tokens": _ROOM * self.settings.max_new_tokens + _JSON_TOKENS}
        found = []
        for question, personality in asked:
            messages = [
                {"role": "system", "content": self.instruction(personality)},
                {"role": "user", "content": question},
            ]
            found.append(Call(f"{personality}: {question}", messages, SpokenReply, PROMPT_VERSION, limit))
        return found

    @property
    def cost(self) -> float | None:
        """What this program's calls cost so far; None if the model has no price."""
        return self.client.prices.cost(self.client.settings.model, self.paid)

    def prepare(self) -> None:
        pass

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        """One answer for each; empty where the model refused or its reply could not be read.

        Raises:
            LLMError: a call got no answer from the server; what came before is stored, so the run can be started again.
        """
        run = self.client.run(self.calls(zip(questions, personalities, strict=True)))
        self.paid += run.paid
        answers = []
        for result in run.results:
            if result.failure is not None and not result.failure.final:
                raise LLMError(f"{result.item}: {result.failure.kind}: {result.failure.detail}")
            if result.failure is not None:
                self.failures[result.item] = f"{result.failure.kind}: {result.failure.detail}"
            answers.append("" if result.value is None else self._cut(result.value.words))
        return answers

    def examinee(self, personality: Personality | None) -> Examinee:
        """Not to be had.

        Raises:
            ValueError: always; an API gives no likelihoods of given answers.
        """
        raise DPGError(f"{self.name} cannot sit tasks: an API gives no likelihoods of given answers")

    def close(self) -> None:
        pass

    def _cut(self, text: str) -> str:
        ids = self.tokenizer(text.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if len(ids) <= self.settings.max_new_tokens:
            return text.strip()
        return str(self.tokenizer.decode(ids[: self.settings.max_new_tokens])).strip()
