"""Ways to give a model a personality, behind one interface, so that they are measured alike.

The baselines are those of NPTI's evaluation (arXiv 2410.12327) as far as they are public; what is ours is said where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dpg_fast.evaluation.harness import Examinee
from dpg_fast.hypernet import AdapterNetwork, from_peft
from dpg_fast.model import Calibration, PersonalityModel
from dpg_fast.neurons import SteeringTable
from dpg_fast.personality.scores import POLES, Character, Personality
from dpg_fast.text.answers import AnswerSettings, greedy_answers
from dpg_fast.text.assets import load_descriptions
from dpg_fast.text.personas import SYSTEM_TEMPLATE, USER_TEMPLATE, score_text
from dpg_fast.util.errors import DPGError
from dpg_fast.util.identity import file_digest

#: the adjectives of NPTI's simple prompts, high and low pole
ADJECTIVES = {
    "O": ("open", "closed"),
    "C": ("conscientious", "unconscientious"),
    "E": ("extraverted", "introverted"),
    "A": ("agreeable", "disagreeable"),
    "N": ("neurotic", "calm"),
}
#: adjectives of the graded prompt, high and low pole
MARKERS = {
    "O": (
        ("imaginative", "creative", "curious", "artistic", "reflective", "sophisticated"),
        ("unimaginative", "uncreative", "incurious", "unartistic", "unreflective", "unsophisticated"),
    ),
    "C": (
        ("orderly", "responsible", "hardworking", "self-disciplined", "practical", "thorough"),
        ("messy", "irresponsible", "lazy", "undisciplined", "impractical", "careless"),
    ),
    "E": (
        ("friendly", "talkative", "bold", "assertive", "active", "cheerful"),
        ("unfriendly", "silent", "timid", "unassertive", "inactive", "gloomy"),
    ),
    "A": (
        ("trustful", "honest", "kind", "generous", "cooperative", "sympathetic"),
        ("distrustful", "dishonest", "unkind", "stingy", "uncooperative", "unsympathetic"),
    ),
    "N": (
        ("tense", "nervous", "anxious", "irritable", "depressed", "emotionally unstable"),
        ("relaxed", "at ease", "easygoing", "patient", "contented", "emotionally stable"),
    ),
}
LORA = "LoRA with scores in the prompt"
_DEGREES = ("slightly", "somewhat", "quite", "very", "extremely")
_GRADES = ("a bit", "a bit", "", "very", "extremely")
_FIT = ("only slightly", "somewhat", "fairly well", "very well", "completely")


class Method(Protocol):
    """Answers questions as somebody.

    Attributes:
        name: short, unique in an evaluation.
        neutral_is_bare: a personality whose scores are all 0 is the bare model.
        has_likelihoods: it can sit tasks and tell how likely given words are (`examinee`).
    """

    name: str
    neutral_is_bare: bool
    has_likelihoods: bool

    def describe(self) -> str:
        """What it does, and what of it is not the published method, in one or two sentences."""

    def about(self) -> Mapping[str, Any]:
        """What its answers depend on, JSON-ready."""

    def prepare(self) -> None:
        """Called before the first answer; may take long."""

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        """One batch: an answer for each question, each as its own person; None is the bare model."""

    def examinee(self, personality: Personality | None) -> Examinee:
        """The model as this person, for tasks of lm-evaluation-harness; between :meth:`prepare` and :meth:`close`."""

    def close(self) -> None:
        """Called after the last answer; leaves the base model as it was."""


class Wrapping:
    """Answers with a `PersonalityModel` that wraps the base model while it is needed; subclasses say how by `make`."""

    name: str
    has_likelihoods: bool = True
    _model: PersonalityModel | None = None

    def make(self) -> PersonalityModel:
        """The wrapped model."""
        raise NotImplementedError

    @property
    def model(self) -> PersonalityModel:
        """The wrapped model, between `prepare` and `close`.

        Raises:
            RuntimeError: it is not prepared.
        """
        if self._model is None:
            raise RuntimeError(f"call prepare() of {self.name} first")
        return self._model

    def prepare(self) -> None:
        """Called before the first answer."""
        if self._model is None:
            self._model = self.make()

    def close(self) -> None:
        """Leaves the base model as it was."""
        if self._model is not None:
            self._model.unload()
            self._model = None


class BareModel:
    """The base model, whatever is asked for: what every method has to move away from."""

    name: str = "bare"
    neutral_is_bare: bool = True
    has_likelihoods: bool = True

    def __init__(self, base: Any, tokenizer: Any, settings: AnswerSettings) -> None:
        self.base, self.tokenizer, self.settings = base, tokenizer, settings

    def describe(self) -> str:
        return "The base model without any personality."

    def about(self) -> Mapping[str, Any]:
        return {}

    def prepare(self) -> None:
        pass

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        return greedy_answers(self.base, self.tokenizer, questions, self.settings, systems=self._systems(personalities))

    def examinee(self, personality: Personality | None) -> Examinee:
        return Examinee(self.base, None, self.persona(personality) if personality else "")

    def close(self) -> None:
        pass

    def _systems(self, personalities: Sequence[Personality | None]) -> list[str]:
        return [
            f"{self.persona(personality)} {self.settings.system}".strip() if personality else self.settings.system
            for personality in personalities
        ]

    def persona(self, personality: Personality) -> str:
        """What the instruction says about the person; nothing here."""
        return ""


class SimplePrompt(BareModel):
    """One adjective in the instruction, as NPTI's simple prompt; the words for degrees are ours."""

    name = "simple prompt"

    def describe(self) -> str:
        return (
            "One adjective for the pole in the instruction (NPTI's adjectives). The wording and the words for levels "
            f"({', '.join(_DEGREES)}) are ours; the published prompt knows no levels."
        )

    def about(self) -> Mapping[str, Any]:
        return {"example": self.persona(Personality("O5 C-4 E3 A-2 N1"))}

    def persona(self, personality: Personality) -> str:
        return self.words(personality)

    @staticmethod
    def words(personality: Personality) -> str:
        """The adjectives of a personality as a sentence; empty for one whose scores are all 0."""
        words = [
            f"{_word(_DEGREES, level)} {ADJECTIVES[pole.trait.letter][0 if pole.high else 1]}"
            for pole, level in zip(POLES, personality.pole_scores, strict=True)
            if level
        ]
        return f"You are {', '.join(words)}." if words else ""


