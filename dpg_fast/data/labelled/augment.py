"""Further dialogue in a character's manner, written by a model.

How DPG augments its data is not public; this is a reconstruction of our own. A model sees some of the character's training
segments and an everyday question of the package's "search" split, and says what the character would answer. It is not told
any scores. What the judge puts far from the character's centre is dropped afterwards.

Why: docs/decisions.md, "Generated dialogue answers the package's own questions".
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field

from dpg_fast.data.labelled.prepare import Prepared
from dpg_fast.data.labelled.settings import LabelSettings
from dpg_fast.data.scripts.segments import Segment
from dpg_fast.judges.runner import fill
from dpg_fast.llm import Call, Fence, LLMClient, Usage
from dpg_fast.text.answers import write_texts
from dpg_fast.text.assets import load_questions
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Progress
from dpg_fast.util.store import Store

PROMPT_VERSION = "in-character-1"
EXAMPLES = 5
BATCH = 8
_JSON_TOKENS = 30  # around the words
_SYSTEM = """You write dialogue. You are shown what a character says in some scenes of a script, and then a question that \
somebody asks this character. Write the character's answer: spoken words alone, in the character's own manner, one to five \
sentences, without the name, without stage directions, and without repeating the scenes.
{notice}"""
_USER = """{examples}

{question}

What does {character} answer?"""
_NAME = re.compile(r"^\s*\"?[^\W\d_][\w .'-]{0,40}:\s*")
_STAGE = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|\*[^*\n]+\*")
_NEXT = re.compile(r"\s+[A-Z][A-Z .'-]{1,30}:\s")  # where a model goes on as somebody else
_TAG = re.compile(r"</?\w[^<>]{0,40}>")
_SENTENCE = re.compile(r"(?s).*[.!?…][\"'”’)]*")


class WrittenDialogue(BaseModel):
    """A model's reply."""

    model_config = ConfigDict(title="Answer")  # part of the key of replies in a cache

    words: str = Field(description="what the character says, nothing else")


@dataclass(frozen=True)
class DialogueRequest:
    """One dialogue to write.

    Attributes:
        examples: the character's segments that the model sees.
        number: the n-th of this character.
    """

    character: tuple[str, str]
    number: int
    question: str
    examples: tuple[Segment, ...]

    @property
    def id(self) -> str:
        """A content address of what the answer depends on."""
        value = [*self.character, self.number, self.question, [segment.id for segment in self.examples], PROMPT_VERSION]
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:20]

    def prompt(self) -> list[dict[str, str]]:
        """The messages to a model; all of the script's words are fenced."""
        shown = "\n\n".join(_shown(segment) for segment in self.examples)
        name = self.character[1]
        fence = Fence.around([shown, self.question, name])
        user = _USER.format(
            examples=fence.wrap("scenes", shown), question=fence.wrap("question", self.question), character=name
        )
        return [
            {"role": "system", "content": _SYSTEM.format(notice=fence.notice())},
            {"role": "user", "content": user},
        ]


class Generator(Protocol):
    """Writes answers: `LocalGenerator` with a model at hand, `APIGenerator` behind an API."""

    def write(self, requests: Sequence[DialogueRequest]) -> Sequence[str | None]:
        """One text for each request; empty where nothing is left of it, None where the next run is to try again."""


def make_requests(prepared: Prepared, settings: LabelSettings) -> list[DialogueRequest]:
    """`settings.generate` requests for each character with training segments; test segments are not shown to the model."""
    questions = [question.question for question in load_questions(split="search")]
    found = []
    for character in prepared.characters:
        own = prepared.of(character, "train")
        if not own:
            continue
        draw = random.Random(f"{settings.seed} {character}")
        order = draw.sample(questions, len(questions))
        for number in range(settings.generate):
            examples = tuple(draw.sample(own, min(EXAMPLES, len(own))))
            found.append(DialogueRequest(character, number, order[number % len(order)], examples))
    return found


class APIGenerator:
    """Asks a language model behind an API; its replies are kept by the client."""

    def __init__(self, client: LLMClient, *, max_tokens: int = 120) -> None:
        self.client = client
        self.max_tokens = max_tokens
        self._paid = Usage()

    @property
    def cost(self) -> float | None:
        """What was paid so far; None if the model has no price."""
        return self.client.prices.cost(self.client.settings.model, self._paid)

    def calls(self, requests: Sequence[DialogueRequest]) -> list[Call[WrittenDialogue]]:
        """What `write` sends."""
        return [
            Call(
                f"{r.character[1]}, dialogue {r.number + 1}",
                r.prompt(),
                WrittenDialogue,
                PROMPT_VERSION,
                {"max_completion_tokens": self.max_tokens + _JSON_TOKENS},
                draw=r.number,
            )
            for r in requests
        ]

    def write(self, requests: Sequence[DialogueRequest]) -> list[str | None]:
        """One text for each request, None where the call failed.

        Raises:
            LLMError: the server cannot be used at all.
        """
        run = self.client.run(self.calls(requests))
        self._paid += run.paid
        return [None if result.value is None else clean(result.value.words) or "" for result in run.results]


