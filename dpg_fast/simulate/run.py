"""Many conversations at once, step by step: everybody's next turn is written in one batch, then read by a judge.

A store gets one record for each step, so that a killed run continues with the step that was not finished, and says the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.judges.base import Judge
from dpg_fast.judges.runner import read_pairs
from dpg_fast.personality.scores import Trait
from dpg_fast.simulate.conversation import SILENCE, Conversation, Said
from dpg_fast.simulate.order import NameScorer, next_speakers
from dpg_fast.simulate.scenario import Scenario
from dpg_fast.simulate.voices import Voices
from dpg_fast.util.store import Store

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
        directory: for the stores; a run of the same ``about`` continues there.
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
    found = Simulation([Conversation.begin(scenario, seed) for scenario in scenarios for seed in seeds])
    total = max(c.scenario.turns - len(c.said) for c in found.conversations)
    with ExitStack() as stack:
        turns = stack.enter_context(Store(directory / TURNS, everything, ("step",)))
        readings: Store | None = None
        if judge is not None:
            names = None if traits is None else [trait.value for trait in traits]
            described = everything | {"judge": judge.describe(), "every": judge_every, "traits": names}
            readings = stack.enter_context(Store(directory / READINGS, described, ("step",)))
        for step in range(total):
            active = [i for i, c in enumerate(found.conversations) if not c.finished]
            if (step,) in turns:
                said = [Said(speaker, text) for speaker, text in turns[step,]["said"]]
            else:
                some = [found.conversations[i] for i in active]
                said = voices.say(some, next_speakers(some, scorer), step)
                turns.append([{"step": step, "said": [[turn.speaker, turn.text] for turn in said]}])
            for i, turn in zip(active, said, strict=True):
                found.conversations[i].said.append(turn)
            due = [i for i in active if (step + 1) % judge_every == 0 or found.conversations[i].finished]
            if judge is not None and readings is not None and due:
                _read(found, due, step, judge, traits, readings)
            if progress is not None:
                progress(found, step + 1, total)
    return found


def _read(
    simulation: Simulation,
    due: Sequence[int],
    step: int,
    judge: Judge,
    traits: Sequence[Trait] | None,
    readings: Store,
) -> None:
    """Judge the last turns of the conversations that are due."""
    turns = [len(simulation.conversations[i].said) - 1 for i in due]
    if (step,) in readings:
        rows = readings[step,]["readings"]
    else:
        conversations = [simulation.conversations[i] for i in due]
        asked = [(c.heard(turn), c.said[turn].text) for c, turn in zip(conversations, turns, strict=True)]
        rows, final = read_pairs(judge, asked, traits, SILENCE)
        if final:
            readings.append([{"step": step, "readings": rows}])  # failed calls are made again by a later run
    for i, turn, row in zip(due, turns, rows, strict=True):
        simulation.readings[i, turn] = {Trait(name): value for name, value in row.items()}
