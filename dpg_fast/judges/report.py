"""The report of a file of judged dialogues (`dpg-fast assess judge --report`)."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.judges.sections import scores_of, software
from dpg_fast.judges.validation.metrics import LEVELS
from dpg_fast.personality.scores import MAX_SCORE, Trait
from dpg_fast.reporting import (
    Cards,
    Page,
    Picture,
    Quote,
    Quotes,
    Section,
    Settings,
    Table,
    charts,
    number,
    write_report,
)
from dpg_fast.util.errors import DPGError
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import mean_of, variance_of
from dpg_fast.util.store import read_about, read_rows, whole_lines
from dpg_fast.util.words import counted

#: characters and examples of a trait that the page shows; the data hold all characters
_MOST_CHARACTERS, _EXAMPLES = 40, 2


def write_judgement_report(judgements: Path, failed: Path, directory: Path) -> Path:
    """Write the report of a file of judgements; the page's path.

    Args:
        judgements: what ``dpg-fast assess judge`` wrote.
        failed: its list of dialogues without a judgement; may be missing.
        directory: of the report.

    Raises:
        ImportError: matplotlib or jinja2 is missing.
        ValueError: nothing was judged.
    """
    people: dict[str, list[list[float]]] = defaultdict(list)
    counts = np.zeros((len(Trait), len(LEVELS)))
    missing, fluency, findings = dict.fromkeys(Trait, 0), [], [0, 0]
    cost, tokens, currency, judge = 0.0, [0, 0], None, read_about(judgements)
    quotes: dict[Trait, list[tuple[float, Quote]]] = {trait: [] for trait in Trait}
    total = 0
    for row in read_rows(judgements):
        total += 1
        scores = scores_of(row)
        people[row.get("character") or "(no name)"].append(scores)
        for trait, score in zip(Trait, scores, strict=True):
            if np.isfinite(score):
                counts[trait.position, round(score) + int(MAX_SCORE)] += 1
            else:
                missing[trait] += 1
        if row.get("fluency") is not None:
            fluency.append(row["fluency"])
        for name, finding in row.get("traits", {}).items():
            if finding["score"] is None:
                continue
            findings[0] += 1
            findings[1] += bool(finding["supported"])
            if finding["quotes"]:
                quote = Quote(row.get("character") or "", finding["quotes"][0], note=f"{name} {finding['score']:+.1f}")
                quotes[Trait(name)].append((finding["score"], quote))
        usage = row.get("usage") or {}
        tokens = [tokens[0] + usage.get("prompt_tokens", 0), tokens[1] + usage.get("completion_tokens", 0)]
        cost, currency = cost + (row.get("cost") or 0.0), row.get("currency") or currency
    if not total:
        raise DPGError(f"{judgements} holds no judgement yet: nothing to report")
    reasons = [str(json.loads(line)["reasons"][0]) for line in whole_lines(failed)]
    characters = {name: _centre(rows) for name, rows in people.items()}
    found = int(sum(counts.sum(1)))
    cards = [
        ("dialogues", f"{total:,}", "judged"),
        ("failed", f"{len(reasons):,}", "without a judgement"),
        ("scores", f"{found:,}", f"of {total * len(Trait):,}; the others had no evidence or were not asked for"),
    ]
    if findings[0]:
        cards.append(("quoted", f"{findings[1] / findings[0]:.0%}", "of the levels rest on a quotation that was found"))
    if fluency:
        cards.append(("fluency", number(mean_of(fluency)), "mean rating, 1 to 5"))
    if currency:
        cards.append(
            ("cost", f"{cost:.2f} {currency}", f"{tokens[0]:,} prompt and {counted(tokens[1], 'reply token')}")
        )
    kinds = Counter(reason.partition(":")[0][:80] for reason in reasons)
    failures = Table(["reason", "dialogues"], [[reason, str(count)] for reason, count in kinds.items()])
    examples = [quote for trait in Trait for quote in _extremes(quotes[trait])]
    name = " ".join(str((judge or {}).get(key, "")) for key in ("model", "protocol"))
    page = Page(
        title="Judged dialogues",
        subtitle=f"{name}; {counted(total, 'dialogue')}",
        lead=_lead(people, counts, len(reasons), total),
        sections=[
            Section("Overview", [Cards(cards)]),
            _levels(counts, missing, total, directory),
            _characters(characters),
            Section("Evidence", [Quotes(examples)]) if examples else None,
            Section("Failures", [failures]) if kinds else None,
            Section("Settings", [Settings({**(judge or {}), "software": software()})]),
        ],
        data={"judge": judge, "dialogues": total, "failed": len(reasons), "characters": characters}
        | {"levels": {trait: counts[trait.position].astype(int) for trait in Trait}}
        | {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "cost": cost if currency else None},
    )
    return write_report(page, directory)


def _centre(rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) of each trait over the dialogues that have a score."""
    found: dict[str, Any] = {"dialogues": len(rows)}
    for trait, column in zip(Trait, np.array(rows).T, strict=True):
        known = column[np.isfinite(column)]
        found[trait.value] = json_ready({"mean": mean_of(known), "spread": math.sqrt(variance_of(known))})
    return found


