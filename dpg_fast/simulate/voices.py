"""Who writes the turns: the local model, all of its rows in one batch, or models behind endpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, Field

from dpg_fast.llm import Call, LLMClient, estimate_tokens
from dpg_fast.model import PersonalityModel
from dpg_fast.simulate.conversation import (
    SILENCE,
    Conversation,
    Said,
    clean_turn,
    endpoint_messages,
    latest_turns,
    own_view,
    system_text,
)
from dpg_fast.simulate.scenario import Endpoint, Generation, Scenario
from dpg_fast.text.prompting import Message, with_system
from dpg_fast.util.errors import DPGError

PROMPT_VERSION = "simulate-1"


class Spoken(BaseModel):
    """The reply of an endpoint."""

    text: str = Field(description="what the person says next, and nothing else")


class LocalVoice:
    """Speaks for everybody without an endpoint, `batch_size` turns at a time, each row with its own personality.

    Args:
        model: with whatever the scenarios' personalities and characters need.
        tokenizer: with a chat template.
        batch_size: turns written side by side.
    """

    def __init__(self, model: PersonalityModel, tokenizer: Any, batch_size: int = 32) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    def say(self, conversations: Sequence[Conversation], speakers: Sequence[int], step: int) -> list[str]:
        """The next turn of each conversation by its speaker, as generated.

        Draws depend on the step and on the conversations of the batch alone, so that a continued run repeats them.
        """
        found: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for i, conversation in enumerate(conversations):
            groups.setdefault(conversation.scenario.generation.model_dump_json(), []).append(i)
        for settings, members in groups.items():
            options = Generation.model_validate_json(settings).options
            for start in range(0, len(members), self.batch_size):
                rows = members[start : start + self.batch_size]
                said = self._batch([(conversations[i], speakers[i]) for i in rows], options, step)
                found.update(zip(rows, said, strict=True))
        return [found[i] for i in range(len(conversations))]

    def check(self, scenarios: Sequence[Scenario]) -> None:
        """Let everybody say one token, so that a personality that the model cannot give is found before the run.

        Raises:
            ValueError: a personality cannot be given; the message names speaker and scenario.
        """
        for scenario in scenarios:
            for place, speaker in enumerate(scenario.speakers):
                if speaker.endpoint is None:
                    try:
                        self._batch([(Conversation(scenario, 0), place)], {"max_new_tokens": 1, "do_sample": False}, 0)
                    except (ValueError, TypeError) as error:
                        raise DPGError(f"{speaker.name} of {scenario.name} cannot speak: {error}") from error

    def _batch(self, pairs: Sequence[tuple[Conversation, int]], options: Mapping[str, Any], step: int) -> list[str]:
        chats = [self.prompt(conversation, speaker) for conversation, speaker in pairs]
        rows = [conversation.scenario.speakers[speaker].row for conversation, speaker in pairs]
        key = f"{step} " + " ".join(conversation.key for conversation, _ in pairs)
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            said = self.model.chat(chats, personality=rows, tokenizer=self.tokenizer, **options)
        return list(said)

    def prompt(self, conversation: Conversation, speaker: int) -> list[Message]:
        """What the speaker is given: system text, and as many of the latest turns as the context holds."""
        scenario = conversation.scenario
        told = system_text(scenario, scenario.speakers[speaker])

        def messages(said: Sequence[Said]) -> list[Message]:
            return with_system(self.tokenizer, own_view(scenario, said, speaker), told)

        def fits(said: Sequence[Said]) -> bool:
            text = self.tokenizer.apply_chat_template(messages(said), tokenize=False, add_generation_prompt=True)
            used = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            return used + scenario.generation.max_new_tokens <= scenario.context_tokens

        return messages(latest_turns(conversation.said, fits))


class EndpointVoice:
    """Speaks for one endpoint; replies are stored, so none is paid twice. A call that fails ends the run, which can go on later.

    Args:
        client: its client.
    """

    def __init__(self, client: LLMClient) -> None:
        self.client = client

    def calls(self, conversations: Sequence[Conversation], speakers: Sequence[int]) -> list[Call[Spoken]]:
        """One call for each turn; the seed is the draw, so equal conversations of two seeds are two calls."""
        found = []
        for conversation, speaker in zip(conversations, speakers, strict=True):
            scenario, settings = conversation.scenario, conversation.scenario.generation

            def fits(said: Sequence[Said], scenario: Scenario = scenario, speaker: int = speaker) -> bool:
                used = sum(estimate_tokens(m["content"]) for m in endpoint_messages(scenario, said, speaker))
                return used + scenario.generation.max_new_tokens <= scenario.context_tokens

            messages = endpoint_messages(scenario, latest_turns(conversation.said, fits), speaker)
            parameters: dict[str, Any] = {"temperature": settings.temperature}
            if settings.temperature:
                parameters["top_p"] = settings.top_p
            # the frame of the reply needs some tokens of its own
            parameters["max_completion_tokens"] = settings.max_new_tokens * 2 + 64
            endpoint = scenario.speakers[speaker].endpoint
            if endpoint is not None:
                parameters = {k: v for k, v in (parameters | endpoint.parameters).items() if v is not None}
            item = f"{conversation.key}, turn {len(conversation.said) + 1}"
            found.append(Call(item, messages, Spoken, PROMPT_VERSION, parameters, draw=conversation.seed))
        return found

    def say(self, conversations: Sequence[Conversation], speakers: Sequence[int]) -> list[str]:
        """The next turn of each conversation.

        Raises:
            ValueError: a call has no answer; what came is stored.
            LLMError: the server cannot be used.
        """
        run = self.client.run(self.calls(conversations, speakers))
        texts = []
        for result in run.results:
            if result.value is None:
                assert result.failure is not None
                raise DPGError(
                    f"{self.client.settings.model} gave no turn for {result.item}: {result.failure.kind}: "
                    f"{result.failure.detail}; the same command goes on from here"
                )
            texts.append(result.value.text)
        return texts


class Voices:
    """All voices of a run: turns of a step come from each at once.

    Args:
        local: None where only endpoints speak.
        endpoints: by endpoint.
    """

    def __init__(self, local: LocalVoice | None, endpoints: Mapping[str, EndpointVoice]) -> None:
        self.local, self.endpoints = local, dict(endpoints)

    def say(self, conversations: Sequence[Conversation], speakers: Sequence[int], step: int) -> list[Said]:
        """The next turn of each conversation, cleaned."""
        groups: dict[str | None, list[int]] = {}
        for i, (conversation, speaker) in enumerate(zip(conversations, speakers, strict=True)):
            endpoint = conversation.scenario.speakers[speaker].endpoint
            groups.setdefault(None if endpoint is None else endpoint_key(endpoint), []).append(i)
        raw: dict[int, str] = {}
        for key, members in groups.items():
            some, who = [conversations[i] for i in members], [speakers[i] for i in members]
            if key is not None:
                texts = self.endpoints[key].say(some, who)
            elif self.local is None:
                raise DPGError("a speaker without an endpoint needs a local model")
            else:
                texts = self.local.say(some, who, step)
            raw.update(zip(members, texts, strict=True))
        said = []
        for i, (conversation, speaker) in enumerate(zip(conversations, speakers, strict=True)):
            names = conversation.scenario.names
            local = conversation.scenario.speakers[speaker].endpoint is None
            text = clean_turn(raw[i], names, speaker, cut=local)
            said.append(Said(speaker, limit(text, conversation.scenario) if not local else text))
        return said


def limit(text: str, scenario: Scenario) -> str:
    """At most as many characters as twice the tokens of a turn could have: an endpoint may write a book."""
    most = 12 * scenario.generation.max_new_tokens
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] or SILENCE


def endpoint_key(endpoint: Endpoint) -> str:
    """What tells endpoints apart."""
    return endpoint.model_dump_json()
