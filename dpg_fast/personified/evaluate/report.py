"""The report of an evaluation: Markdown, an HTML page and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpg_fast.judges.sections import software
from dpg_fast.personality.scores import Trait
from dpg_fast.personified.evaluate.bleu import MEASURES
from dpg_fast.reporting.charts import COLOURS, INK, MARKERS, SOFT
from dpg_fast.reporting.figures import new_figure, save_figure
from dpg_fast.reporting.markdown import write_markdown
from dpg_fast.reporting.page import (
    Block,
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Settings,
    Table,
    Text,
    bounds,
    number,
    write_page,
)

PICTURE = "distinction.png"
_NAMES = {"intra": "Intra", "stage": "Stage", "inter": "Inter", "gap": "Intra − Stage"}
_ABOUT_BLEU = (
    "BLEU (sacrebleu's default, 0 to 100, mean of both directions) of answers to each person's own test questions. Intra: two "
    "samples of the same person and stage; Stage: two stages of the same person; Inter: against the other people. A system that "
    "tells people and times apart has Intra > Stage > Inter. Brackets: 95% bootstrap interval over questions."
)
_WEAK = "Weak: words in common, no judgement of meaning."


def write_report(found: Mapping[str, Any], directory: Path) -> Path:
    """Write ``report.md``, ``report.html`` with ``report.json``, and the picture; the page's path.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    _draw(found["distinction"], directory / PICTURE)
    sections = [
        _distinction(found),
        *([_differences(found)] if found.get("differences") else []),
        _premises(found),
        _stages(found),
        _accuracy(found),
        *_ranking(found),
        *_parts(found),
        _examples(found),
        Section("Settings", [Settings({"systems": found["systems"], **found["about"], "software": software()})]),
    ]
    people = ", ".join(f"{name} ({row['questions']} questions)" for name, row in found["people"].items())
    page = Page(
        title="Tuned characters",
        subtitle=f"{len(found['systems'])} systems; {people}",
        lead=lead(found),
        sections=sections,
        data=found,
    )
    write_markdown(page, directory)
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
                parts.append(f"{_NAMES[measure]} {bounds(value, '{:+.2f}')} ({word}{sure})")
        said.append(f"{name} against {against}: {', '.join(parts)}")
    return "; ".join(said) + "."


def _distinction(found: Mapping[str, Any]) -> Section:
    rows = []
    for name, people in found["distinction"].items():
        for n, (person, own) in enumerate(people.items()):
            cells = [bounds(own.get(measure, {}), "{:.2f}") for measure in MEASURES]
            rows.append([name if n == 0 else "", person, *cells])
    table = Table(["system", "person", *(_NAMES[m] for m in MEASURES)], rows, _ABOUT_BLEU, left=2)
    texts = [
        [name, number(t["words"], "{:.0f}"), number(t["marked"], "{:.0%}"), number(t["empty"], "{:.0%}")]
        for name, t in found["text"].items()
    ]
    caption = "Words of a response, share of answers that think aloud, and share that never came to a response"
    return Section(
        "Distinction",
        [
            table,
            Picture(PICTURE, "BLEU by system and measure", "Means over people"),
            Table(["system", "words", "analysis", "no response"], texts, caption),
        ],
    )


def _differences(found: Mapping[str, Any]) -> Section:
    rows = [
        [name if n == 0 else "", person, *(bounds(own.get(m, {}), "{:+.2f}") for m in MEASURES)]
        for name, people in found["differences"].items()
        for n, (person, own) in enumerate(people.items())
    ]
    caption = f"Less the figures of {found['against']}, on the same draws of questions"
    return Section(
        f"Against {found['against']}",
        [Table(["system", "person", *(_NAMES[m] for m in MEASURES)], rows, caption, left=2)],
    )


def _with_count(value: Mapping[str, Any] | None, form: str = "{:.0%}") -> str:
    if value is None:
        return "–"
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
            bounds(own.get("margin", {}), "{:+.3f}"),
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
    blocks: list[Block] = [Table(["system", *kinds], rows, caption)]
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


