"""Parts of reports made of result files (see `dpg_fast.judges.results`), of one system or of several beside each other."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpg_fast.judges.validation.metrics import PromptedAssessed, compare_prompted
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import Block, Picture, Section, Settings, Table, Text, bounds, charts, number
from dpg_fast.reporting.page import SIGNED, grouped
from dpg_fast.util.stats import pearson

Results = Mapping[str, Mapping[str, Any]]  # system -> its result file's content
_PANELS = 16
_TRAITS = [trait.value for trait in Trait]
_FIGURES = {
    "alpha": "alpha",
    "alpha_centred": "alpha, centred",
    "retest": "retest",
    "icc_2_1": "ICC(2,1)",
    "icc_3_1": "ICC(3,1)",
    "icc_2_k": "ICC(2,k)",
}
_ENOUGH = 4  # people, for a correlation that means something in a picture


def software() -> dict[str, str]:
    """Versions that the figures may depend on."""
    found = {"python": platform.python_version()}
    for package in ("dpg-fast", "torch", "transformers", "numpy", "scipy", "lm_eval"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def system_names(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each result file: its method, with the model where methods are the same, numbered if that is too."""
    names = [str(result["method"]) for result in results]
    if len(set(names)) < len(names):
        names = [
            f"{name}, {result['model']}" if result.get("model") else name
            for name, result in zip(names, results, strict=True)
        ]
    return [name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, 1)]


def scores_of(person: Mapping[str, Any], key: str = "scores") -> list[float]:
    """Five scores in OCEAN order, nan where there is none."""
    own = person.get(key) or {}
    return [float(own[t.value]) if own.get(t.value) is not None else math.nan for t in Trait]


