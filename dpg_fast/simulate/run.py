"""Many conversations at once, step by step: everybody's next turn is written in one batch, then read by a judge.

A journal gets one line for each step, so that a killed run continues with the step that was not finished, and says the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.judges.base import Judge
from dpg_fast.judges.journal import Journal
from dpg_fast.personality.scores import Trait
from dpg_fast.simulate.conversation import SILENCE, Conversation, Said
from dpg_fast.simulate.order import NameScorer, next_speakers
from dpg_fast.simulate.scenario import Scenario
from dpg_fast.simulate.voices import Voices

TURNS, READINGS = "turns.jsonl", "readings.jsonl"
Reading = dict[Trait, float]


@dataclass
class Simulation:
    """Conversations with the readings of their turns.

    Attributes:
        conversations: by scenario, then seed.
        readings: (conversation's place, turn) -> trait -> score in -5..5; absent where nothing was judged.
    """

    conversations: list[Conversation]
    readings: dict[tuple[int, int], Reading] = field(default_factory=dict)

    def mean(self, scenario: str, speaker: int, trait: Trait) -> float:
        """Mean reading of a speaker over all conversations of a scenario; nan without any."""
        found = [
            reading[trait]
            for (place, turn), reading in self.readings.items()
            if trait in reading
            and self.conversations[place].scenario.name == scenario
            and self.conversations[place].said[turn].speaker == speaker
        ]
        return sum(found) / len(found) if found else math.nan


def simulate(
    scenarios: Sequence[Scenario],
    seeds: Sequence[int],
    voices: Voices,
    directory: Path,
    about: dict[str, Any],
    *,
    scorer: NameScorer | None = None,
    judge: Judge | None = None,
    judge_every: int = 1,
    traits: Sequence[Trait] | None = None,
    progress: Callable[[Simulation, int, int], None] | None = None,
) -> Simulation:
    """Have every scenario talked through with every seed.

    Args:
        scenarios: of different names.
        seeds: one conversation of each scenario for each.
        voices: who speaks.
        directory: for the journals; a run of the same ``about`` continues there.
        about: what the turns depend on besides scenarios and seeds, JSON-ready.
        scorer: for the order "model".
        judge: reads turns; None for no readings.
        judge_every: turns of a conversation between two readings; the last turn of a conversation is always read.
        traits: to judge; default all.
        progress: gets the simulation, steps done and steps in all, after each step.

    Raises:
        ValueError: the directory holds another run, or an endpoint gave no turn.
    """
    everything = about | {"scenarios": [s.model_dump(mode="json") for s in scenarios], "seeds": list(seeds)}
    journal = Journal(directory / TURNS, everything, ("step",))
    found = Simulation([Conversation.begin(scenario, seed) for scenario in scenarios for seed in seeds])
    total = max(c.scenario.turns - len(c.said) for c in found.conversations)
    readings = _Readings(directory, everything, judge, judge_every, traits)
    for step in range(total):
        active = [i for i, c in enumerate(found.conversations) if not c.finished]
        if (step,) in journal:
            said = [Said(speaker, text) for speaker, text in journal[(step,)]["said"]]
        else:
            some = [found.conversations[i] for i in active]
            said = voices.say(some, next_speakers(some, scorer), step)
            journal.append([{"step": step, "said": [[turn.speaker, turn.text] for turn in said]}])
        for i, turn in zip(active, said, strict=True):
            found.conversations[i].said.append(turn)
        readings.read(found, active, step)
        if progress is not None:
            progress(found, step + 1, total)
    return found


class _Readings:
    def __init__(
        self,
        directory: Path,
        about: dict[str, Any],
        judge: Judge | None,
        every: int,
        traits: Sequence[Trait] | None,
    ) -> None:
        self.judge, self.every, self.traits = judge, every, traits
        self.journal: Journal | None = None
        if judge is not None:
            names = None if traits is None else [trait.value for trait in traits]
            described = about | {"judge": judge.describe(), "every": every, "traits": names}
            self.journal = Journal(directory / READINGS, described, ("step",))

    def read(self, simulation: Simulation, active: Sequence[int], step: int) -> None:
        if self.judge is None or self.journal is None:
            return
        due = [
            i for i in active if (step + 1) % self.every == 0 or simulation.conversations[i].finished or self.every == 1
        ]
        if not due:
            return
        if (step,) in self.journal:
            rows = self.journal[(step,)]["readings"]
        else:
            asked = []
            for i in due:
                conversation = simulation.conversations[i]
                turn = len(conversation.said) - 1
                asked.append((conversation.heard(turn), conversation.said[turn].text))
            verdicts = self.judge.judge_all(asked, traits=self.traits)
            rows = [{trait.value: float(v) for trait, v in verdict.scores.items()} for verdict in verdicts]
            if all(row or text == SILENCE for row, (_, text) in zip(rows, asked, strict=True)):
                self.journal.append([{"step": step, "readings": rows}])  # failed calls are made again by a later run
        for i, row in zip(due, rows, strict=True):
            turn = len(simulation.conversations[i].said) - 1
            simulation.readings[i, turn] = {Trait(name): value for name, value in row.items()}
