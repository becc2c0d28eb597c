"""What a session says: scores of everybody, reliability over people and forms, and signs of careless answering."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as RichTable

from dpg_fast.judges.results import SCHEMA
from dpg_fast.judges.sections import Results, fidelity, fidelity_table, people_table, reliability_table
from dpg_fast.judges.validation.metrics import compare_prompted
from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.inventory import Inventory
from dpg_fast.questionnaire.norms import Sex, percentiles
from dpg_fast.questionnaire.scoring import score_answers, to_level
from dpg_fast.questionnaire.session import Session
from dpg_fast.reporting.page import SIGNED, Table, bounds, number
from dpg_fast.reporting.render import on_terminal
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import bootstrap, bootstrap_all, cronbach_alpha, icc, mean_of, retest
from dpg_fast.util.words import counted

MINIMUM = 3  # people, for anything that correlates over people


def analyse(session: Session, *, sex: Sex = "N", age: int = 30, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The result of a session in plain JSON types, of the form that `results.load_scores` reads.

    Keys: `respondents` (scores -5..5, mean ratings 1..levels, their standard deviation over forms, facets, acquiescence,
    share of extreme ratings, `target`: what was asked for, percentiles for IPIP-NEO where five-factor-e is installed);
    `reliability` per trait over people (those asked to be somebody, if anybody was): `alpha` (items averaged over forms),
    `alpha_centred` (the same of ratings less the person's own acquiescence on the form), `retest` (mean correlation between
    forms), `icc_2_1`, `icc_3_1`, `icc_2_k` of people by forms, each with its bootstrap interval, or `reason` why there are none;
    `items`: `icc_2_1` of all (person, item) ratings by forms; `quality`: refusals, invalid answers, probability outside the
    options, acquiescence, and the mean probability of each place and label; `prompted` (see `compare_prompted`) over the people
    who were asked to be somebody.

    Args:
        session: complete or not; people without any answer get no scores.
        sex, age: whose norms percentiles refer to.
        resamples, seed: of the intervals.
    """
    inventory, ratings = session.inventory, session.ratings()
    reverse = np.array([item.reverse for item in inventory.items])
    keyed = np.where(reverse, inventory.levels + 1 - ratings, ratings)
    own = ratings - _agreement(inventory, ratings)[:, :, None]
    centred = np.where(reverse, -own, own)
    among = _population(session)
    people = [_person(session, r, ratings[r], sex, age) for r in range(len(session.respondents))]
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "method": f"questionnaire {inventory.name} ({session.settings.method})",
        "model": session.model,
        "inventory": inventory.name,
        "forms": len(session.forms),
        "settings": session.settings.to_dict(),
        "respondents": people,
        "reliability": {
            trait.value: _reliability(
                keyed[among], centred[among], [item.trait == trait for item in inventory.items], resamples, seed
            )
            for trait in inventory.traits
        },
        "items": _items(ratings[among], resamples, seed),
        "quality": _quality(session, people),
    }
    asked = [
        (r.target.scores, [p["scores"].get(t.value, math.nan) for t in Trait])
        for r, p in zip(session.respondents, people, strict=True)
        if r.target is not None and p["scores"]
    ]
    if asked:
        result["prompted"] = compare_prompted([a for a, _ in asked], [found for _, found in asked]).to_dict()
    return result


def _person(session: Session, r: int, ratings: NDArray[np.float64], sex: Sex, age: int) -> dict[str, Any]:
    """One respondent: [forms, items] ratings."""
    inventory = session.inventory
    levels = inventory.levels
    by_form = []
    for row in ratings:
        given = {item.id: float(v) for item, v in zip(inventory.items, row, strict=True) if math.isfinite(v)}
        if given:
            by_form.append(score_answers(inventory, given))
    target = session.respondents[r].target
    person: dict[str, Any] = session.respondents[r].to_dict() | {"scores": {}}
    if target is not None:
        person["target"] = {trait.value: score for trait, score in zip(Trait, target, strict=True)}
    if not by_form:
        return person
    counts = np.isfinite(ratings).sum(axis=0)
    means = np.where(counts > 0, np.nansum(ratings, axis=0) / np.maximum(counts, 1), math.nan)
    averaged = {i.id: float(v) for i, v in zip(inventory.items, means, strict=True) if math.isfinite(v)}
    whole = score_answers(inventory, averaged)
    person |= whole.to_dict()
    person["scores"] = {trait.value: to_level(mean, levels) for trait, mean in whole.means.items()}
    person["sd_over_forms"] = {
        trait.value: float(np.std([s.means[trait] for s in by_form if trait in s.means], ddof=1))
        for trait in whole.means
        if sum(trait in s.means for s in by_form) > 1
    }
    known = inventory.name in ("ipip-neo-120", "ipip-neo-300") and len(averaged) == len(inventory.items)
    if known and importlib.util.find_spec("ipipneo") is not None:
        person["percentiles"] = percentiles(averaged, sex=sex, age=age).to_dict()
    return person


def _population(session: Session) -> list[int]:
    """Whom reliability is over: those who were asked to be somebody, however few; everybody where nobody was.

    The bare model among steered ones is an outlier that raises every correlation over people.
    """
    asked = [place for place, respondent in enumerate(session.respondents) if respondent.target is not None]
    return asked or list(range(len(session.respondents)))


def _agreement(inventory: Inventory, ratings: NDArray[np.float64]) -> NDArray[np.float64]:
    """[people, forms] mean rating of everybody whatever the content: items of both keys of every trait weigh alike."""
    sides = [
        ratings[:, :, [item.trait == trait and item.reverse is side for item in inventory.items]]
        for trait in inventory.traits
        for side in (False, True)
        if {item.reverse for item in inventory.of_trait(trait)} == {False, True}
    ]
    if not sides:
        return np.zeros(ratings.shape[:2])
    return np.mean([side.mean(axis=2) for side in sides], axis=0)