class DescriptionPrompt(BareModel):
    """A paragraph about the person in the instruction, after the P2 prompt of NPTI's evaluation; the texts are ours."""

    name = "description prompt"

    def describe(self) -> str:
        return (
            "A paragraph that describes a person of the pole in the instruction, in the manner of P2. The paragraphs (split "
            "search of this package), the wording and the words for levels are ours."
        )

    def about(self) -> Mapping[str, Any]:
        return {"example": self.persona(Personality("O5 C-4 E3 A-2 N1"))}

    def persona(self, personality: Personality) -> str:
        return self.words(personality)

    @staticmethod
    def words(personality: Personality) -> str:
        """The paragraphs that describe a personality; empty for one whose scores are all 0."""
        parts = [
            f"{load_descriptions(pole, 'search')[0].text} This describes you {_word(_FIT, level)}."
            for pole, level in zip(POLES, personality.pole_scores, strict=True)
            if level
        ]
        return " ".join(parts)


class PersonaPrompt(DescriptionPrompt):
    """The same paragraphs before and after the question, where the teacher of a hypernetwork has them."""

    name = "persona prompt"

    def describe(self) -> str:
        return (
            "The paragraphs of the description prompt as the whole instruction and again behind the question, in the template "
            "of the teacher that hypernetworks learn from: the strongest prompt here, at twice the tokens."
        )

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        asked, systems = [], []
        for question, personality in zip(questions, personalities, strict=True):
            said = {"question": question, "description": self.persona(personality) if personality else ""}
            asked.append(USER_TEMPLATE.format(**said) if personality else question)
            systems.append(SYSTEM_TEMPLATE.format(**said) if personality else self.settings.system)
        return greedy_answers(self.base, self.tokenizer, asked, self.settings, systems=systems)

    def examinee(self, personality: Personality | None) -> Examinee:
        words = self.persona(personality) if personality else ""
        return Examinee(self.base, None, words, words)