def asked_and_found(result: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[people, 5] asked for and measured, of those respondents who were asked for something."""
    people = [p for p in result["respondents"] if p.get("target") and p.get("scores")]
    asked = np.array([scores_of(p, "target") for p in people]).reshape(-1, len(Trait))
    return asked, np.array([scores_of(p) for p in people]).reshape(-1, len(Trait))


def people_section(results: Results, directory: Path) -> Section:
    """Everybody's measured personality, beside what was asked for."""
    first = next(iter(results.values()))
    by_label = _by_label(results)
    targets = {str(p["label"]): scores_of(p, "target") for p in first["respondents"] if p.get("target")}
    labels = _labels(by_label)
    profiles = [
        charts.Profile(
            label,
            {name: scores_of(own[label]) for name, own in by_label.items() if label in own},
            targets.get(label),
        )
        for label in labels[:_PANELS]
    ]
    charts.radars(profiles, directory / "profiles.png")
    caption = "Measured scores on the five traits: -5 in the middle, +5 at the rim, dotted ring 0."
    caption += " Dashed: what was asked for." if targets else ""
    ranked = [p for p in first["respondents"] if p.get("percentiles") and len(results) == 1]
    shown = [
        [str(p["label"]), *(number(p["percentiles"]["traits"].get(t.value), "{:.0f}") for t in Trait)] for p in ranked
    ]
    blocks: list[Block | None] = [
        Picture("profiles.png", "A radar of five traits for each person", caption),
        Text(f"The first {_PANELS} of {len(labels)} people are drawn; the table has them all.")
        if len(labels) > _PANELS
        else None,
        people_table(results),
        Table(["person", *_TRAITS], shown, "Percentiles among people (five-factor-e)") if shown else None,
    ]
    return Section("Personalities", blocks)


def people_table(results: Results) -> Table:
    """Everybody's scores by every system, with acquiescence and the share of extreme ratings."""
    by_label = _by_label(results)
    rows = grouped(
        {
            label: [
                [
                    *([name] if len(results) > 1 else []),
                    *(number(v, SIGNED) for v in scores_of(own[label])),
                    number(own[label].get("acquiescence"), SIGNED),
                    number(own[label].get("extreme")),
                ]
                for name, own in by_label.items()
                if label in own
            ]
            for label in _labels(by_label)
        }
    )
    several = ["system"] if len(results) > 1 else []
    head = ["person", *several, *_TRAITS, "acquiescence", "extreme"]
    return Table(head, rows, "Scores from -5 to 5; share of ratings at either end", left=1 + len(several))


def _by_label(results: Results) -> dict[str, dict[str, Mapping[str, Any]]]:
    return {name: {str(p["label"]): p for p in result["respondents"]} for name, result in results.items()}


def _labels(by_label: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(label for own in by_label.values() for label in own))


def fidelity(results: Results) -> dict[str, PromptedAssessed]:
    """System -> measured against asked-for scores, of the systems that were asked for some."""
    found = {}
    for name, result in results.items():
        asked, measured = asked_and_found(result)
        if asked.shape[0] and np.isfinite(measured).any():
            found[name] = compare_prompted(asked, measured)
    return found


def asked_section(results: Results, directory: Path) -> Section | None:
    """How measured scores follow those asked for; None if nobody was asked for any."""
    found = fidelity(results)
    if not found:
        return None
    points: dict[str, dict[Trait, Any]] = {}
    crossed: dict[str, NDArray[np.float64]] = {}
    for name in found:
        asked, measured = asked_and_found(results[name])
        points[name] = {t: (asked[:, t.position], measured[:, t.position]) for t in found[name].traits}
        if len(asked) >= _ENOUGH:
            crossed[name] = np.array([[pearson(a, b) for b in measured.T] for a in asked.T])
    charts.dose_response(points, directory / "dose_response.png")
    charts.confusion({name: value.confusion for name, value in found.items()}, directory / "confusion.png")
    blocks: list[Block] = [
        Picture(
            "dose_response.png",
            "Measured against asked-for score for each trait",
            "Measured score against the score asked for. A perfect system lies on the dotted line.",
        ),
        fidelity_table(found),
        Picture(
            "confusion.png",
            "Heat map of asked-for and measured levels",
            "How often a level asked for was measured as which level, eleven levels each.",
        ),
    ]
    if crossed:
        letters = [trait.letter for trait in Trait]
        charts.matrices(
            crossed,
            letters,
            letters,
            directory / "cross_trait.png",
            limit=1.0,
            label="Pearson's r over people",
            row_label="trait asked for",
            column_label="trait measured",
            form=SIGNED,
            strong={name: np.eye(5, dtype=bool) for name in crossed},
        )
        caption = (
            f"Correlation of each trait asked for with each trait measured, over {len(asked)} people. Off the diagonal, traits "
            "bleed into each other, in the model or in the measurement."
        )
        alt = "Correlations between traits asked for and measured"
        blocks.append(Picture("cross_trait.png", alt, caption, narrow=len(crossed) == 1))
    return Section("Asked for and measured", blocks)


def fidelity_table(found: Mapping[str, PromptedAssessed]) -> Table:
    """DPG's figures of each trait and their mean."""
    rows = grouped(
        {
            name: [
                [trait, str(row.n), *map(number, (row.mae, row.exact, row.within_one, row.pearson, row.spearman))]
                for trait, row in [*((t.value, v) for t, v in value.traits.items()), ("mean", value.mean)]
            ]
            for name, value in found.items()
        }
    )
    head = ["system", "trait", "n", "mean abs. error", "exact", "within 1", "Pearson", "Spearman"]
    caption = "Asked for against measured: exact and within one level after rounding to whole levels"
    if len(found) > 1:
        return Table(head, rows, caption, left=2)
    return Table(head[1:], [row[1:] for row in rows], caption)


def reliability_section(results: Results, directory: Path) -> Section | None:
    """Internal consistency and agreement of forms, with intervals; None if no result has any."""
    table = reliability_table(results)
    every = [row for result in results.values() for row in (result.get("reliability") or {}).values()]
    if not table.rows:
        reasons = sorted({row["reason"] for row in every if "reason" in row})
        return Section("Reliability", [Text(f"Not measured: {'; '.join(reasons)}.", strong=True)]) if reasons else None
    shown = ("alpha", "alpha_centred", "retest", "icc_2_1")
    charts.intervals(
        [
            (" · ".join(name), {_FIGURES[key]: row[key] for key in shown if key in row})
            for name, row in _reliabilities(results)
        ],
        directory / "reliability.png",
        label="coefficient with 95% bootstrap interval over people",
        marks=((0.0, "none"), (0.7, "acceptable")),
    )
    people = min(int(row["people"]) for row in every if "reason" not in row)
    caption = (
        "Alpha: do the items of a trait agree (centred: without each person's liking for agreement)? Retest and ICC(2,1): do "
        "other forms, with other orders of the options, give the same scores? Arrows point to values below the edge."
    )
    few = Text(f"Only {people} people: the intervals are wide, and rightly so.") if people < 20 else None
    picture = Picture("reliability.png", "Alpha, retest and ICC of each trait with intervals", caption)
    return Section("Reliability", [picture, table, few])


def reliability_table(results: Results) -> Table:
    """Alpha, retest and ICCs of each trait by each system; without rows where none was measured."""
    found = _reliabilities(results)
    several = ["system"] if len({name[1:] for name, _ in found}) > 1 else []
    rows = [
        [*name, str(row["people"]), str(row["items"]), *(bounds(row.get(key)) for key in _FIGURES)]
        for name, row in found
    ]
    head = ["trait", *several, "people", "items", *_FIGURES.values()]
    return Table(head, rows, "Reliability: estimate [95% bootstrap interval over people]", left=1 + len(several))


def _reliabilities(results: Results) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """(trait, and the system if there are several) -> its row, trait by trait."""
    known = {
        name: rows
        for name, result in results.items()
        if (rows := result.get("reliability")) and not all("reason" in row for row in rows.values())
    }
    return [
        ((trait.value, name) if len(known) > 1 else (trait.value,), rows[trait.value])
        for trait in Trait
        for name, rows in known.items()
        if trait.value in rows
    ]


def closing_sections(descriptions: Mapping[str, str], judge: str, about: Mapping[str, Any]) -> list[Section]:
    """What ends the report of a comparison.

    Args:
        descriptions: method name -> what it is.
        judge: its own description.
        about: settings of the run.
    """
    return [
        Section("What was compared", [Table(["method", "what it is"], list(descriptions.items()), left=2)]),
        Section("Judge", [Text(judge)]),
        Section("Settings", [Settings(about)]),
    ]


def settings_section(results: Results, more: Mapping[str, Any] | None = None) -> Section:
    """Settings, cost and software of every run."""
    blocks: list[Block] = []
    for name, result in results.items():
        about = {
            key: value
            for key, value in result.items()
            if key not in _SHOWN and not isinstance(value, list) and value is not None
        }
        if len(results) > 1:
            blocks.append(Text(name))
        blocks.append(Settings(about))
    blocks.append(Settings({**(more or {}), "software": software()}))
    return Section("Settings and cost", blocks)


_SHOWN = {"schema", "respondents", "reliability", "items", "quality", "prompted", "turns"}
