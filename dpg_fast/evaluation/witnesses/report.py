"""Where witnesses of one evaluation agree and where they do not, as sections of its report."""

from __future__ import annotations

import math
from typing import Any

from dpg_fast.evaluation.witnesses.panel import Panel, Testimony, agreement
from dpg_fast.evaluation.witnesses.separation import Separation
from dpg_fast.personality.scores import Trait
from dpg_fast.reporting import Block, Section, Table, Text, bounds, number
from dpg_fast.reporting.page import MISSING, SIGNED, grouped
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import Interval

CHANCE = 0.5


def panel_sections(panel: Panel) -> list[Section]:
    """One section with the witnesses' figures side by side; the page's reader sees first who contradicts whom."""
    names = [one.witness for one in panel.testimonies]
    methods = list(panel.testimonies[0].separations)
    left_out = [Text(f"Not heard: {name}: {why}.", strong=True) for name, why in panel.left_out.items()]
    if len(names) == 1:
        alone = Text(
            f"Only one witness was heard ({names[0]}): nothing here shows that another would agree.", strong=True
        )
        return [Section("Witnesses", [alone, *left_out])]
    blocks: list[Block | None] = [
        Text(_verdicts(panel, methods)),
        *left_out,
        _cells(panel, methods, names),
        _summary(panel, methods),
        _valence(panel, methods, names),
        _correlations(panel),
        Table(["witness", "what it is"], [[one.witness, one.description] for one in panel.testimonies], left=2),
    ]
    return [Section("Witnesses", blocks)]


def panel_data(panel: Panel) -> dict[str, Any]:
    """Every figure, JSON-ready."""
    return {
        "left_out": panel.left_out,
        "agreement": [
            {"witnesses": list(pair), "cells": json_ready(cells), "answers": json_ready(answers)}
            for pair, (cells, answers) in agreement(panel).items()
        ],
        "heard": {
            one.witness: {
                "description": one.description,
                "methods": {
                    method: {
                        **own.to_dict(),
                        "mean_spearman": json_ready(one.spearman.get(method)),
                        "spread": json_ready(one.spread.get(method)),
                        "without_valence": json_ready(one.without_valence.get(method)),
                    }
                    for method, own in one.separations.items()
                },
            }
            for one in panel.testimonies
        },
    }


def sign(value: Interval | None) -> int | None:
    """1 where an AUC's whole interval lies above chance, -1 below, 0 where it includes it; None where there is none."""
    if value is None or not math.isfinite(value.estimate):
        return None
    return int(value.low > CHANCE) - int(value.high < CHANCE)


def verdict(signs: list[int | None]) -> str:
    """What the signs of all witnesses come to."""
    known = [one for one in signs if one is not None]
    if not known:
        return MISSING
    if 1 in known and -1 in known:
        return "they contradict each other"
    if all(known):
        return "all agree" if known[0] > 0 else "all agree: the wrong way"
    return f"{sum(map(abs, known))} of {len(known)} see it" if any(known) else "nobody sees it"


def _own(one: Testimony, method: str, trait: Trait) -> Interval | None:
    found: Separation | None = one.separations.get(method)
    return None if found is None else found.cells.get((trait, trait))


def _traits(panel: Panel) -> list[Trait]:
    cells = [own.cells for own in panel.testimonies[0].separations.values()]
    return [trait for trait in Trait if any((trait, trait) in own for own in cells)]


def _verdicts(panel: Panel, methods: list[str]) -> str:
    parts = []
    for method in methods:
        own = [[sign(_own(one, method, trait)) for one in panel.testimonies] for trait in _traits(panel)]
        agreed = sum(verdict(signs) == "all agree" for signs in own)
        split = sum(verdict(signs).startswith("they contradict") for signs in own)
        parts.append(f"{method}: {agreed} of {len(own)} traits" + (f", {split} contradicted" if split else ""))
    return f"Traits on which all {len(panel.testimonies)} witnesses tell the poles apart: {'; '.join(parts)}."


def _cells(panel: Panel, methods: list[str], names: list[str]) -> Table:
    rows = grouped(
        {
            method: [
                [
                    trait.value,
                    *(bounds(_own(one, method, trait)) for one in panel.testimonies),
                    verdict([sign(_own(one, method, trait)) for one in panel.testimonies]),
                ]
                for trait in _traits(panel)
            ]
            for method in methods
        }
    )
    caption = (
        "AUC between the two ends of the trait that was asked for, 0.5 by chance, with 95% bootstrap interval over questions or "
        "statements. A witness sees it where the interval excludes 0.5"
    )
    return Table(["method", "trait", *names, "together"], rows, caption, left=2)


def _summary(panel: Panel, methods: list[str]) -> Table:
    rows = grouped(
        {
            method: [
                [
                    one.witness,
                    bounds(one.spearman.get(method), SIGNED),
                    bounds(own.diagonal),
                    bounds(own.bleed),
                    " / ".join(number(value) for value in one.spread[method]) if one.spread else MISSING,
                ]
                for one in panel.testimonies
                if (own := one.separations.get(method)) is not None
            ]
            for method in methods
        }
    )
    caption = (
        "Mean Spearman over traits between level and score; mean AUC of the traits asked for; mean |2 AUC - 1| of the others, "
        "which chance alone makes positive; standard deviation of the first and of the second over description sets"
    )
    return Table(["method", "witness", "Spearman", "mean AUC", "bleeding", "spread over sets"], rows, caption, left=2)


def _valence(panel: Panel, methods: list[str], names: list[str]) -> Block:
    read = [one for one in panel.testimonies if one.without_valence]
    if not read:
        return Text(
            "Valence was not taken out: install vaderSentiment (pip install 'dpg-fast[lexical]'). What a witness sees may be "
            "pleasant against unpleasant alone.",
            strong=True,
        )
    rows = grouped(
        {
            method: [
                [trait.value, *(bounds(one.without_valence[method].get(trait)) for one in read)]
                for trait in _traits(panel)
            ]
            for method in methods
        }
    )
    caption = "The same AUC once each answer's valence (VADER) is regressed out of the scores"
    return Table(["method", "trait", *(one.witness for one in read)], rows, caption, left=2)


def _correlations(panel: Panel) -> Table:
    rows = [
        [f"{one} and {other}", number(cells, SIGNED), number(answers, SIGNED)]
        for (one, other), (cells, answers) in agreement(panel).items()
    ]
    caption = (
        "Rank correlation between witnesses: over the AUCs of all methods, traits asked for and traits judged; over single "
        "answers of all methods and levels, mean of the traits"
    )
    return Table(["witnesses", "AUCs", "answers"], rows, caption)
