"""The report of how far judges agree."""

from __future__ import annotations

from pathlib import Path

from dpg_fast.judges.agreement import ALL, ICCS, JudgeAgreement
from dpg_fast.judges.sections import software
from dpg_fast.reporting import charts
from dpg_fast.reporting.page import (
    Block,
    Cards,
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Settings,
    Table,
    bounds,
    number,
    write_page,
)


def write_agreement_report(found: JudgeAgreement, directory: Path) -> Path:
    """Write the report of `agreement.judge_agreement`; the page's path.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    several = len(found.judges) > 2
    lines = [
        (
            f"{p.trait} · {' / '.join(p.judges)}" if several else p.trait,
            {
                kind: (v.estimate, v.low, v.high)
                for kind, v in (("Spearman", p.spearman), ("weighted kappa (quadratic)", p.kappa_quadratic))
            },
        )
        for p in found.pairs
    ]
    charts.intervals(
        lines,
        directory / "agreement.png",
        label="coefficient with 95% bootstrap interval over texts",
        marks=((0.0, "chance"),),
    )
    pairs = [
        [" / ".join(p.judges), p.trait, str(p.n), number(p.mae), number(p.exact), number(p.within_one)]
        + [bounds(v) for v in (p.bias, p.pearson, p.spearman, p.kappa_linear, p.kappa_quadratic)]
        for p in found.pairs
    ]
    head = ["judges", "trait", "n", "MAE", "exact", "within 1", "bias", "Pearson", "Spearman", "kappa linear"]
    groups = [[g.trait, str(g.n), *(bounds(g.icc[kind]) for kind in ICCS), bounds(g.fleiss)] for g in found.groups]
    blocks: list[Block] = [
        Picture(
            "agreement.png",
            "Spearman and kappa of each trait",
            "Spearman: the same order of texts. Quadratically weighted kappa: the same of eleven levels, corrected for chance.",
        ),
        Table([*head, "kappa quadratic"], pairs, "Every two judges; bias: the second's mean less the first's", left=2),
    ]
    if groups:
        caption = "ICC of all judges: (1,·) other judges for each text, (2,·) a sample of judges, (3,·) these; k: of their mean"
        titles = ["trait", "n", *(f"ICC({kind})" for kind in ICCS), "Fleiss' kappa"]
        blocks.append(Table(titles, groups, caption))
    sections = [Section("Overview", [_cards(found)]), Section("Agreement", blocks)]
    if found.differences:
        quotes = [
            Quote(d.trait.value, d.text, note=", ".join(f"{judge} {score:+.1f}" for judge, score in d.scores.items()))
            for d in found.differences
        ]
        sections.append(Section("Largest disagreements", [Quotes(quotes)]))
    sections.append(Section("Settings", [Settings({"judges": list(found.judges), "software": software()})]))
    page = Page(
        "Agreement of judges",
        f"{', '.join(found.judges)}; {found.texts} texts judged by all",
        _lead(found),
        sections,
        found.to_dict(),
    )
    return write_page(page, directory)


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
