"""The teacher: the base model under persona prompts, its poles added up in the logarithm of probability.

For scores p (each -5..5) the teacher's next-token distribution, after the same answer so far, is

    log q(t) = log p0(t) + strength * sum_i (p_i / 5) * [log p(t | high pole of i) - log p(t | low pole of i)] + const

p0 is the base model with a neutral instruction; the poles are the same model told to be such a person. Levels and
several traits at once are therefore exact by construction, and 0 is the base model: no adverb has to be understood.
The distribution is cut to the tokens that one of the prompts finds likeliest. The idea is that of products of experts at
decoding time (Liu et al., arXiv 2105.03023); its use here is ours, it is not what DPG trained on.

Why: docs/decisions.md, "The hypernetwork learns from added-up persona prompts, not from sampled answers".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpg_fast.compat.transformers import cache_argument
from dpg_fast.personality.scores import MAX_SCORE, Personality, Pole, Trait
from dpg_fast.text.continuation import next_token_logp
from dpg_fast.text.personas import SYSTEM_TEMPLATE, USER_TEMPLATE
from dpg_fast.text.prompting import chat_prompt, encode_prompts
from dpg_fast.train.attention import grouped
from dpg_fast.util.errors import DPGError


@dataclass(frozen=True)
class TeacherSettings:
    """How the teacher speaks.

    Args:
        strength: factor on the difference between the poles; 0.5 is about one pole's own prompt.
        candidates: tokens kept at each position.
        max_new_tokens: length of an answer.
        temperature: of sampling; 0 takes the likeliest token.
        repetition_penalty: of sampling (as in ``generate``); it never enters what is learnt.
    """

    strength: float = 1.0
    candidates: int = 48
    max_new_tokens: int = 44
    temperature: float = 0.8
    repetition_penalty: float = 1.1

    def __post_init__(self) -> None:
        if self.strength < 0 or self.temperature < 0 or self.repetition_penalty < 1:
            raise DPGError("strength and temperature are at least 0, repetition_penalty at least 1")
        if self.candidates < 2 or self.max_new_tokens < 1:
            raise DPGError("candidates is at least 2, max_new_tokens at least 1")


@dataclass(frozen=True)
class TaughtAnswer:
    """One answer of n tokens, and what each prompt thought at each of them.

    Attributes:
        tokens: int32 [n].
        candidates: int32 [n, k], token ids.
        log_base: float32 [n, k], log probability under the neutral prompt.
        log_ratio: float32 [traits, n, k], log p(high pole) - log p(low pole) for each trait that was asked for.
        traits: which these are.
    """

    tokens: Tensor
    candidates: Tensor
    log_base: Tensor
    log_ratio: Tensor
    traits: tuple[Trait, ...]


def mix(log_base: Tensor, log_ratio: Tensor, levels: Tensor, strength: float) -> Tensor:
    """log q over the candidates: [n, k] + strength * sum_i levels[i] / 5 * [traits, n, k], normalised over k."""
    mixed = log_base + strength * torch.einsum("i,ink->nk", levels / MAX_SCORE, log_ratio)
    return mixed.log_softmax(-1)


class PersonaTeacher:
    """Answers one question as several people at once.

    Args:
        model: a bare causal LM of transformers.
        tokenizer: its tokenizer, with a chat template.
        settings: of the answers.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: TeacherSettings) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        ends = model.generation_config.eos_token_id
        self.ends = [ends] if isinstance(ends, int) else list(ends or [tokenizer.eos_token_id])

    @torch.inference_mode()
    def answer(
        self,
        question: str,
        people: Sequence[Personality],
        descriptions: Mapping[Pole, str],
        system: str | None,
        generator: torch.Generator | None = None,
        traits: Sequence[Sequence[Trait]] | None = None,
    ) -> list[TaughtAnswer]:
        """An answer of each person.

        Args:
            question: asked of all.
            people: scores.
            traits: for each person, those whose poles are asked, in OCEAN order; by default those not at 0.
            descriptions: a text for each pole of every trait that takes part.
            system: the neutral instruction of the base model.
            generator: of the samples.
        """
        asked_of = [[t for t in Trait if person.scores[t.position]] for person in people] if traits is None else traits
        active = [tuple(row) for row in asked_of]
        used = [t for t in Trait if any(t in own for own in active)]
        prompts = [chat_prompt(self.tokenizer, [{"role": "user", "content": question}], system=system)]
        for trait in used:
            for high in (True, False):
                text = descriptions[Pole(trait, high)]
                asked = USER_TEMPLATE.format(question=question, description=text)
                told = SYSTEM_TEMPLATE.format(description=text)
                prompts.append(chat_prompt(self.tokenizer, [{"role": "user", "content": asked}], system=told))
        # Row of each person and prompt: the neutral one, then high and low of each active trait.
        sources: list[int] = []
        spans: list[int] = []
        for own in active:
            sources.append(0)
            for trait in own:
                sources += [1 + 2 * used.index(trait), 2 + 2 * used.index(trait)]
            spans.append(1 + 2 * len(own))
        with grouped(self.model):
            return self._decode(prompts, sources, spans, active, people, generator)

    def _decode(
        self,
        prompts: Sequence[str],
        sources: Sequence[int],
        spans: Sequence[int],
        active: Sequence[tuple[Trait, ...]],
        people: Sequence[Personality],
        generator: torch.Generator | None,
    ) -> list[TaughtAnswer]:
        device = self.model.device
        batch = encode_prompts(self.tokenizer, prompts, device)
        position = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        # 1 before the last prompt token: that one is run by the loop, so prompts and answers share its code.
        mask = batch["attention_mask"]
        _, cache = next_token_logp(
            self.model,
            input_ids=batch["input_ids"][:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=position[:, :-1],
        )
        cached = cache_argument(self.model, cache)
        index = torch.tensor(sources, device=device)
        cache.batch_select_indices(index)
        mask, ids, place = mask[index], batch["input_ids"][index, -1:], position[index, -1:]
        people_of = torch.repeat_interleave(torch.arange(len(people)), torch.tensor(spans)).to(device)
        steps: list[list[tuple[Tensor, Tensor]]] = [[] for _ in people]
        said: list[list[int]] = [[] for _ in people]
        for _ in range(self.settings.max_new_tokens):
            logp, _ = next_token_logp(self.model, input_ids=ids, attention_mask=mask, position_ids=place, **cached)
            chosen = torch.zeros(len(people), dtype=torch.long, device=device)
            begin = 0
            for row, (span, person) in enumerate(zip(spans, people, strict=True)):
                own = logp[begin : begin + span]
                begin += span
                if said[row] and said[row][-1] in self.ends:
                    chosen[row] = self.ends[0]
                    continue
                kept = own.amax(0).topk(self.settings.candidates).indices
                values = own[:, kept]
                steps[row].append((kept.to(torch.int32), values))
                levels = torch.tensor([person.scores[t.position] for t in active[row]], device=device)
                q = mix(values[:1], values[1::2, None] - values[2::2, None], levels, self.settings.strength)[0]
                chosen[row] = kept[self._pick(q, kept, said[row], generator)]
                said[row].append(int(chosen[row]))
            if all(tokens[-1] in self.ends for tokens in said):
                break
            ids = chosen[people_of][:, None]
            place = place + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        return [_collect(tokens, found, own) for tokens, found, own in zip(said, steps, active, strict=True)]

    def _pick(self, logq: Tensor, kept: Tensor, said: Sequence[int], generator: torch.Generator | None) -> int:
        if self.settings.repetition_penalty != 1 and said:
            seen = torch.isin(kept, torch.tensor(said, device=kept.device))
            logq = torch.where(seen, logq * self.settings.repetition_penalty, logq)  # log probabilities are negative
        if self.settings.temperature == 0:
            return int(logq.argmax())
        return int(torch.multinomial((logq / self.settings.temperature).softmax(-1), 1, generator=generator))


def _collect(tokens: Sequence[int], found: Sequence[tuple[Tensor, Tensor]], active: tuple[Trait, ...]) -> TaughtAnswer:
    values = torch.stack([v for _, v in found]).cpu()  # [n, prompts, k]
    log_ratio = (values[:, 1::2] - values[:, 2::2]).transpose(0, 1).contiguous()
    return TaughtAnswer(
        torch.tensor(tokens, dtype=torch.int32),
        torch.stack([kept for kept, _ in found]).cpu(),
        values[:, 0].contiguous(),
        log_ratio,
        active,
    )
