"""What a session says: scores of everybody, reliability over people and forms, and signs of careless answering."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dpg_fast.judges.metrics import compare_prompted
from dpg_fast.judges.results import SCHEMA
from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.inventory import Inventory
from dpg_fast.questionnaire.norms import Sex, percentiles
from dpg_fast.questionnaire.scoring import score_answers, to_level
from dpg_fast.questionnaire.session import Session
from dpg_fast.util.reliability import alpha_interval, icc_interval, retest_interval

MINIMUM = 3  # people, for anything that correlates over people


def analyse(session: Session, *, sex: Sex = "N", age: int = 30, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The result of a session in plain JSON types, of the form that `results.load_scores` reads.

    Keys: `respondents` (scores -5..5, mean ratings 1..levels, their standard deviation over forms, facets, acquiescence,
    share of extreme ratings, `target`: what was asked for, percentiles for IPIP-NEO where five-factor-e is installed);
    `reliability` per trait over people (those asked to be somebody, if there are three): `alpha` (items averaged over forms),
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
    """Whom reliability is over: those who were asked to be somebody, if they are enough, else everybody.

    The bare model among steered ones is an outlier that raises every correlation over people.
    """
    asked = [place for place, respondent in enumerate(session.respondents) if respondent.target is not None]
    return asked if len(asked) >= MINIMUM else list(range(len(session.respondents)))


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
        return found | {"reason": f"{people} people with complete answers; {MINIMUM} are needed"}
    if items > 1:
        found["alpha"] = alpha_interval(table.mean(axis=1), resamples=resamples, seed=seed).to_dict()
        found["alpha_centred"] = alpha_interval(free.mean(axis=1), resamples=resamples, seed=seed).to_dict()
    if forms > 1:
        scores = table.mean(axis=2)
        found["retest"] = retest_interval(scores, resamples=resamples, seed=seed).to_dict()
        for kind, name in (("2,1", "icc_2_1"), ("3,1", "icc_3_1"), ("2,k", "icc_2_k")):
            own = icc_interval(scores, kind, resamples=resamples, seed=seed)  # type: ignore[arg-type]
            found[name] = own.to_dict()
    return found


def _items(ratings: NDArray[np.float64], resamples: int, seed: int) -> dict[str, Any]:
    """Agreement of forms on single ratings."""
    rows = ratings.transpose(0, 2, 1).reshape(-1, ratings.shape[1])
    rows = rows[np.isfinite(rows).all(axis=1)]
    if rows.shape[0] < MINIMUM or rows.shape[1] < 2:
        return {"reason": f"{rows.shape[0]} complete ratings on {ratings.shape[1]} forms; 3 on 2 are needed"}
    return {"icc_2_1": icc_interval(rows, "2,1", resamples=min(resamples, 200), seed=seed).to_dict()}


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
        "outside_options": 1 - float(np.mean(mass)) if mass else None,
        "acquiescence": float(np.mean(bias)) if bias else None,
        "places": [float(np.mean(values)) if values else None for values in places],
        "labels": {label: float(np.mean(values)) for label, values in sorted(labels.items())},
    }


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


# ------------------------------------------------------------------ for the terminal


def tables(result: dict[str, Any]) -> list[Table]:
    """`analyse`'s result: people, reliability, quality."""
    traits = [trait for trait in Trait if trait.value in result["reliability"]]
    people = Table(title=f"{result['method']}, {result['model']}, {result['forms']} forms: scores (-5 to 5)")
    for column in ("respondent", *(t.letter for t in traits), "acquiescence", "extreme"):
        people.add_column(column, justify="left" if column == "respondent" else "right")
    for person in result["respondents"]:
        scores = (_text(person["scores"].get(t.value), "{:+.2f}") for t in traits)
        people.add_row(
            person["label"],
            *scores,
            _text(person.get("acquiescence"), "{:+.2f}"),
            _text(person.get("extreme"), "{:.2f}"),
        )
    found = [people]
    rows = result["reliability"]
    if not all("reason" in row for row in rows.values()):
        reliability = Table(title="Reliability over people, with 95% bootstrap intervals")
        names = ("alpha", "alpha_centred", "retest", "icc_2_1", "icc_2_k")
        for column in ("trait", "people", *names):
            reliability.add_column(column, justify="left" if column == "trait" else "right")
        for trait in traits:
            row = rows[trait.value]
            reliability.add_row(trait.value, str(row["people"]), *(_bounds(row.get(name)) for name in names))
        found.append(reliability)
    quality = Table(title="Quality of the answers", show_header=False)
    q = result["quality"]
    lines: tuple[tuple[str, Callable[[], str]], ...] = (
        ("answers", lambda: str(q["answers"])),
        ("refusals, invalid", lambda: f"{_text(q['refusals'], '{:.1%}')}, {_text(q['invalid'], '{:.1%}')}"),
        ("probability outside the options", lambda: _text(q["outside_options"], "{:.1%}")),
        ("acquiescence (rating points)", lambda: _text(q["acquiescence"], "{:+.2f}")),
        ("probability of each place", lambda: " ".join(_text(v, "{:.2f}") for v in q["places"])),
        ("probability of each label", lambda: " ".join(f"{k} {v:.2f}" for k, v in q["labels"].items())),
        ("agreement of forms on single ratings, ICC(2,1)", lambda: _bounds(result["items"].get("icc_2_1"))),
    )
    for name, text in lines:
        quality.add_row(name, text())
    found.append(quality)
    if "prompted" in result:
        prompted = Table(title="Prompted against measured scores")
        for column in ("trait", "n", "MAE", "exact", "within 1", "Pearson", "Spearman"):
            prompted.add_column(column, justify="left" if column == "trait" else "right")
        for name, row in [*result["prompted"]["traits"].items(), ("mean", result["prompted"]["mean"])]:
            values = [_text(row[key], "{:.2f}") for key in ("mae", "exact", "within_one", "pearson", "spearman")]
            prompted.add_row(name, str(row["n"]), *values)
        found.append(prompted)
    return found


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _bounds(value: dict[str, float | None] | None) -> str:
    if value is None or value["estimate"] is None:
        return "-"
    return f"{value['estimate']:.2f} [{_text(value['low'], '{:.2f}')}, {_text(value['high'], '{:.2f}')}]"
