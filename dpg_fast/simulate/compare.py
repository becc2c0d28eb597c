"""Conversations of several systems beside each other: range of the domain's terms, agreement, lengths, repetition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dpg_fast.data.similarity import ngrams, words
from dpg_fast.judges.stance import RULE, Stance, stances
from dpg_fast.llm import LLMClient
from dpg_fast.text.fluency import repeated_ngrams
from dpg_fast.text.records import DialogueRecord, read_records
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import read_text
from dpg_fast.util.results import json_ready
from dpg_fast.util.stats import Interval, bootstrap

MOST_DERIVED = 300
_SHORTEST = 5  # letters of a derived term
SHARED_RUN = 3  # words in a row, by which turns repeat each other


@dataclass(frozen=True)
class SystemFigures:
    """Figures of one system's conversations; intervals resample conversations.

    Attributes:
        conversations, turns: how many; scripted turns are not told apart.
        words: mean words of a turn.
        term_count: terms of the domain for every 100 words.
        term_range: different terms for each conversation.
        terms: the most frequent ones with their counts.
        distinct: different terms over all conversations.
        agreement: share of the turns (after the first of each conversation) that agree with the previous turn.
        disagreement: share that contradicts it.
        unjudged: turns of which the judge said nothing.
        repetition: share of a turn's word 4-grams that stood in it before.
        echo: share of a turn's word trigrams that an earlier turn of the same speaker had.
    """

    conversations: int
    turns: int
    words: Interval
    term_count: Interval | None
    term_range: Interval | None
    terms: dict[str, int]
    distinct: int
    agreement: Interval | None
    disagreement: Interval | None
    unjudged: int
    repetition: Interval
    echo: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Figures of each system, and how agreement was told."""

    systems: dict[str, SystemFigures]
    terms: tuple[str, ...]
    terms_from: str
    agreement_by: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found: dict[str, Any] = json_ready(self)
        return found