def _ranking(found: Mapping[str, Any]) -> list[Section]:
    blocks: list[Block] = []
    for aspect, ranks in found.get("judged", {}).get("ranking", {}).get("ranking", {}).items():
        blocks.append(_rank_table(ranks, f"By the judge, in {aspect}"))
    if "overlap_ranking" in found:
        blocks.append(_rank_table(found["overlap_ranking"], f"By overlap with the golden answer. {_WEAK}"))
    return [Section("Ranking", blocks)] if blocks else []


def _rank_table(ranks: Mapping[str, Any], title: str) -> Table:
    ordered = sorted(ranks["mean_rank"].items(), key=lambda row: float(row[1]["estimate"]))
    rows = [[name, bounds(rank), number(ranks["first"][name], "{:.0%}")] for name, rank in ordered]
    return Table(["system", "mean rank", "first"], rows, f"{title}; {ranks['items']} items, 1 is best")


def _parts(found: Mapping[str, Any]) -> list[Section]:
    sections = []
    letters = [trait.letter for trait in Trait]
    if "questionnaire" in found:
        rows = [
            [name, str(person["label"]), *(number(person["scores"].get(t.value), "{:+.1f}") for t in Trait)]
            for name, result in found["questionnaire"].items()
            for person in result["respondents"]
        ]
        note = (
            "What the characters say of themselves, -5 to 5. A model that chooses by the place of an option and not by what it "
            "says gives everybody the same profile; compare rows, and see docs/assessment.md before believing any."
        )
        sections.append(Section("Questionnaire", [Text(note), Table(["system", "who", *letters], rows, left=2)]))
    if "drift" in found:
        rows = [
            [name, who, *(number(scores.get(t.value), "{:+.1f}") for t in Trait)]
            for name, result in found["drift"].items()
            for who, scores in result["profile"].items()
        ]
        slopes = [
            [
                name,
                trait,
                f"{number(s['per_turn'], '{:+.3f}')} [{number(s['low'], '{:+.3f}')}, {number(s['high'], '{:+.3f}')}]",
            ]
            for name, result in found["drift"].items()
            for trait, s in result["slopes"].items()
        ]
        turns = len(next(iter(found["drift"].values()))["turns"])
        judge = next(iter(found["drift"].values()))["judge"]
        blocks: list[Block] = [
            Table(["system", "who", *letters], rows, f"Judged scores, mean over a chat of {turns} turns", left=2),
            Table(["system", "trait", "change per turn"], slopes, "With 95% bootstrap interval over people", left=2),
            Text(judge),
        ]
        sections.append(Section("Long chat", blocks))
    return sections


def _examples(found: Mapping[str, Any]) -> Section:
    quotes = []
    for row in found["examples"]:
        asked = f"{row['person']}, {row['stage']}, {row['kind']}: {row['question']}"
        quotes.append(Quote("golden answer", row["reference"], asked))
        quotes += [Quote(name, text or "(nothing)") for name, text in row["answers"].items()]
    return Section("Examples", [Quotes(quotes)])


def _draw(figures: Mapping[str, Any], path: Path) -> None:
    """A panel for each measure, a mark with its interval for each system: means over people."""
    shown = [m for m in MEASURES if any(m in people["mean"] for people in figures.values())]
    figure, axes = new_figure(2.6 * len(shown) + 1.2, 0.42 * len(figures) + 1.5, 1, len(shown), sharey=True)
    names = list(figures)
    for axis, measure in zip(axes, shown, strict=True):
        for place, name in enumerate(names):
            value = figures[name]["mean"].get(measure)
            if value is None:
                continue
            shade = COLOURS[place % len(COLOURS)]
            axis.plot([value["low"], value["high"]], [place, place], color=shade, linewidth=2.4, alpha=0.45)
            axis.plot(value["estimate"], place, marker=MARKERS[place % len(MARKERS)], color=shade, markersize=6)
        axis.set_title(_NAMES[measure], fontsize=10, color=INK)
        axis.set_yticks(range(len(names)), [name.replace("$", "\\$") for name in names], fontsize=9)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.tick_params(labelsize=8.5, colors=SOFT, length=0)
        axis.grid(axis="x", linewidth=0.5)
        if measure == "gap":
            axis.axvline(0, color=SOFT, linewidth=0.9, linestyle=":")
        for side in axis.spines.values():
            side.set_visible(False)
    figure.supxlabel("BLEU", fontsize=9, color=SOFT)
    save_figure(figure, path)
