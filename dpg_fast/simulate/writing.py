"""Transcripts: dialogue records as JSON Lines, Markdown, and an HTML page with the readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.judges.sections import software
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import (
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Settings,
    Table,
    Text,
    charts,
    number,
    write_report,
)
from dpg_fast.reporting.render import markdown
from dpg_fast.simulate.conversation import Conversation
from dpg_fast.simulate.run import Simulation
from dpg_fast.simulate.scenario import Scenario
from dpg_fast.text.records import DialogueRecord, Turn, write_records
from dpg_fast.util.files import write_text
from dpg_fast.util.words import counted

DIALOGUES, TRANSCRIPT = "dialogues.jsonl", "transcript.md"
_SHOWN = 4  # conversations of a scenario on the page
SOURCE = "simulate:"


def record_of(conversation: Conversation) -> DialogueRecord:
    """The conversation as a record: the scenario's first speaker is the assistant, everybody has a name."""
    scenario = conversation.scenario
    first = scenario.speakers[0]
    return DialogueRecord(
        messages=[
            Turn(
                role="assistant" if said.speaker == 0 else "user", content=said.text, name=scenario.names[said.speaker]
            )
            for said in conversation.said
        ],
        personality=None if first.personality is None else first.personality.scores,
        character=first.name,
        stage=first.stage,
        source=f"{SOURCE}{conversation.key}",
    )


def write_transcripts(
    simulation: Simulation, scenarios: Sequence[Scenario], directory: Path, about: Mapping[str, Any], judge: str | None
) -> Path:
    """Write ``dialogues.jsonl``, ``transcript.md``, ``report.html`` with ``report.json`` and pictures; the page's path.

    Args:
        about: the run's settings, shown on the page.
        judge: its own description, if there were readings.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    write_records(directory / DIALOGUES, (record_of(c) for c in simulation.conversations))
    write_text(directory / TRANSCRIPT, markdown(_transcript(simulation, scenarios, judge)))
    sections = [_section(simulation, scenario, directory, judge is not None) for scenario in scenarios]
    if judge is not None:
        sections.append(Section("Judge", [Text(judge)]))
    sections.append(Section("Settings", [Settings({**about, "software": software()})]))
    count = len(simulation.conversations)
    page = Page(
        title="Simulated conversations",
        subtitle=f"{counted(len(scenarios), 'scenario')}, {counted(count, 'conversation')}",
        lead="What models said to each other. Readings of personality are a judge's, turn by turn."
        if judge
        else "What models said to each other.",
        sections=sections,
        data={"about": dict(about), "scenarios": [s.model_dump(mode="json") for s in scenarios], "judge": judge}
        | {"readings": _readings(simulation, scenarios)},
    )
    return write_report(page, directory)


def _readings(simulation: Simulation, scenarios: Sequence[Scenario]) -> dict[str, Any]:
    return {
        scenario.name: {
            name: {
                trait.value: value
                for trait in Trait
                if np.isfinite(value := simulation.mean(scenario.name, place, trait))
            }
            for place, name in enumerate(scenario.names)
        }
        for scenario in scenarios
    }


def speaks(scenario: Scenario, place: int) -> str:
    """By whom or what a speaker is played, in words."""
    speaker = scenario.speakers[place]
    parts = [
        f"{speaker.character}, {speaker.stage}" if speaker.stage else speaker.character,
        None if speaker.personality is None else str(speaker.personality),
        None if speaker.endpoint is None else f"{speaker.endpoint.model} over an API",
        "with a persona text" if speaker.persona else None,
    ]
    return "; ".join(filter(None, parts)) or "the base model"


def reading_text(reading: Mapping[Trait, float]) -> str:
    """ "O +1.2 C -0.3", OCEAN order."""
    return " ".join(f"{trait.letter} {reading[trait]:+.1f}" for trait in Trait if trait in reading)


def _transcript(simulation: Simulation, scenarios: Sequence[Scenario], judge: str | None) -> Page:
    """Every conversation in full."""
    sections = []
    for scenario in scenarios:
        who = {name: speaks(scenario, place) for place, name in enumerate(scenario.names)}
        conversations = [
            block
            for place, conversation in enumerate(simulation.conversations)
            if conversation.scenario.name == scenario.name
            for block in _conversation(simulation, place, conversation)
        ]
        about = [Text(text) for text in (scenario.about, scenario.setting) if text]
        sections.append(Section(scenario.name, [*about, Settings(who), *conversations]))
    if judge is not None:
        sections.append(Section("Judge", [Text(judge)]))
    return Page("Simulated conversations", "", "", sections, {})


def _conversation(simulation: Simulation, place: int, conversation: Conversation) -> list[Text | Quotes]:
    names = conversation.scenario.names
    quotes = [
        Quote(names[said.speaker], said.text, note=reading_text(simulation.readings.get((place, turn), {})))
        for turn, said in enumerate(conversation.said)
    ]
    return [Text(f"Seed {conversation.seed}", strong=True), Quotes(quotes)]


def _section(simulation: Simulation, scenario: Scenario, directory: Path, judged: bool) -> Section:
    own = [(i, c) for i, c in enumerate(simulation.conversations) if c.scenario.name == scenario.name]
    blocks: list[Any] = [Text(text) for text in (scenario.about, scenario.setting) if text]
    head = ["speaker", "who speaks", "turns", "words a turn"]
    rows = []
    for place, name in enumerate(scenario.names):
        texts = [said.text for _, c in own for said in c.said if said.speaker == place]
        words = float(np.mean([len(t.split()) for t in texts])) if texts else float("nan")
        means = [number(simulation.mean(scenario.name, place, t), "{:+.1f}") for t in Trait] if judged else []
        rows.append([name, speaks(scenario, place), str(len(texts)), number(words, "{:.1f}"), *means])
    caption = "Mean readings over all turns of all conversations" if judged else ""
    blocks.append(Table([*head, *([t.letter for t in Trait] if judged else [])], rows, caption, left=2))
    if judged and simulation.readings:
        scores = {name: _scores(simulation, own, place) for place, name in enumerate(scenario.names)}
        scores = {name: table for name, table in scores.items() if np.isfinite(table).any()}
        if scores:
            file = f"{scenario.name}.png"
            charts.turns(scores, directory / file)
            caption = "Readings turn by turn. Thin lines: conversations; thick lines: mean of each speaker."
            blocks.append(Picture(file, f"Readings of {scenario.name}", caption))
    for place, conversation in own[:_SHOWN]:
        blocks += _conversation(simulation, place, conversation)
    if len(own) > _SHOWN:
        blocks.append(Text(f"{len(own) - _SHOWN} more conversations are in {TRANSCRIPT}."))
    return Section(scenario.name, blocks)


def _scores(simulation: Simulation, own: Sequence[tuple[int, Conversation]], speaker: int) -> np.ndarray:
    """[conversations, the speaker's turns, 5], nan where there is no reading."""
    rows = [
        [simulation.readings.get((place, turn), {}) for turn, said in enumerate(c.said) if said.speaker == speaker]
        for place, c in own
    ]
    found = np.full((len(rows), max(1, *map(len, rows), 1), len(Trait)), np.nan)
    for i, row in enumerate(rows):
        for j, reading in enumerate(row):
            for trait, value in reading.items():
                found[i, j, trait.position] = value
    return found
