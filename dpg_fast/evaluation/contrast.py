"""Guided decoding: at each token the poles' persona prompts are set against each other, with the personality as their weights.

The product of experts that a hypernetwork's teacher speaks with (`dpg_fast.train.teacher`), used while decoding. It is the most
that persona prompts of this model can do, and the dearest: two prompts for each trait beside the neutral one, token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dpg_fast.evaluation.harness import Examinee
from dpg_fast.evaluation.methods import BareModel
from dpg_fast.personality.scores import POLES, Personality
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.assets import load_descriptions
from dpg_fast.train.teacher import PersonaTeacher, TeacherSettings
from dpg_fast.util.errors import DPGError


class ContrastPrompt(BareModel):
    """Persona prompts of both poles of each trait, contrasted at every token (after DExperts, arXiv 2105.03023; this is ours).

    Args:
        base, tokenizer, settings: as of the bare model; the repetition penalty counts the answer's tokens alone.
        strength: factor on the difference between the poles at level 5.
    """

    name = "contrasted prompts"
    neutral_is_bare = False
    has_likelihoods = False

    def __init__(self, base: Any, tokenizer: Any, settings: AnswerSettings, strength: float = 1.0) -> None:
        super().__init__(base, tokenizer, settings)
        self.strength = strength

    def describe(self) -> str:
        return (
            "Log probabilities under the high pole's persona prompt less those under the low pole's, times level / 5 and "
            f"{self.strength:g}, added to the neutral prompt's at each token: the teacher of hypernetworks, while decoding."
        )

    def about(self) -> Mapping[str, Any]:
        return {"strength": self.strength}

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        settings = TeacherSettings(
            strength=self.strength,
            max_new_tokens=self.settings.max_new_tokens,
            temperature=0,
            repetition_penalty=self.settings.repetition_penalty,
        )
        teacher = PersonaTeacher(self.base, self.tokenizer, settings)
        descriptions = {pole: load_descriptions(pole, "search")[0].text for pole in POLES}
        found = [""] * len(questions)
        for question in dict.fromkeys(questions):
            rows = [row for row, asked in enumerate(questions) if asked == question]
            people = [personalities[row] or Personality() for row in rows]
            said = teacher.answer(question, people, descriptions, self.settings.system)
            for row, answer in zip(rows, said, strict=True):
                found[row] = self.tokenizer.decode(answer.tokens, skip_special_tokens=True).strip()
        return found

    def examinee(self, personality: Personality | None) -> Examinee:
        """Not to be had.

        Raises:
            ValueError: always; tasks are sat by one model under one prompt.
        """
        raise DPGError(f"{self.name} cannot sit tasks: several prompts speak at once")