def _reliability(
    keyed: NDArray[np.float64], centred: NDArray[np.float64], of_trait: list[bool], resamples: int, seed: int
) -> dict[str, Any]:
    """[people, forms, items] of all traits, plain and without acquiescence, and which items are this one's."""
    table, free = keyed[:, :, np.array(of_trait)], centred[:, :, np.array(of_trait)]
    complete = np.isfinite(table).all(axis=(1, 2)) & np.isfinite(free).all(axis=(1, 2))
    table, free = table[complete], free[complete]
    people, forms, items = table.shape
    found: dict[str, Any] = {"people": people, "items": items}
    if people < MINIMUM:
        return found | {"reason": f"{counted(people, 'person', 'people')} with complete answers; {MINIMUM} are needed"}
    plain, without, scores = table.mean(axis=1), free.mean(axis=1), table.mean(axis=2)
    alphas = ["alpha", "alpha_centred"] if items > 1 else []
    again = ["retest", "icc_2_1", "icc_3_1", "icc_2_k"] if forms > 1 else []

    def statistics(rows: NDArray[np.int64]) -> list[float]:
        values = [cronbach_alpha(plain[rows]), cronbach_alpha(without[rows])] if alphas else []
        return values + ([retest(scores[rows]), *icc(scores[rows], "2,1", "3,1", "2,k")] if again else [])

    drawn = bootstrap_all(statistics, people, resamples=resamples, seed=seed)
    return found | {name: value.to_dict() for name, value in zip([*alphas, *again], drawn, strict=True)}


def _items(ratings: NDArray[np.float64], resamples: int, seed: int) -> dict[str, Any]:
    """Agreement of forms on single ratings; the bootstrap draws people with all their items, items where people are too few."""
    rows = ratings.transpose(0, 2, 1).reshape(-1, ratings.shape[1])
    complete = np.isfinite(rows).all(axis=1)
    people = np.repeat(np.arange(len(ratings)), ratings.shape[2])[complete]
    rows = rows[complete]
    if rows.shape[0] < MINIMUM or rows.shape[1] < 2:
        return {"reason": f"{rows.shape[0]} complete ratings on {ratings.shape[1]} forms; 3 on 2 are needed"}
    units = people.tolist() if len(set(people)) >= MINIMUM else len(rows)
    found = bootstrap(lambda drawn: icc(rows[drawn], "2,1")[0], units, resamples=min(resamples, 200), seed=seed)
    return {"icc_2_1": found.to_dict()}


def _quality(session: Session, people: list[dict[str, Any]]) -> dict[str, Any]:
    answers = list(session.answers.values())
    total = len(answers)
    by_number = {form.number: form for form in session.forms}
    places: list[list[float]] = [[] for _ in range(session.inventory.levels)]
    labels: dict[str, list[float]] = {}
    for answer in answers:
        form = by_number[answer.form]
        if answer.distribution is not None:
            share = list(answer.distribution)
        elif answer.rating is not None:
            share = [float(n == round(answer.rating)) for n in range(1, session.inventory.levels + 1)]
        else:
            continue
        for place, rating in enumerate(form.option_order):
            places[place].append(share[rating - 1])
            labels.setdefault(form.labels[place], []).append(share[rating - 1])
    mass = [answer.mass for answer in answers if answer.mass is not None]
    bias = [p["acquiescence"] for p in people if p.get("acquiescence") is not None]
    return {
        "answers": total,
        "refusals": _share(sum(a.status == "refusal" for a in answers), total),
        "invalid": _share(sum(a.status == "invalid" for a in answers), total),
        "outside_options": json_ready(1 - mean_of(mass)),
        "acquiescence": json_ready(mean_of(bias)),
        "places": json_ready([mean_of(values) for values in places]),
        "labels": {label: mean_of(values) for label, values in sorted(labels.items())},
    }


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


# ------------------------------------------------------------------ tables


def quality_table(results: Results) -> Table:
    """How the answers were given, a column for each system."""
    shown = {name: result for name, result in results.items() if result.get("quality")}
    lines: tuple[tuple[str, Callable[[Any, Any], str]], ...] = (
        ("answers", lambda q, r: str(q["answers"])),
        ("refusals", lambda q, r: number(q["refusals"], "{:.1%}")),
        ("unreadable", lambda q, r: number(q["invalid"], "{:.1%}")),
        ("probability outside the options", lambda q, r: number(q["outside_options"], "{:.1%}")),
        ("acquiescence, rating points", lambda q, r: number(q["acquiescence"], SIGNED)),
        ("probability of each place", lambda q, r: " ".join(map(number, q["places"]))),
        ("probability of each label", lambda q, r: " ".join(f"{k} {number(v)}" for k, v in q["labels"].items()) or "-"),
        ("single ratings between forms, ICC(2,1)", lambda q, r: bounds((r.get("items") or {}).get("icc_2_1"))),
    )
    rows = [[name, *(text(r["quality"], r) for r in shown.values())] for name, text in lines] if shown else []
    return Table(["", *(shown if len(shown) > 1 else ["value"])], rows)


def tables(result: dict[str, Any]) -> list[RichTable]:
    """`analyse`'s result for the terminal: people, reliability, quality, and what was asked for."""
    named = {f"{result['method']}, {result['model']}, {result['forms']} forms": result}
    asked = fidelity(named)
    found = {
        next(iter(named)): people_table(named),
        "Reliability over people": reliability_table(named),
        "Quality of the answers": quality_table(named),
        "Asked for against measured": fidelity_table(asked) if asked else None,
    }
    return [on_terminal(table, title) for title, table in found.items() if table is not None and table.rows]
