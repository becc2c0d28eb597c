"""A judge over an API, after the protocol of NPTI's evaluation (arXiv 2410.12327).

From NPTI: one call rates how strongly an answer shows the trait, from 1 to 5, seeing question and answer and told the trait's
six facets; a separate call rates fluency from 1 to 5, seeing the answer alone and told to pass over informality and length;
each explains itself in at most 30 words before it rates; temperature 0.

Ours: the wording of the prompts, structured replies in place of a rating in double square brackets, the fences around the texts,
and the map of a rating r to a score, 2.5 (r - 3), which puts it on the -5..5 scale of this package. Ratings made here are
therefore not comparable digit for digit with published ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from dpg_fast.judges.base import APIJudge
from dpg_fast.llm import Call, Fence, LLMClient, Plan, Result, Usage
from dpg_fast.personality.scores import MAX_SCORE, Trait
from dpg_fast.text.facets import FACETS
from dpg_fast.util.progress import Count

PROMPT_VERSION = "npti-like-1"
REPLY_TOKENS = 80  # of thirty words and their frame
_TRAIT_SYSTEM = """You are an impartial judge of texts. You rate how strongly an answer shows the Big Five trait {trait}.
Look at what the answer shows of {facets}.
First explain your rating objectively in at most 30 words. Then give it: a whole number from 1 (the answer shows the opposite \
of the trait, or nothing of it) to 5 (it shows the trait very strongly).
{notice}"""
_TRAIT_USER = """This question was asked:
{question}

This answer was given:
{answer}

Rate how strongly the answer shows {trait}, by its content alone."""
_FLUENCY_SYSTEM = """You are an impartial judge of texts. You rate how fluent an answer in a conversation is: how smoothly and \
naturally it puts thoughts and feelings into words. Informal language and length do not matter.
First explain your rating objectively in at most 30 words. Then give it: a whole number from 1 (not fluent) to 5 (fully fluent).
{notice}"""
_FLUENCY_USER = """This answer was given:
{answer}

Rate how fluent it is."""
FLUENCY = "fluency"


class Rating(BaseModel):
    """A judge's reply: the explanation comes first, so that the rating follows from it."""

    explanation: str = Field(description="at most 30 words")
    rating: Literal[1, 2, 3, 4, 5]


@dataclass(frozen=True)
class LLMJudgement:
    """What the judge found in one answer.

    Attributes:
        scores: trait -> score in -5..5, 2.5 (rating - 3); traits whose call failed are missing.
        ratings: trait -> the rating itself, 1 to 5.
        explanations: trait value or "fluency" -> the judge's words.
        fluency: 1 to 5; None if not asked for or failed.
        failures: trait value or "fluency" -> why there is no rating.
        usage: tokens of this answer's calls, stored replies included.
        reason: why a score is missing; None if none is.
    """

    scores: dict[Trait, float]
    ratings: dict[Trait, int]
    explanations: dict[str, str]
    fluency: int | None
    failures: dict[str, str]
    usage: Usage
    reason: str | None = None


