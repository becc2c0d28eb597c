"""The systems of an evaluation behind one interface: the bare model, prompts with a profile or with retrieved material, and tuned
characters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpg_fast.evaluation.methods import Wrapping
from dpg_fast.model import PersonalityModel
from dpg_fast.personality.row import RowItem
from dpg_fast.personality.scores import Personality
from dpg_fast.personality.stages import read_card
from dpg_fast.personified.data.reading import count_words
from dpg_fast.personified.data.retrieval import Budget, Retriever, TfidfEmbedder
from dpg_fast.personified.evaluate.cast import Person
from dpg_fast.text.continuation import continuation_logp
from dpg_fast.text.fluency import Likelihood
from dpg_fast.text.prompting import Message, with_system
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import file_digest

BASELINES = ("bare", "profile", "retrieval")
PROFILE_WORDS = 150
BUDGET = Budget(knowledge=200, style=80)
_AS = "Answer as {name} would, in the first person, in two or three sentences."


@dataclass(frozen=True)
class SystemRequest:
    """Who is asked what, at which stage."""

    person: Person
    stage: str
    question: str


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; temperature 0 is greedy."""

    max_new_tokens: int = 140
    temperature: float = 0.7
    top_p: float = 0.95
    repetition_penalty: float = 1.1
    batch_size: int = 16

    def options(self) -> dict[str, Any]:
        """For ``generate``."""
        found: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "repetition_penalty": self.repetition_penalty}
        found["do_sample"] = self.temperature > 0
        return found | ({"temperature": self.temperature, "top_p": self.top_p} if self.temperature else {})


class BareSystem(Wrapping):
    """The base model: it knows neither person nor stage."""

    name = "bare"
    description = "The base model, told nothing: neither the person nor the stage."

    def __init__(self, base: Any, tokenizer: Any) -> None:
        self.base, self.tokenizer = base, tokenizer

    def about(self) -> dict[str, Any]:
        """What answers depend on besides the base model, JSON-ready."""
        return {"system": self.name}

    def system_text(self, person: Person, stage: str, question: str) -> str | None:
        """The instruction put before the question."""
        return None

    def row(self, person: Person, stage: str) -> RowItem:
        """The personality given to the model."""
        return None

    def make(self) -> PersonalityModel:
        """The wrapped model."""
        return PersonalityModel.from_model(self.base)

    def chats(self, requests: Sequence[SystemRequest]) -> tuple[list[list[Message]], list[RowItem]]:
        """Conversations and personalities of requests."""
        chats, rows = [], []
        for request in requests:
            told = self.system_text(request.person, request.stage, request.question)
            chats.append(with_system(self.tokenizer, [{"role": "user", "content": request.question}], told))
            rows.append(self.row(request.person, request.stage))
        return chats, rows

    def answer(self, requests: Sequence[SystemRequest], sampling: Sampling, key: str) -> list[str]:
        """One batch of answers; draws depend on ``key`` alone."""
        chats, rows = self.chats(requests)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little"))
            said = self.model.chat(chats, personality=rows, tokenizer=self.tokenizer, **sampling.options())
        return list(said)

    def likelihoods(
        self, requests: Sequence[SystemRequest], texts: Sequence[str], prefixes: Sequence[str] | None = None
    ) -> list[Likelihood]:
        """How probable each text is as the beginning of the answer (after its prefix), the end of turn left out."""
        chats, rows = self.chats(requests)
        return reply_likelihoods(self.model, self.tokenizer, chats, rows, texts, prefixes or [""] * len(texts))


class ProfileSystem(BareSystem):
    """A profile in the instruction, as PersLLM's prompted baseline has; wording and length are ours."""

    name = "profile"
    description = (
        "The base model with a profile in the instruction: name, time, and the first "
        f"{PROFILE_WORDS} words of the stage's knowledge."
    )

    def about(self) -> dict[str, Any]:
        return {"system": self.name, "words": PROFILE_WORDS, "instruction": _AS}

    def system_text(self, person: Person, stage: str, question: str) -> str | None:
        material = person.stages[stage]
        taken: list[str] = []
        for paragraph in material.knowledge:
            if taken and sum(map(count_words, taken)) + count_words(paragraph.text) > PROFILE_WORDS:
                break
            taken.append(paragraph.text)
        return " ".join(filter(None, [f"You are {person.name}.", material.time, *taken, _AS.format(name=person.name)]))


class RetrievalSystem(ProfileSystem):
    """Retrieved knowledge and samples of style in the instruction."""

    name = "retrieval"
    description = (
        f"The base model with {BUDGET.knowledge} words of knowledge and {BUDGET.style} of style in the instruction, "
        "found for the question by TF-IDF."
    )

    def __init__(self, base: Any, tokenizer: Any) -> None:
        super().__init__(base, tokenizer)
        self._retrievers: dict[tuple[str, str], Retriever] = {}

    def about(self) -> dict[str, Any]:
        return {"system": self.name, "knowledge": BUDGET.knowledge, "style": BUDGET.style, "instruction": _AS}

    def system_text(self, person: Person, stage: str, question: str) -> str | None:
        material = person.stages[stage]
        retriever = self._retrievers.get((person.name, stage))
        if retriever is None:
            retriever = self._retrievers[person.name, stage] = Retriever(material, TfidfEmbedder(), BUDGET)
        (found,) = retriever.find([question], [None])
        known = " ".join(p.text for p in found.knowledge)
        style = " ".join(f'"{p.text}"' for p in found.style)
        parts = [f"You are {person.name}.", material.time, f"What you know: {known}", f"How you speak: {style}"]
        return " ".join(filter(None, [*parts, _AS.format(name=person.name)]))


