"""The report of an evaluation of tuned characters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpg_fast.evaluation.drift_report import slope_text
from dpg_fast.judges.sections import software
from dpg_fast.personality.scores import Trait
from dpg_fast.personified.evaluate.bleu import MEASURES
from dpg_fast.reporting import Page, Picture, Quote, Quotes, Section, Settings, Table, Text, bounds, charts, number
from dpg_fast.reporting.page import MISSING, SIGNED, grouped
from dpg_fast.reporting.render import write_report as write_page
from dpg_fast.util.words import counted

PICTURE = "distinction.png"
_NAMES = {"intra": "Intra", "stage": "Stage", "inter": "Inter", "gap": "Intra − Stage"}
_ABOUT_BLEU = (
    "BLEU (sacrebleu's default, 0 to 100, mean of both directions) of answers to each person's own test questions. Intra: two "
    "samples of the same person and stage; Stage: two stages of the same person; Inter: against the other people. A system that "
    "tells people and times apart has Intra > Stage > Inter. Brackets: 95% bootstrap interval over questions."
)
_LETTERS = [trait.letter for trait in Trait]
_WEAK = "Weak: words in common, no judgement of meaning."


def write_report(found: Mapping[str, Any], directory: Path) -> Path:
    """Write the report and its picture; the page's path.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    people = ", ".join(f"{name} ({counted(row['questions'], 'question')})" for name, row in found["people"].items())
    page = Page(
        title="Tuned characters",
        subtitle=f"{counted(len(found['systems']), 'system')}; {people}",
        lead=lead(found),
        sections=[
            _distinction(found, directory),
            _differences(found) if found.get("differences") else None,
            _premises(found),
            _stages(found),
            _accuracy(found),
            _ranking(found),
            _questionnaire(found["questionnaire"]) if "questionnaire" in found else None,
            _chat(found["drift"]) if "drift" in found else None,
            _examples(found),
            Section("Settings", [Settings({"systems": found["systems"], **found["about"], "software": software()})]),
        ],
        data=found,
    )
    return write_page(page, directory)


def lead(found: Mapping[str, Any]) -> str:
    """What PersLLM claims of its DPO, said of the systems at hand, in plain words."""
    if not found.get("differences"):
        return "How distinct people and stages are, what is known, and what is resisted."
    against, said = found["against"], []
    for name, people in found["differences"].items():
        own = people["mean"]
        parts = []
        for measure, good in (("gap", 1), ("inter", -1)):
            if measure in own:
                value = own[measure]
                sure = "" if value["low"] > 0 or value["high"] < 0 else ", not shown (interval includes 0)"
                word = "better" if good * value["estimate"] > 0 else "no better"
                parts.append(f"{_NAMES[measure]} {bounds(value, SIGNED)} ({word}{sure})")
        said.append(f"{name} against {against}: {', '.join(parts)}")
    return "; ".join(said) + "."


def _distinction(found: Mapping[str, Any], directory: Path) -> Section:
    means = [
        (name, {_NAMES[m]: own["mean"][m] for m in MEASURES if m in own["mean"]})
        for name, own in found["distinction"].items()
    ]
    ends = [v for _, own in means for value in own.values() for v in (value["low"], value["high"]) if v is not None]
    charts.intervals(
        means,
        directory / PICTURE,
        label="BLEU, mean over people",
        marks=((0.0, ""),),
        limits=(min([0.0, *ends]), max([1.0, *ends])),
    )
    texts = [
        [name, number(t["words"], "{:.0f}"), number(t["marked"], "{:.0%}"), number(t["empty"], "{:.0%}")]
        for name, t in found["text"].items()
    ]
    caption = "Words of a response, share of answers that think aloud, and share that never came to a response"
    return Section(
        "Distinction",
        [
            _bleu_table(found["distinction"], "{:.2f}", _ABOUT_BLEU),
            Picture(PICTURE, "BLEU by system and measure", "Means over people"),
            Table(["system", "words", "analysis", "no response"], texts, caption),
        ],
    )


def _differences(found: Mapping[str, Any]) -> Section:
    caption = f"Less the figures of {found['against']}, on the same draws of questions"
    return Section(f"Against {found['against']}", [_bleu_table(found["differences"], SIGNED, caption)])


def _bleu_table(systems: Mapping[str, Mapping[str, Any]], form: str, caption: str) -> Table:
    rows = {
        name: [[person, *(bounds(own.get(m), form) for m in MEASURES)] for person, own in people.items()]
        for name, people in systems.items()
    }
    return Table(["system", "person", *(_NAMES[m] for m in MEASURES)], grouped(rows), caption, left=2)


def _with_count(value: Mapping[str, Any] | None, form: str = "{:.0%}") -> str:
    if value is None:
        return MISSING
    count = value["count"]
    return f"{bounds(value, form)} of {count if isinstance(count, int) else ' and '.join(map(str, count))}"