def read_terms(path: Path) -> tuple[str, ...]:
    """Terms of a file, one a line, each once; empty lines and lines that begin with # are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, or no term.
    """
    lines = read_text(path).splitlines()
    found = _distinct(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not found:
        raise DPGError(f"{path.name} holds no term; write one a line")
    return found


def derive_terms(texts: Sequence[str], background: Sequence[str], most: int = MOST_DERIVED) -> tuple[str, ...]:
    """The words of ``texts`` that make a domain: at least five letters, in two of the texts or more, and in no background text.

    The most frequent first; ties in alphabetical order.

    Raises:
        ValueError: no word is left.
    """
    usual = {word for text in background for word in words(text)}
    number_of: Counter[str] = Counter(word for text in texts for word in set(words(text)))
    total: Counter[str] = Counter(word for text in texts for word in words(text))
    found = [w for w in total if len(w) >= _SHORTEST and w.isalpha() and number_of[w] > 1 and w not in usual]
    if not found:
        raise DPGError("no word of the material is frequent enough, and uncommon elsewhere, to be a term")
    return tuple(sorted(found, key=lambda word: (-total[word], word))[:most])


def count_terms(text: str, terms: Sequence[str]) -> Counter[str]:
    """How often each term, of one or several words, stands in the text; case and punctuation ignored. A plural in s counts."""
    said = words(text)
    found: Counter[str] = Counter()
    by_length: dict[int, dict[tuple[str, ...], str]] = {}
    for term in terms:
        parts = tuple(words(term))
        by_length.setdefault(len(parts), {})[parts] = term
    for length, wanted in by_length.items():
        for i in range(len(said) - length + 1 if length else 0):
            run = tuple(said[i : i + length])
            singular = (*run[:-1], run[-1].removesuffix("s"))
            if run in wanted or singular in wanted:
                found[wanted.get(run, wanted.get(singular, ""))] += 1
    return found


def read_systems(files: Mapping[str, Path]) -> dict[str, list[DialogueRecord]]:
    """Each system's conversations.

    Raises:
        FileNotFoundError, ValueError: no such file, no record in it, or a line that is none.
    """
    found = {name: list(read_records(path, DialogueRecord)) for name, path in files.items()}
    empty = [name for name, records in found.items() if not records]
    if empty:
        raise DPGError(f"no conversation in the file of {', '.join(empty)}")
    return found


def compare(
    systems: Mapping[str, Sequence[DialogueRecord]],
    *,
    terms: Sequence[str] = (),
    terms_from: str = "",
    client: LLMClient | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Figures of every system.

    Args:
        systems: name -> conversations.
        terms: of the domain; none: no figures of terms.
        terms_from: where they are from, for reports.
        client: of a judge of agreement; None: the rule of `judges.stance`.
        resamples, seed: of the intervals.

    Raises:
        LLMError: the judge's server cannot be used.
    """
    found = {}
    for name, records in systems.items():
        pairs, owners = [], []
        for place, record in enumerate(records):
            turns = [turn.content for turn in record.messages if turn.role != "system"]
            pairs += list(pairwise(turns))
            owners += [place] * (len(turns) - 1)
        found[name] = _figures(records, stances(pairs, client), owners, tuple(terms), resamples, seed)
    by = (
        RULE
        if client is None
        else f"{client.settings.model} over an API (agreement of its verdicts with people unmeasured)"
    )
    return Comparison(found, tuple(terms), terms_from, by)


def _figures(
    records: Sequence[DialogueRecord],
    judged: Sequence[Stance | None],
    owners: Sequence[int],
    terms: tuple[str, ...],
    resamples: int,
    seed: int,
) -> SystemFigures:
    """One row for each conversation, from which all intervals are drawn."""
    rows = []
    counts: Counter[str] = Counter()
    for place, record in enumerate(records):
        turns = [turn for turn in record.messages if turn.role != "system"]
        lengths = [len(words(turn.content)) for turn in turns]
        own = sum((count_terms(turn.content, terms) for turn in turns), Counter())
        counts += own
        mine = [s for s, owner in zip(judged, owners, strict=True) if owner == place and s is not None]
        earlier: dict[str, set[tuple[str, ...]]] = {}
        echoes = []
        for turn in turns:
            grams = {g for g in ngrams(turn.content, SHARED_RUN) if len(g) == SHARED_RUN}
            before = earlier.setdefault(turn.name or turn.role, set())
            if before and grams:
                echoes.append(len(grams & before) / len(grams))
            before |= grams
        rows.append(
            {
                "turns": len(turns),
                "words": sum(lengths),
                "terms": own.total(),
                "range": len(own),
                "judged": len(mine),
                "agrees": mine.count("agrees"),
                "disagrees": mine.count("disagrees"),
                "repetition": float(np.mean([repeated_ngrams(turn.content) for turn in turns])),
                "echo": float(np.mean(echoes)) if echoes else np.nan,
            }
        )
    names = list(rows[0])
    table = np.array([[float(row[name]) for name in names] for row in rows])

    def column(name: str, part: np.ndarray) -> np.ndarray:
        return part[:, names.index(name)]

    def interval(statistic: Callable[[np.ndarray], float], used: np.ndarray = table) -> Interval:
        return bootstrap(lambda rows: statistic(used[rows]), len(used), resamples=resamples, seed=seed)

    def ratio(above: str, below: str, factor: float = 1.0) -> Callable[[np.ndarray], float]:
        return lambda part: factor * float(column(above, part).sum() / max(1.0, column(below, part).sum()))

    asked = table[column("judged", table) > 0]
    echoing = table[np.isfinite(column("echo", table))]
    return SystemFigures(
        conversations=len(records),
        turns=int(column("turns", table).sum()),
        words=interval(ratio("words", "turns")),
        term_count=interval(ratio("terms", "words", 100.0)) if terms else None,
        term_range=interval(lambda part: float(column("range", part).mean())) if terms else None,
        terms=dict(counts.most_common(20)),
        distinct=len(counts),
        agreement=interval(ratio("agrees", "judged"), asked) if len(asked) else None,
        disagreement=interval(ratio("disagrees", "judged"), asked) if len(asked) else None,
        unjudged=len(judged) - sum(s is not None for s in judged),
        repetition=interval(lambda part: float(column("repetition", part).mean())),
        echo=interval(lambda part: float(column("echo", part).mean()), echoing) if len(echoing) else None,
    )


def _distinct(terms: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(" ".join(words(term)) for term in terms if words(term)))