class TunedSystem(BareSystem):
    """Tuned characters, each a PEFT adapter of its own, with the stage's token before the question.

    Args:
        name: of the system.
        directories: of the adapters, one for each person.
        cast: the people.

    Raises:
        FileNotFoundError, ValueError: a directory does not hold a tuned character, or a person has none, two, or lacks a stage.
    """

    def __init__(
        self, name: str, base: Any, tokenizer: Any, directories: Sequence[Path], cast: Sequence[Person]
    ) -> None:
        super().__init__(base, tokenizer)
        self.name = name
        self.description = "Tuned characters: one LoRA adapter for each, the stage by its token."
        cards = [(read_card(directory), Path(directory)) for directory in directories]
        self.characters: dict[str, tuple[str, Path]] = {}
        for person in cast:
            own = [(card, directory) for card, directory in cards if person.same(card.character)]
            if len(own) != 1:
                there = ", ".join(card.character for card, _ in cards)
                raise DPGError(f"{name} needs one adapter of {person.name}; it has {len(own)} (characters: {there})")
            card, directory = own[0]
            missing = [stage for stage in person.stages if stage not in card.stages]
            if missing:
                raise DPGError(
                    f"{name}: {person.name} was not tuned on the stages {', '.join(missing)} of the test questions"
                )
            self.characters[person.name] = (card.character, directory)

    def about(self) -> dict[str, Any]:
        return {
            "system": self.name,
            "adapters": {
                person: file_digest(directory / "adapter_model.safetensors")
                for person, (_, directory) in self.characters.items()
            },
        }

    def make(self) -> PersonalityModel:
        return PersonalityModel.from_model(self.base, characters=dict(self.characters.values()))

    def row(self, person: Person, stage: str) -> RowItem:
        return Personality(character=self.characters[person.name][0], stage=stage)


def tuned_directories(texts: Sequence[str]) -> dict[str, list[Path]]:
    """``NAME=DIR``, where a name may come again, as name -> directories.

    Raises:
        DPGError: another form.
    """
    found: dict[str, list[Path]] = {}
    for text in texts:
        name, sign, path = (part.strip() for part in text.partition("="))
        if not (sign and name and path):
            raise DPGError(f"a tuned system is given as NAME=DIR, not {text!r}")
        found.setdefault(name, []).append(Path(path))
    return found


def make_systems(
    baselines: Sequence[str],
    tuned: Mapping[str, Sequence[Path]],
    base: Any,
    tokenizer: Any,
    cast: Sequence[Person],
) -> list[BareSystem]:
    """Baselines, then tuned systems.

    Raises:
        ValueError: an unknown baseline, a name used twice, or nothing; and as `TunedSystem`.
    """
    kinds = {"bare": BareSystem, "profile": ProfileSystem, "retrieval": RetrievalSystem}
    unknown = [name for name in baselines if name not in kinds]
    if unknown:
        raise DPGError(f"unknown baselines {', '.join(unknown)}; accepted: {', '.join(kinds)}")
    taken = [name for name in tuned if name in kinds]
    if taken:
        raise DPGError(f"{', '.join(taken)} names a baseline; call the tuned system something else")
    found: list[BareSystem] = [kinds[name](base, tokenizer) for name in kinds if name in baselines]
    found += [TunedSystem(name, base, tokenizer, directories, cast) for name, directories in tuned.items()]
    if not found:
        raise DPGError("name a baseline or a tuned system")
    return found


def reply_likelihoods(
    model: PersonalityModel,
    tokenizer: Any,
    chats: Sequence[Sequence[Message]],
    personalities: Sequence[RowItem],
    texts: Sequence[str],
    prefixes: Sequence[str],
) -> list[Likelihood]:
    """Log-likelihood of texts as answers to conversations, each under its own personality, in one batch.

    Args:
        model: with the personalities.
        tokenizer: its tokenizer.
        chats, personalities, texts, prefixes: n each; a prefix stands before the text and is not counted.
    """
    batch = model.prompts([list(chat) for chat in chats], personality=list(personalities), tokenizer=tokenizer)
    prompts = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    before, after = [ids_of(prefix) for prefix in prefixes], [ids_of(text) for text in texts]
    said = [a + b for a, b in zip(before, after, strict=True)]
    found = continuation_logp(model, prompts, said, personality=personalities, steer_prompt=False, batch_size=len(said))
    return [Likelihood(float(own.logp[len(a) :].sum()), len(b)) for own, a, b in zip(found, before, after, strict=True)]