def _premises(found: Mapping[str, Any]) -> Section:
    rows = [
        [
            name,
            _with_count(own.get("resisted")),
            _with_count(own.get("contradicted otherwise")),
            _with_count(own.get("likelihood"), "{:.2f}"),
        ]
        for name, own in {**found["premises"], "golden answers (by rule)": found["premises_golden"]}.items()
    ]
    caption = (
        f"Told by {found['stance_by']}. Resisted: error questions whose response contradicts; next to it the same of ordinary "
        "questions; AUC: whether stock corrections become likelier than stock agreements on a false premise (0.5: no)"
    )
    return Section("False premises", [Table(["system", "resisted", "contradicted otherwise", "AUC"], rows, caption)])


def _stages(found: Mapping[str, Any]) -> Section:
    rows = [
        [
            name,
            _with_count(own.get("nearest")),
            _with_count(own.get("references")),
            _with_count(own.get("likelihood")),
            bounds(own.get("margin"), "{:+.3f}"),
        ]
        for name, own in found["stages"].items()
    ]
    caption = (
        "Nearest: responses nearer (TF-IDF) to the own stage's texts than to the other's, beside the same of golden answers; "
        "likelier: golden answers more probable under the own stage, and by how many nats a token. Chance is 50%"
    )
    return Section(
        "Stage consistency", [Table(["system", "nearest", "golden answers", "likelier", "margin"], rows, caption)]
    )


def _accuracy(found: Mapping[str, Any]) -> Section:
    kinds = ("knowledge", "attitude", "all")
    rows = [[name, *(_with_count(own.get(kind), "{:.2f}") for kind in kinds)] for name, own in found["overlap"].items()]
    caption = f"F1 of content words with the golden answer, 0 to 1. {_WEAK} Kinds are told by what a question was written from."
    blocks: list[Table | Text] = [Table(["system", *kinds], rows, caption)]
    judged = found.get("judged", {}).get("accuracy")
    if judged and judged.get("accuracy"):
        rows = [
            [name, *(number(own["by_kind"].get(kind)) for kind in kinds[:2]), number(own["weighted"])]
            for name, own in judged["accuracy"].items()
        ]
        items = ", ".join(f"{count} {kind}" for kind, count in judged["items"].items())
        caption = f"Mean agreement with the golden answer, 0 to 5; items: {items}; failed: {judged['failed']}"
        blocks = [Table(["system", *kinds], rows, caption), Text(judged["judge"]), *blocks]
    return Section("Knowledge and attitude", blocks)


def _ranking(found: Mapping[str, Any]) -> Section:
    judged = found.get("judged", {}).get("ranking", {}).get("ranking", {})
    tables = [_rank_table(ranks, f"By the judge, in {aspect}") for aspect, ranks in judged.items()]
    if "overlap_ranking" in found:
        tables.append(_rank_table(found["overlap_ranking"], f"By overlap with the golden answer. {_WEAK}"))
    return Section("Ranking", tables)


def _rank_table(ranks: Mapping[str, Any], title: str) -> Table:
    ordered = sorted(ranks["mean_rank"].items(), key=lambda row: float(row[1]["estimate"]))
    rows = [[name, bounds(rank), number(ranks["first"][name], "{:.0%}")] for name, rank in ordered]
    return Table(["system", "mean rank", "first"], rows, f"{title}; {counted(ranks['items'], 'item')}, 1 is best")


def _questionnaire(results: Mapping[str, Mapping[str, Any]]) -> Section:
    rows = {name: [[str(p["label"]), *_five(p["scores"])] for p in r["respondents"]] for name, r in results.items()}
    note = (
        "What the characters say of themselves, -5 to 5. A model that chooses by the place of an option and not by what it says "
        "gives everybody the same profile; compare rows, and see docs/assessment.md before believing any."
    )
    return Section("Questionnaire", [Text(note), Table(["system", "who", *_LETTERS], grouped(rows), left=2)])


def _chat(results: Mapping[str, Mapping[str, Any]]) -> Section:
    rows = {name: [[who, *_five(scores)] for who, scores in r["profile"].items()] for name, r in results.items()}
    slopes = {name: [[trait, slope_text(s)] for trait, s in r["slopes"].items()] for name, r in results.items()}
    first = next(iter(results.values()))
    caption = f"Judged scores, mean over a chat of {counted(len(first['turns']), 'turn')}"
    interval = "With 95% bootstrap interval over people"
    return Section(
        "Long chat",
        [
            Table(["system", "who", *_LETTERS], grouped(rows), caption, left=2),
            Table(["system", "trait", "change per turn"], grouped(slopes), interval, left=2),
            Text(first["judge"]),
        ],
    )


def _five(scores: Mapping[str, float]) -> list[str]:
    return [number(scores.get(trait.value), "{:+.1f}") for trait in Trait]


def _examples(found: Mapping[str, Any]) -> Section:
    quotes = []
    for row in found["examples"]:
        asked = f"{row['person']}, {row['stage']}, {row['kind']}: {row['question']}"
        quotes.append(Quote("golden answer", row["reference"], asked))
        quotes += [Quote(name, text or "(nothing)") for name, text in row["answers"].items()]
    return Section("Examples", [Quotes(quotes)])