class LocalGenerator:
    """Samples from a causal LM with a chat template. A batch's seed follows from its requests, so a killed run goes on alike."""

    def __init__(
        self, model: Any, tokenizer: Any, *, seed: int = 0, temperature: float = 0.8, max_new_tokens: int = 120
    ) -> None:
        if not temperature > 0 or max_new_tokens < 1:
            raise DPGError("temperature must be above 0 and max_new_tokens at least 1")
        self.model, self.tokenizer = model, tokenizer
        self.seed, self.temperature, self.max_new_tokens = seed, temperature, max_new_tokens

    def write(self, requests: Sequence[DialogueRequest]) -> list[str | None]:
        """One text for each request, empty where nothing but stage directions came."""
        prompts = [chat_prompt(self.tokenizer, request.prompt()) for request in requests]
        digest = hashlib.sha256(f"{self.seed} {[request.id for request in requests]}".encode()).digest()
        with torch.random.fork_rng():
            torch.manual_seed(int.from_bytes(digest[:7], "little"))
            options: dict[str, Any] = {"do_sample": True, "temperature": self.temperature, "top_k": 0}
            texts = write_texts(self.model, self.tokenizer, prompts, max_new_tokens=self.max_new_tokens, **options)
        return [clean(text) or "" for text in texts]


class Writer:
    """A generator with a memory on disk.

    Args:
        generator: made when it is first needed.
        about: what its texts depend on, JSON-ready.
        file: where they are kept.
        batch: texts written at once. A local generator's depend on it, so it must not change between runs.

    Raises:
        ValueError: the file belongs to another generator.
    """

    def __init__(
        self, generator: Callable[[], Generator], about: Mapping[str, Any], file: Path, batch: int = BATCH
    ) -> None:
        self._make = generator
        self.batch = batch
        self._generator: Generator | None = None
        self.store = Store(file, {"generator": dict(about)}, ("id",))

    @property
    def generator(self) -> Generator:
        """The generator itself."""
        if self._generator is None:
            self._generator = self._make()
        return self._generator

    def missing(self, requests: Sequence[DialogueRequest]) -> list[DialogueRequest]:
        """Those without a text; calls that failed are made again."""
        return [r for r in requests if (r.id,) not in self.store or self.store[(r.id,)]["words"] is None]

    def write(self, requests: Sequence[DialogueRequest], progress: Progress | None = None) -> None:
        """Write what is missing. Batches are cut before it is known what is missing, so a batch is the same on each run."""

        def work(batch: Sequence[DialogueRequest]) -> list[dict[str, Any]]:
            missing = {request.id for request in self.missing(batch)}
            texts = self.generator.write(batch)
            # what was written before stays: it may have been judged
            return [{"id": r.id, "words": text} for r, text in zip(batch, texts, strict=True) if r.id in missing]

        def done(key: tuple[Any, ...]) -> bool:
            return key in self.store and self.store[key]["words"] is not None

        fill(
            self.store,
            requests,
            lambda request: (request.id,),
            work,
            "writing dialogue",
            progress,
            batch_size=self.batch,
            whole=True,
            done=done,
        )

    def words(self, request: DialogueRequest) -> str | None:
        """What was written; None if nothing was."""
        found = self.store[(request.id,)]["words"] if (request.id,) in self.store else None
        return str(found) if found else None


def clean(text: str) -> str | None:
    """Spoken words alone: no name in front, other speakers, directions, quotation marks or unfinished last sentence."""
    text = _NEXT.split(_TAG.sub(" ", _NAME.sub("", text.strip(), count=1)), maxsplit=1)[0]
    text = _STAGE.sub(" ", text)
    text = " ".join(text.split())
    whole = _SENTENCE.match(text)
    text = (whole.group() if whole else text).strip()
    if len(text) > 1 and text[0] in '"“' and text[-1] in '"”':
        text = text[1:-1].strip()
    return text or None


def _shown(segment: Segment) -> str:
    lines = [f"[{segment.heading}]"] if segment.heading else []
    return "\n".join(lines + [f"{turn.speaker}: {turn.words}" for turn in segment.turns])