class AdjectivePrompt(BareModel):
    """Several graded adjectives for each trait, in the manner of Serapio-García et al. (arXiv 2307.00184), who showed that larger
    models follow them level by level. Markers and wording are ours, chosen after theirs."""

    name = "graded adjectives"

    def describe(self) -> str:
        return (
            f"{len(MARKERS['O'][0])} adjectives for each pole with a word for the level ({', '.join(filter(None, _GRADES))}, or "
            "none), in the manner of Serapio-García et al. (arXiv 2307.00184), whose nine levels become eleven; adjectives "
            "and wording are ours."
        )

    def about(self) -> Mapping[str, Any]:
        return {"example": self.persona(Personality("O5 C-4 E3 A-2 N1"))}

    def persona(self, personality: Personality) -> str:
        words = [
            f"{_word(_GRADES, level)} {marker}".strip()
            for pole, level in zip(POLES, personality.pole_scores, strict=True)
            if level
            for marker in MARKERS[pole.trait.letter][0 if pole.high else 1]
        ]
        return f'Respond in a way that matches this description: "I\'m {", ".join(words)}."' if words else ""


class WrappedModel(Wrapping):
    """A `PersonalityModel` made of some parts of an adapter: neurons, hypernetwork, or both."""

    def __init__(
        self,
        name: str,
        base: Any,
        tokenizer: Any,
        settings: AnswerSettings,
        *,
        steering: SteeringTable | None = None,
        calibration: Calibration | None = None,
        hypernet: AdapterNetwork | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        if steering is None and hypernet is None:
            raise DPGError("a wrapped model needs neurons or a hypernetwork")
        self.name = name
        self.neutral_is_bare = hypernet is None or hypernet.config.neutral == "base"
        self.base, self.tokenizer, self.settings = base, tokenizer, settings
        self.steering, self.calibration, self.hypernet = steering, calibration or Calibration(), hypernet
        self._identity = dict(identity or {})

    def describe(self) -> str:
        parts = []
        if self.steering is not None:
            parts.append(
                "NPTI's personality neurons, capped and added to while decoding, without the random mask; "
                f"{self.calibration.kind} calibration, strengths at level 5: {_strengths(self.calibration)}."
            )
        if self.hypernet is not None:
            parts.append("LoRA weights generated from the personality by the adapter's hypernetwork, on all tokens.")
        return " ".join(parts)

    def about(self) -> Mapping[str, Any]:
        strengths = self.calibration
        curves = {str(p): [[level, strengths.strength(p, level)] for level in range(1, 6)] for p in POLES}
        return {
            **self._identity,
            "strengths": curves if self.steering is not None else None,
            "hypernet": self.hypernet is not None,
        }

    def make(self) -> PersonalityModel:
        return PersonalityModel.from_model(
            self.base,
            hypernet=self.hypernet,
            steering=self.steering,
            calibration=self.calibration,
            tokenizer=self.tokenizer,
        )

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        people = list(personalities)
        return greedy_answers(self.model, self.tokenizer, questions, self.settings, personality=people)

    def examinee(self, personality: Personality | None) -> Examinee:
        return Examinee(self.model, personality)


def _word(words: Sequence[str], level: float) -> str:
    return words[max(1, round(level)) - 1]


def _strengths(calibration: Calibration) -> str:
    return ", ".join(f"{pole} {calibration.strength(pole, 5.0):.2f}" for pole in POLES)


class LoraAdapter(Wrapping, BareModel):
    """One ordinary LoRA adapter for everybody, tuned with the scores written in the instruction.

    Args:
        directory: of a PEFT adapter.
        name: to tell several apart.
    """

    neutral_is_bare = False

    def __init__(self, base: Any, tokenizer: Any, settings: AnswerSettings, directory: Path, name: str = LORA) -> None:
        super().__init__(base, tokenizer, settings)
        self.directory = Path(directory)
        self.name = name

    def describe(self) -> str:
        return "One plain LoRA adapter, tuned on the same data with the five scores written in the instruction."

    def about(self) -> Mapping[str, Any]:
        return {
            "lora": file_digest(self.directory / "adapter_model.safetensors"),
            "example": self.persona(Personality("O5 C-4")),
        }

    def persona(self, personality: Personality) -> str:
        return score_text(personality)

    def make(self) -> PersonalityModel:
        return PersonalityModel.from_model(self.base, hypernet=from_peft({"lora": self.directory}))

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        systems = self._systems(personalities)
        who = [None if person is None else Character("lora") for person in personalities]
        return greedy_answers(self.model, self.tokenizer, questions, self.settings, systems=systems, personality=who)

    def examinee(self, personality: Personality | None) -> Examinee:
        who = None if personality is None else Character("lora")
        return Examinee(self.model, who, self.persona(personality) if personality else "")