class LLMJudge(APIJudge[LLMJudgement]):
    """Rates answers with a language model behind an API; the same interface as `LikelihoodJudge`.

    Args:
        client: model, stored replies and prices. Its settings' parameters apply; temperature is 0 unless they name one.
        fluency: also rate each answer's fluency (one more call).
        parameters: sent with every call, over the client's; default: temperature 0. Models that refuse a temperature
            need ``{}``.
    """

    prompt_version = PROMPT_VERSION

    def __init__(self, client: LLMClient, *, fluency: bool = True, parameters: Mapping[str, Any] | None = None) -> None:
        super().__init__(client, parameters)
        self.fluency = fluency

    async def judge_all_async(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        traits: Sequence[Trait] | None = None,
        progress: Count | None = None,
    ) -> list[LLMJudgement]:
        """One `LLMJudgement` per (question, answer), in order; empty answers get a reason and cost nothing.

        A call that fails leaves its score out and says why.

        Raises:
            LLMError: the server cannot be used at all.
        """
        calls, owners = self.calls(pairs, traits)
        open_calls = [0] * len(pairs)
        for owner in owners:
            open_calls[owner] += 1
        by_item = {call.item: owner for call, owner in zip(calls, owners, strict=True)}
        done = open_calls.count(0)

        def step(result: Result[Any]) -> None:
            nonlocal done
            owner = by_item[result.item]
            open_calls[owner] -= 1
            if open_calls[owner] == 0:
                done += 1
                if progress is not None:
                    progress(done, len(pairs))

        if progress is not None and done:
            progress(done, len(pairs))
        run = await self.client.run_async(calls, progress=step)
        return self.read(len(pairs), calls, owners, run.results)

    def read(
        self, number: int, calls: Sequence[Call[Rating]], owners: Sequence[int], results: Sequence[Result[Any]]
    ) -> list[LLMJudgement]:
        """The judgements of ``number`` answers, given what `calls` returned and the calls' results."""
        grouped: list[dict[str, Result[Any]]] = [{} for _ in range(number)]
        for call, owner, result in zip(calls, owners, results, strict=True):
            grouped[owner][call.item.rpartition(": ")[2]] = result
        return [self._judgement(found) for found in grouped]

    def plan(self, pairs: Sequence[tuple[str, str]], *, traits: Sequence[Trait] | None = None) -> Plan:
        """What `judge_all` would send and cost; a reply is taken to have `REPLY_TOKENS`. Nothing is sent."""
        return self.client.plan(self.calls(pairs, traits)[0], completion_tokens=REPLY_TOKENS)

    def describe(self) -> str:
        """What this judge is and how far it can be trusted, in plain words."""
        calls = "trait strength and, in a call of its own, fluency" if self.fluency else "trait strength"
        return (
            f"{self.client.settings.model} over an API rates {calls} from 1 to 5 (prompts {PROMPT_VERSION}). The protocol "
            "follows NPTI's; the wording is this package's, so ratings are not comparable digit for digit with published "
            "ones. Scores are 2.5 (rating - 3). Its agreement with people has not been measured here. Answers are fenced as "
            "data, which marks them but cannot force a model to ignore what they ask."
        )

    def calls(
        self, pairs: Sequence[tuple[str, str]], traits: Sequence[Trait] | None = None, name: str = "answer"
    ) -> tuple[list[Call[Rating]], list[int]]:
        """The calls that rate (question, answer) pairs, and for each call the position of its pair."""
        wanted = list(dict.fromkeys(Trait if traits is None else traits))
        calls: list[Call[Rating]] = []
        owners = []
        for i, (question, answer) in enumerate(pairs):
            if not answer.strip():
                continue
            mine = [(trait.value, trait_messages(trait, question, answer)) for trait in wanted]
            if self.fluency:
                mine.append((FLUENCY, fluency_messages(answer)))
            for what, messages in mine:
                item = f"{name} {i + 1}: {what}"
                calls.append(Call(item, messages, Rating, PROMPT_VERSION, self.parameters))
                owners.append(i)
        return calls, owners

    def _judgement(self, results: Mapping[str, Result[Any]]) -> LLMJudgement:
        if not results:
            return LLMJudgement({}, {}, {}, None, {}, Usage(), "the answer is empty")
        found = {name: result.value for name, result in results.items() if result.value is not None}
        failures = {
            name: f"{r.failure.kind}: {r.failure.detail}" for name, r in results.items() if r.failure is not None
        }
        ratings = {Trait(name): int(value.rating) for name, value in found.items() if name != FLUENCY}
        missing = [f"{name} ({why})" for name, why in failures.items() if name != FLUENCY]
        return LLMJudgement(
            scores={trait: MAX_SCORE * (rating - 3) / 2 for trait, rating in ratings.items()},
            ratings=ratings,
            explanations={name: value.explanation for name, value in found.items()},
            fluency=int(found[FLUENCY].rating) if FLUENCY in found else None,
            failures=failures,
            usage=sum((result.usage for result in results.values()), Usage()),
            reason="no rating of " + ", ".join(missing) if missing else None,
        )


def trait_messages(trait: Trait, question: str, answer: str) -> list[dict[str, str]]:
    """The prompt that asks for a rating of ``trait``; question and answer are fenced."""
    fence = Fence.around([question, answer])
    names = [facet.name for facet in FACETS[trait]]
    facets = ", ".join(names[:-1]) + " and " + names[-1]
    system = _TRAIT_SYSTEM.format(trait=trait.value, facets=facets, notice=fence.notice())
    user = _TRAIT_USER.format(
        question=fence.wrap("question", question), answer=fence.wrap("answer", answer), trait=trait.value
    )
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def fluency_messages(answer: str) -> list[dict[str, str]]:
    """The prompt that asks for a rating of fluency; it holds the answer, fenced, and not the question."""
    fence = Fence.around([answer])
    return [
        {"role": "system", "content": _FLUENCY_SYSTEM.format(notice=fence.notice())},
        {"role": "user", "content": _FLUENCY_USER.format(answer=fence.wrap("answer", answer))},
    ]
