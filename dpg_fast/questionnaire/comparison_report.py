"""The report of a comparison: do different methods or systems say the same about the same people?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.judges.sections import Results, asked_section, people_section, reliability_section, settings_section
from dpg_fast.judges.validation.validity import Agreement, Disagreement, MultitraitMultimethod
from dpg_fast.reporting import Cards, Page, Picture, Section, Table, Text, bounds, charts, number, write_report
from dpg_fast.reporting.page import SIGNED
from dpg_fast.util.words import counted


def write_comparison_report(
    results: Sequence[Mapping[str, Any]],
    validity: MultitraitMultimethod,
    agreeing: Sequence[Agreement],
    differing: Sequence[Disagreement],
    directory: Path,
    data: Mapping[str, Any],
) -> Path:
    """Write the report of what ``dpg-fast assess compare`` finds.

    Args:
        results: contents of the result files, in the order of ``validity.methods``.
        validity, agreeing, differing: of `dpg_fast.judges.validation.validity`.
        directory: for ``report.html``, ``report.json`` and the pictures.
        data: the comparison in JSON types.

    Returns:
        The page's path.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
    """
    named: Results = dict(zip(validity.methods, results, strict=True))
    legend = [[str(n), name] for n, name in enumerate(validity.methods, 1)]
    page = Page(
        title="Comparison of methods",
        subtitle=f"{counted(len(validity.methods), 'method')}, {counted(validity.people, 'person', 'people')} scored by all",
        lead=_lead(validity),
        sections=[
            Section("Overview", [_cards(validity), Table(["number", "method"], legend, left=2)]),
            _agreement(agreeing, validity.methods, directory),
            _matrix(validity, directory),
            _disagreements(differing, validity.methods),
            people_section(named, directory),
            asked_section(named, directory),
            reliability_section(named, directory),
            settings_section(named),
        ],
        data={**data, "systems": named},
    )
    return write_report(page, directory)


def _lead(validity: MultitraitMultimethod) -> str:
    same, other = validity.convergent_mean, validity.heteromethod_mean
    if not np.isfinite(same):
        return "The methods cannot be compared: some method gives everybody the same scores."
    verdict = (
        "The methods agree on who is what"
        if same >= 0.5 and same > other + 0.2
        else "The methods agree somewhat, and not clearly on the traits they name"
        if same > 0.2
        else "The methods do not measure the same thing"
    )
    return f"{verdict}: the same trait by two methods correlates {same:+.2f} on average, different traits {other:.2f} in size."


def _cards(validity: MultitraitMultimethod) -> Cards:
    return Cards(
        [
            ("same trait, other method", number(validity.convergent_mean), "mean r: convergent validity"),
            ("other trait, other method", number(validity.heteromethod_mean), "mean |r|: should be lower"),
            ("other trait, same method", number(validity.monomethod_mean), "mean |r|: halo, where high"),
            ("comparisons passed", number(validity.passed, "{:.0%}"), "Campbell and Fiske's, of all"),
        ]
    )


def _agreement(agreeing: Sequence[Agreement], methods: Sequence[str], directory: Path) -> Section | None:
    if not agreeing:
        return None
    several = len({row.methods for row in agreeing}) > 1
    lines, rows = [], []
    for row in sorted(agreeing, key=lambda row: row.trait.position):
        pair = " / ".join(str(methods.index(method) + 1) for method in row.methods)
        name = f"{row.trait.value} · {pair}" if several else row.trait.value
        found = {"Spearman": row.spearman, "ICC(2,1)": row.icc_2_1, "weighted kappa": row.kappa}
        lines.append((name, found))
        rows.append([row.trait.value, pair, str(row.people), *map(bounds, found.values())])
    charts.intervals(
        lines,
        directory / "agreement.png",
        label="coefficient with 95% bootstrap interval over people",
        marks=((0, ""),),
    )
    picture = Picture(
        "agreement.png",
        "Spearman, ICC and kappa of each trait",
        "Spearman: the same order of people. ICC(2,1) and quadratically weighted kappa: the same scores.",
    )
    head = ["trait", "methods", "people", "Spearman", "ICC(2,1)", "weighted kappa"]
    return Section("Agreement", [picture, Table(head, rows, left=2)])


def _matrix(validity: MultitraitMultimethod, directory: Path) -> Section:
    names = [f"{m + 1}{t.letter}" for m in range(len(validity.methods)) for t in validity.traits]
    size, k = len(names), len(validity.traits)
    place = np.arange(size)
    convergent = (place[:, None] % k == place[None, :] % k) & (place[:, None] // k != place[None, :] // k)
    charts.matrices(
        {"": validity.matrix},
        names,
        names,
        directory / "multitrait_multimethod.png",
        limit=1.0,
        label="Pearson's r over people",
        form=SIGNED,
        strong={"": convergent},
    )
    caption = (
        "Correlations over people; rows and columns are method number and trait. Bold: the same trait by another method, which "
        "should be high and higher than everything around it."
    )
    picture = Picture("multitrait_multimethod.png", "Multitrait-multimethod matrix", caption)
    return Section("Convergent and discriminant validity", [picture])


def _disagreements(differing: Sequence[Disagreement], methods: Sequence[str]) -> Section | None:
    if not differing:
        return None
    rows = [
        [
            d.label,
            d.trait.value,
            " / ".join(str(methods.index(m) + 1) for m in d.methods),
            *(f"{s:+.2f}" for s in d.scores),
            f"{d.distance:.2f}",
        ]
        for d in differing
    ]
    head = ["person", "trait", "methods", "first", "second", "distance"]
    note = Text("Distance in standard deviations, each trait standardised over the people within each method.")
    return Section("Largest disagreements", [Table(head, rows, left=3), note])
