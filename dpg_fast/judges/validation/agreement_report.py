"""The report of how far judges agree."""

from __future__ import annotations

from pathlib import Path

from dpg_fast.judges.sections import software
from dpg_fast.judges.validation.agreement import ALL, JudgeAgreement, agreement_tables
from dpg_fast.reporting import (
    Cards,
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Settings,
    bounds,
    charts,
    number,
    write_report,
)
from dpg_fast.util.words import counted


def write_agreement_report(found: JudgeAgreement, directory: Path) -> Path:
    """Write the report of `agreement.judge_agreement`; the page's path.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    several = len(found.judges) > 2
    charts.intervals(
        [
            (
                f"{p.trait} · {' / '.join(p.judges)}" if several else p.trait,
                {"Spearman": p.spearman, "weighted kappa (quadratic)": p.kappa_quadratic},
            )
            for p in found.pairs
        ],
        directory / "agreement.png",
        label="coefficient with 95% bootstrap interval over texts",
        marks=((0.0, "chance"),),
    )
    picture = Picture(
        "agreement.png",
        "Spearman and kappa of each trait",
        "Spearman: the same order of texts. Quadratically weighted kappa: the same of eleven levels, corrected for chance.",
    )
    quotes = [
        Quote(d.trait.value, d.text, note=", ".join(f"{judge} {score:+.1f}" for judge, score in d.scores.items()))
        for d in found.differences
    ]
    sections = [
        Section("Overview", [_cards(found)]),
        Section("Agreement", [picture, *(table for table in agreement_tables(found) if table.rows)]),
        Section("Largest disagreements", [Quotes(quotes)] if quotes else []),
        Section("Settings", [Settings({"judges": list(found.judges), "software": software()})]),
    ]
    subtitle = f"{', '.join(found.judges)}; {counted(found.texts, 'text')} judged by all"
    return write_report(Page("Agreement of judges", subtitle, _lead(found), sections, found.to_dict()), directory)


def _lead(found: JudgeAgreement) -> str:
    whole = [p for p in found.pairs if p.trait == ALL] or list(found.pairs)
    worst = min(whole, key=lambda p: p.kappa_quadratic.estimate)
    return (
        f"The pair that agrees least, {' and '.join(worst.judges)}, reaches a weighted kappa of "
        f"{bounds(worst.kappa_quadratic)} on {worst.trait}; "
        f"{number(worst.within_one, '{:.0%}')} of its scores lie within one level."
    )


def _cards(found: JudgeAgreement) -> Cards:
    group = next((g for g in found.groups if g.trait == ALL), found.groups[0] if found.groups else None)
    cards = [("judges", str(len(found.judges)), ""), ("texts", str(found.texts), "judged by all")]
    if group is not None:
        cards += [
            ("ICC(2,1)", number(group.icc["2,1"].estimate), f"one judge's score, {group.trait}"),
            ("ICC(2,k)", number(group.icc["2,k"].estimate), f"mean of {len(found.judges)} judges"),
            ("Fleiss' kappa", number(group.fleiss.estimate), "low, middle, high"),
        ]
    return Cards(cards)
