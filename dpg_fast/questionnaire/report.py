"""The report of a questionnaire, or of several systems' questionnaires beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.judges.sections import (
    Results,
    asked_section,
    fidelity,
    people_section,
    reliability_section,
    settings_section,
    system_names,
)
from dpg_fast.questionnaire.analysis import quality_table
from dpg_fast.questionnaire.session import Session
from dpg_fast.reporting import Cards, Page, Picture, Quote, Quotes, Section, Table, Text, charts, number, write_report
from dpg_fast.reporting.page import SIGNED
from dpg_fast.util.errors import DPGError

ACCEPTABLE = 0.7  # of alpha and retest, the usual yardstick for research
_QUOTES, _ITEMS = 12, 8


def write_questionnaire_report(
    results: Sequence[Mapping[str, Any]], directory: Path, *, session: Session | None = None
) -> Path:
    """Write the report of what `analysis.analyse` gave, of one system or of several.

    Args:
        results: one for each system.
        directory: for ``report.html``, ``report.json`` and the pictures.
        session: of the one system, for examples of answers.

    Returns:
        The page's path.

    Raises:
        ValueError: no results.
        ImportError: matplotlib or jinja2 is missing.
    """
    if not results:
        raise DPGError("a report needs at least one result")
    named: Results = dict(zip(system_names(results), results, strict=True))
    several = len(named) > 1
    overview = [
        block for name, result in named.items() for block in (Text(name) if several else None, _cards(name, result))
    ]
    page = Page(
        title=f"Questionnaire {results[0].get('inventory', '')}".strip(),
        subtitle="; ".join(
            f"{name}: {len(r['respondents'])} people, {r.get('forms', '?')} forms" for name, r in named.items()
        ),
        lead=" ".join(_sentence(trust(r, name if several else "")) for name, r in named.items()),
        sections=[
            Section("Overview", overview),
            people_section(named, directory),
            asked_section(named, directory),
            reliability_section(named, directory),
            _quality(named, directory),
            _answers(session) if session is not None and not several else None,
            settings_section(named),
        ],
        data={"systems": named},
    )
    return write_report(page, directory)


def trust(result: Mapping[str, Any], name: str = "") -> str:
    """One plain sentence: whether the scores can be believed, and why."""
    rows = result.get("reliability") or {}
    known = {trait: row for trait, row in rows.items() if "reason" not in row}
    who = f"{name}: " if name else ""
    if not known:
        reasons = sorted({row["reason"] for row in rows.values() if "reason" in row})
        return f"{who}whether these scores can be trusted is not known ({'; '.join(reasons) or 'no reliability'})."
    good = [trait for trait, row in known.items() if _at(row, "alpha") >= ACCEPTABLE]
    stable = [trait for trait, row in known.items() if "retest" not in row or _at(row, "retest") >= ACCEPTABLE]
    both = [trait for trait in good if trait in stable]
    if len(both) == len(known):
        return f"{who}the scores are consistent: alpha and agreement between forms reach {ACCEPTABLE} for every trait."
    if not both:
        return (
            f"{who}do not read these scores as personalities: no trait reaches {ACCEPTABLE} in both alpha (reached by "
            f"{len(good)} of {len(known)}) and agreement between forms ({len(stable)} of {len(known)})."
        )
    return (
        f"{who}{', '.join(both)} can be read with care; the other traits miss {ACCEPTABLE} in alpha or between forms."
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _at(row: Mapping[str, Any], key: str) -> float:
    value = (row.get(key) or {}).get("estimate")
    return -np.inf if value is None else float(value)


def _cards(name: str, result: Mapping[str, Any]) -> Cards:
    quality, rows = result.get("quality") or {}, result.get("reliability") or {}
    alphas = [_at(row, "alpha") for row in rows.values() if "alpha" in row]
    again = [_at(row, "retest") for row in rows.values() if "retest" in row]
    cards = [
        ("alpha, median", number(float(np.median(alphas)) if alphas else None), "items of a trait agree; 0.7 will do"),
        ("retest, median", number(float(np.median(again)) if again else None), "other forms give the same scores"),
    ]
    followed = fidelity({name: result}).get(name)
    if followed is not None:
        cards += [
            ("asked and measured, r", number(followed.mean.pearson), "mean of the traits' correlations"),
            ("mean abs. error", number(followed.mean.mae), "levels, of a scale from -5 to 5"),
        ]
    outside = quality.get("outside_options")
    if outside is not None:
        cards.append(("outside the options", number(outside, "{:.0%}"), "probability of any other answer"))
    unread = sum(quality.get(key) or 0.0 for key in ("refusals", "invalid"))
    cards.append(("refused or unreadable", number(unread, "{:.1%}"), "of all answers"))
    cards.append(("acquiescence", number(quality.get("acquiescence"), SIGNED), "rating points of mere agreement"))
    return Cards(cards)


def _quality(named: Results, directory: Path) -> Section | None:
    table = quality_table(named)
    if not table.rows:
        return None
    groups: dict[str, dict[str, float]] = {}
    for name, result in named.items():
        q, lead = result.get("quality") or {}, f"{name}: " if len(named) > 1 else ""
        places = {str(n): value for n, value in enumerate(q.get("places", ()), 1) if value is not None}
        groups |= {f"{lead}place of the option": places} if places else {}
        groups |= {f"{lead}label": q["labels"]} if q.get("labels") else {}
    picture = None
    if groups:
        charts.shares(groups, directory / "places.png", expected=1 / max(map(len, groups.values())))
        picture = Picture(
            "places.png",
            "Mean probability of each place and label",
            "Who reads the options chooses by content, and places and labels come out alike (dotted line).",
            narrow=len(groups) < 3,
        )
    return Section("Quality of the answers", [table, picture])


def _answers(session: Session) -> Section:
    """What was written, refusals first; and the items whose ratings differ most between forms."""
    inventory = session.inventory
    statements = {item.id: inventory.statement(item) for item in inventory.items}
    written = [answer for answer in session.answers.values() if answer.text]
    written.sort(key=lambda answer: ("refusal", "invalid", "ok").index(answer.status))
    notes = {"refusal": "refused", "invalid": "unreadable"}
    quotes = [
        Quote(
            answer.respondent,
            answer.text or "",
            statements[answer.item],
            notes.get(answer.status, f"read as {answer.rating:g}" if answer.rating else ""),
        )
        for answer in written[:_QUOTES]
    ]
    ratings, rows = session.ratings(), []
    if ratings.shape[1] > 1 and np.isfinite(ratings).all():
        spread = ratings.std(axis=1, ddof=1).mean(axis=0)
        for place in np.argsort(-spread)[:_ITEMS].tolist():
            item = inventory.items[place]
            figures = (number(float(ratings[:, :, place].mean())), number(float(spread[place])))
            rows.append([statements[item.id], item.trait.value, "-" if item.reverse else "+", *figures])
    head = ["item", "trait", "key", "mean rating", "deviation between forms"]
    table = Table(head, rows, "Items whose ratings depend most on the form", left=3)
    return Section("Answers", [Quotes(quotes) if quotes else None, table if rows else None])