def _levels(counts: np.ndarray, missing: Mapping[Trait, int], total: int, directory: Path) -> Section:
    """How often each trait got each level."""
    shares = 100 * counts / total
    charts.matrices(
        {"": shares},
        [trait.value for trait in Trait],
        [f"{level:+d}" if level else "0" for level in LEVELS],
        directory / "levels.png",
        limit=max(10.0, float(shares.max())),
        shares=True,
        label="% of the dialogues",
        column_label="judged level (means are rounded)",
        form="{:.0f}",
    )
    blocks: list[Picture | Table] = [
        Picture("levels.png", "Share of each level for each trait", "In percent of all dialogues that were judged."),
        Table(["trait", "without a score"], [[trait.value, f"{missing[trait]:,}"] for trait in Trait]),
    ]
    return Section("Levels", blocks)


def _characters(found: Mapping[str, Mapping[str, Any]]) -> Section:
    """Centre and spread of those with most dialogues."""
    order = sorted(found, key=lambda name: -found[name]["dialogues"])[:_MOST_CHARACTERS]
    rows = [
        [name, str(found[name]["dialogues"])]
        + [
            number(c["mean"], "{:+.1f}") + (f" ({c['spread']:.1f})" if c["spread"] is not None else "")
            for c in (found[name][trait.value] for trait in Trait)
        ]
        for name in order
    ]
    caption = "Mean score of each trait, -5 to 5, and standard deviation over dialogues"
    if len(order) < len(found):
        caption += f"; the {len(order)} of {counted(len(found), 'character')} with most dialogues"
    return Section("Characters", [Table(["character", "dialogues", *(t.value for t in Trait)], rows, caption)])


def _extremes(quotes: list[tuple[float, Quote]]) -> list[Quote]:
    """What was quoted for the highest and the lowest levels."""
    ordered = sorted(quotes, key=lambda pair: pair[0])
    chosen = ordered[:_EXAMPLES] + ordered[max(_EXAMPLES, len(ordered) - _EXAMPLES) :]
    return [quote for _, quote in chosen]


def _lead(people: Mapping[str, Sequence[Sequence[float]]], counts: np.ndarray, failed: int, total: int) -> str:
    """The mean level of each trait, and what speaks against believing it."""
    if not counts.sum():
        return f"None of {counted(total, 'dialogue')} gave evidence for any trait."
    table = np.array([scores for rows in people.values() for scores in rows])
    means = [f"{t.value} {number(mean_of(table[:, t.position]), '{:+.1f}')}" for t in Trait if counts[t.position].any()]
    text = f"Mean levels, from -5 to 5, over {counted(total, 'dialogue')}: {', '.join(means)}."
    if failed:
        text += f" {failed:,} more were not judged, or only in part."
    same = [t.value for t in Trait if total > 1 and counts[t.position].max() > 0.9 * max(counts[t.position].sum(), 2)]
    if same:
        text += f" Nearly all dialogues got the same level of {', '.join(same)}: there the judge tells nobody apart."
    return text
