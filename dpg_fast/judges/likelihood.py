"""A judge without an API: which of two described people would rather have said this?

For a trait, the log-likelihood ratio of an answer is

    llr = mean over description pairs and answer tokens t of
          w_t [log p(t | high-pole persona, question) - log p(t | low-pole persona, question)]
    w_t = min(s_t, 5) / 5,   s_t = -log((p(t | high-pole persona) + p(t | low-pole persona)) / 2)

in nats per answer token, under a causal LM with a chat template. The weight leaves out what the question and
the tokens before make likely for anybody: there the two personas differ by how they were worded, not by what
was chosen. `Scale` maps the ratio to a score in -5..5. The answer is data: it is tokenised without special
tokens, and the model is never asked to do anything with it, so no text in it can instruct the judge.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from typing import Any

import torch
from torch import nn

from dpg_fast.compat.transformers_models import added_tokens, chat_template
from dpg_fast.personality.scores import MAX_SCORE, Pole, Trait
from dpg_fast.text.assets import load_descriptions
from dpg_fast.text.continuation import continuation_logp
from dpg_fast.text.personas import SYSTEM_TEMPLATE, USER_TEMPLATE
from dpg_fast.text.prompting import with_system
from dpg_fast.util.errors import DPGError
from dpg_fast.util.progress import Count

DescriptionPairs = Mapping[Trait, Sequence[tuple[str, str]]]
SURPRISAL_CAP = 5.0  # nats; a token this unlikely under both personas has the full weight of 1
FITTED_SCALE = "judge_smollm2.json"
_SYSTEM, _USER = "\u2402system\u2403", "\u2402user\u2403"  # stand-ins, replaced token for token


@dataclass(frozen=True)
class TraitScale:
    """score = 5 tanh((llr - centre) / width) = 5 (2 P(high pole | llr) - 1), P the fitted logistic curve."""

    centre: float
    width: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and math.isfinite(self.width) and self.width > 0):
            raise DPGError(f"a scale needs a finite centre and a width above 0, not {self.centre}, {self.width}")

    def score(self, llr: float) -> float:
        """The score in -5..5 of a log-likelihood ratio in nats per token."""
        return MAX_SCORE * math.tanh((llr - self.centre) / self.width)


@dataclass(frozen=True)
class Scale:
    """The fitted scale of each trait, and on what it was fitted.

    Attributes:
        traits: centre and width of each trait.
        model: name of the model that the ratios came from.
        system_template: the judge's system text; may hold {description} and {question}.
        user_template: its user text; may hold the same. Small models lose sight of a system text alone.
        fit: how the fit was made, and what it is worth.
    """

    traits: Mapping[Trait, TraitScale]
    model: str
    system_template: str = SYSTEM_TEMPLATE
    user_template: str = USER_TEMPLATE
    fit: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Scale:
        """Read what `to_dict` gives."""
        try:
            traits = {
                Trait.parse(name): TraitScale(float(row["centre"]), float(row["width"]))
                for name, row in value["traits"].items()
            }
            system, user = str(value["system_template"]), str(value["user_template"])
            return cls(traits, str(value["model"]), system, user, dict(value.get("fit", {})))
        except (KeyError, TypeError, AttributeError) as error:
            needs = "traits (centre, width), model, system_template, user_template"
            raise DPGError(f"not a judge scale: {error!r}; needs {needs}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model,
            "system_template": self.system_template,
            "user_template": self.user_template,
            "traits": {trait.value: asdict(scale) for trait, scale in self.traits.items()},
            "fit": dict(self.fit),
        }

    @classmethod
    def fitted(cls) -> Scale:
        """The scale shipped with the package, for SmolLM2-135M-Instruct."""
        text = resources.files("dpg_fast").joinpath("assets", FITTED_SCALE).read_text(encoding="utf-8")
        return cls.from_dict(json.loads(text))


@dataclass(frozen=True)
class Judgement:
    """What the judge found in one answer.

    Attributes:
        scores: trait -> score in -5..5; empty if there was nothing to judge.
        llr: trait -> weighted log-likelihood ratio, nats per answer token.
        spread: trait -> standard deviation of the ratio over the description pairs (nan with one pair).
        tokens: answer tokens judged.
        pairs: description pairs per trait.
        reason: why there are no scores; None otherwise.
    """

    scores: dict[Trait, float]
    llr: dict[Trait, float]
    spread: dict[Trait, float]
    tokens: int
    pairs: int
    reason: str | None = None


class LikelihoodJudge:
    """Scores answers by the likelihood ratio of opposite personas under `model`.

    Args:
        model: a causal LM of transformers.
        tokenizer: its tokenizer, with a chat template.
        descriptions: per trait, pairs (high, low) of persona texts; default: the shipped split "judge".
        scale: default: the shipped one, which is right for `smollm2.load_smollm2` only.
        batch_size: answers scored at once.
        max_tokens: longer answers are judged by their first `max_tokens` tokens.
        template_kwargs: passed to the chat template (such as enable_thinking=False).
        autocast: run the decoder in this dtype (bfloat16: about 2.5 times as fast where the CPU has the
            instructions); probabilities stay in the model's own dtype.

    Raises:
        ValueError: no chat template, or no description pair for a trait of the scale.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        descriptions: DescriptionPairs | None = None,
        scale: Scale | None = None,
        batch_size: int = 16,
        max_tokens: int = 256,
        template_kwargs: Mapping[str, Any] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        if chat_template(tokenizer) is None:
            raise DPGError(f"{type(tokenizer).__name__} has no chat template, so it cannot play a persona")
        if batch_size < 1 or max_tokens < 1:
            raise DPGError(f"batch_size and max_tokens must be at least 1, not {batch_size} and {max_tokens}")
        self.model = model
        self.tokenizer = tokenizer
        self.scale = Scale.fitted() if scale is None else scale
        pairs = shipped_pairs() if descriptions is None else descriptions
        self._own_descriptions = descriptions is not None
        self.descriptions = {trait: tuple(pairs.get(trait, ())) for trait in self.scale.traits}
        for trait, texts in self.descriptions.items():
            if not texts:
                raise DPGError(f"no description pair for {trait.value}")
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.autocast = autocast
        self._template_kwargs = dict(template_kwargs or {})
        self._special = _control_tokens(tokenizer)

    def judge(self, question: str, answers: Sequence[str], *, traits: Sequence[Trait] | None = None) -> list[Judgement]:
        """One `Judgement` per answer to `question`. Empty answers get no scores but a reason.

        Raises:
            ValueError: a trait the judge has no scale for.
        """
        wanted = tuple(self.scale.traits) if traits is None else tuple(traits)
        for trait in wanted:
            if trait not in self.scale.traits:
                known = ", ".join(t.value for t in self.scale.traits)
                raise DPGError(f"this judge has no scale for {trait}; it knows {known}")
        tokens = [self.encode(answer.strip())[: self.max_tokens] for answer in answers]
        present = [i for i, ids in enumerate(tokens) if ids]
        ratios: dict[Trait, torch.Tensor] = {}
        for trait in wanted if present else ():
            rows = []
            for high, low in self.descriptions[trait]:
                h, lo = (self._token_logp(text, question, [tokens[i] for i in present]) for text in (high, low))
                rows.append(weighted_ratio(h, lo).sum(dim=1))
            ratios[trait] = torch.stack(rows)
        results: list[Judgement] = []
        for i, ids in enumerate(tokens):
            if not ids:
                results.append(Judgement({}, {}, {}, 0, 0, "the answer is empty"))
                continue
            column = present.index(i)
            by_pair = {trait: [value / len(ids) for value in r[:, column].tolist()] for trait, r in ratios.items()}
            llr = {trait: statistics.fmean(values) for trait, values in by_pair.items()}
            results.append(
                Judgement(
                    scores={trait: self.scale.traits[trait].score(value) for trait, value in llr.items()},
                    llr=llr,
                    spread={
                        trait: statistics.stdev(values) if len(values) > 1 else math.nan
                        for trait, values in by_pair.items()
                    },
                    tokens=len(ids),
                    pairs=max(len(values) for values in by_pair.values()),
                )
            )
        return results

    def judge_all(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        traits: Sequence[Trait] | None = None,
        progress: Count | None = None,
    ) -> list[Judgement]:
        """One `Judgement` per (question, answer), in order; answers to the same question share the work."""
        by_question: dict[str, list[int]] = {}
        for i, (question, _) in enumerate(pairs):
            by_question.setdefault(question, []).append(i)
        results: dict[int, Judgement] = {}
        for question, rows in by_question.items():
            judged = self.judge(question, [pairs[i][1] for i in rows], traits=traits)
            results.update(zip(rows, judged, strict=True))
            if progress is not None:
                progress(len(results), len(pairs))
        return [results[i] for i in range(len(pairs))]

    def rescore(self, judgements: Sequence[Judgement]) -> list[Judgement]:
        """The same ratios on this judge's scale: what `judge` returns, without running the model again."""
        return [
            replace(row, scores={trait: self.scale.traits[trait].score(llr) for trait, llr in row.llr.items()})
            for row in judgements
        ]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` as data: what looks like a special token becomes ordinary characters.

        Raises:
            ValueError: the tokenizer cannot do that, and the text holds a special token.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if not self._special.isdisjoint(ids):
            raise DPGError(f"{type(self.tokenizer).__name__} turns part of the text into special tokens: {text!r}")
        return ids

    def prompt_ids(self, description: str, question: str) -> list[int]:
        """Token ids up to where the assistant turn begins; description and question are encoded as data."""
        messages = with_system(self.tokenizer, [{"role": "user", "content": _USER}], _SYSTEM)
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self._template_kwargs
        )
        before, _, rest = text.partition(_SYSTEM)
        between, found, after = rest.partition(_USER)
        if not found:
            raise DPGError("the chat template does not render the system and user texts in this order")
        said = {"description": description, "question": question.strip()}
        ids: list[int] = []
        for part, is_data in (
            (before, False),
            (self.scale.system_template.format(**said), True),
            (between, False),
            (self.scale.user_template.format(**said), True),
            (after, False),
        ):
            ids += self.encode(part) if is_data else self.tokenizer(part, add_special_tokens=False)["input_ids"]
        return ids

    def _token_logp(self, description: str, question: str, answers: Sequence[Sequence[int]]) -> torch.Tensor:
        """log p of each token of each non-empty answer: float64 [N, longest], 0 behind the end, on the CPU."""
        prompts = [self.prompt_ids(description, question)] * len(answers)
        found = continuation_logp(self.model, prompts, answers, batch_size=self.batch_size, autocast=self.autocast)
        return nn.utils.rnn.pad_sequence([own.logp for own in found], batch_first=True)

    def interval(self, found: Judgement, trait: Trait) -> tuple[float, float]:
        """Scores of the ratio less and plus one standard deviation over the description pairs: what other words would say.

        With one pair, that may be any score.
        """
        llr, spread = found.llr[trait], found.spread[trait]
        if math.isnan(spread):
            return -MAX_SCORE, MAX_SCORE
        scale = self.scale.traits[trait]
        return scale.score(llr - spread), scale.score(llr + spread)

    def describe(self) -> str:
        """What this judge is and how far it can be trusted, in plain words."""
        counts = sorted({len(pairs) for pairs in self.descriptions.values()})
        used = str(getattr(self.model, "name_or_path", "")) or type(self.model).__name__
        lines = [
            f"Likelihood judge on {used}. It is a weak judge: it compares how probable an answer is when the "
            "model plays a person high in a trait and when it plays the opposite "
            f"({'/'.join(map(str, counts))} pairs of descriptions), and it knows nothing else about "
            "personality, truth or fluency.",
            "Use it for differences between groups of answers; a single score is unreliable, and its zero moves with "
            "the writer's style.",
        ]
        if not self.scale.model:
            lines.append("Its scale was not fitted: ranks and differences mean something, levels do not.")
        elif used != self.scale.model:
            lines.append(f"Its scale was fitted on {self.scale.model}, NOT on this model: the scores mean little.")
        if self._own_descriptions and self.scale.model:
            lines.append("Its descriptions are not those that the scale was fitted with.")
        held_out = self.scale.fit.get("validation", {})
        if held_out:
            lines.append(
                f"It separates persona-prompted answers of the two poles with AUC {_figures(held_out)} to questions "
                "and under descriptions that had no part in choosing or fitting the judge; 0.5 is chance. "
                "The answers came from the same model, prompted in the same words."
            )
            bench = self.scale.fit.get("personalitybench", {})
            if bench:
                lines.append(f"On questions and descriptions of PersonalityBench: {_figures(bench)}.")
            neutral = self.scale.fit.get("neutral_mean_score", {})
            if neutral:
                values = ", ".join(f"{Trait.parse(name).letter} {m:+.1f}" for name, m in neutral.items())
                lines.append(f"Answers of that model without a persona score on average {values}.")
        else:
            lines.append("It has not been validated.")
        return "\n".join(lines)


def _figures(table: Mapping[str, Mapping[str, Any]]) -> str:
    values = ", ".join(f"{Trait.parse(name).letter} {row['auc']:.2f}" for name, row in table.items())
    return f"{values} ({sum(row['n'] for row in table.values())} answers)"


def weighted_ratio(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """w_t (high - low) of log probabilities per token, elementwise; see the module's text. 0 where both are 0."""
    surprisal = math.log(2.0) - torch.logaddexp(high, low)
    return surprisal.clamp(0.0, SURPRISAL_CAP) / SURPRISAL_CAP * (high - low)


def _control_tokens(tokenizer: Any) -> set[int]:
    found = set(tokenizer.all_special_ids) | {
        index for index, token in added_tokens(tokenizer).items() if token.special
    }
    if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        found.discard(tokenizer.unk_token_id)  # an unknown word is not a control token
    return found


def shipped_pairs() -> dict[Trait, tuple[tuple[str, str], ...]]:
    """The (high, low) description pairs of split "judge" that come with the package, per trait."""
    return {
        trait: tuple(
            (high.text, low.text)
            for high, low in zip(
                load_descriptions(Pole(trait, True), "judge"),
                load_descriptions(Pole(trait, False), "judge"),
                strict=True,
            )
        )
        for trait in Trait
    }
