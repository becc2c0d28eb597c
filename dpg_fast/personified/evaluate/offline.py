"""Figures that need no judge: overlap with the golden answer, contradiction by rule, nearness to a stage, likelihoods.

All are weak stand-ins for judgement and named so in reports: words in common are not meaning, and a likely text is not a belief.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpg_fast.data.similarity import products, words
from dpg_fast.judges.stance import Stance
from dpg_fast.personified.data.retrieval import TfidfEmbedder
from dpg_fast.personified.evaluate.cast import CastQuestion, Person
from dpg_fast.util.stats import auc, bootstrap, mean_interval

Said = Sequence[tuple[Person, CastQuestion, str]]
_COMMON = """
a an and are as at be been but by do did does for from had has have he her him his i in is it its me my no not of on or our she so
that the their them then there they this to too up us was we were what when which who will with would you your
"""
_NO_CONTENT = frozenset(_COMMON.split())


def mean_share(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> dict[str, Any] | None:
    """ "estimate", "low", "high" and "count" of the mean of values, one for each question; None without any."""
    if not values:
        return None
    return mean_interval(values, resamples=resamples, seed=seed).to_dict() | {"count": len(values)}


def overlap(answer: str, reference: str) -> float:
    """F1 of the content words (sets) of an answer and its reference, 0..1: common function words are left out."""
    a, b = ({w for w in words(text) if w not in _NO_CONTENT} for text in (answer, reference))
    shared = len(a & b)
    return 2 * shared / (len(a) + len(b)) if shared else 0.0


def overlap_figures(said: Said, resamples: int, seed: int) -> dict[str, Any]:
    """ "knowledge", "attitude" and "all" -> mean overlap with the golden response.

    The kind is told weakly: questions written from a sample of style, and thoughts, are about attitude.
    """
    rows = [(kind_of(question), overlap(text, question.reference)) for _, question, text in said]
    found = {}
    for kind in ("knowledge", "attitude", "all"):
        share = mean_share([v for k, v in rows if kind in (k, "all")], resamples=resamples, seed=seed)
        if share is not None:
            found[kind] = share
    return found


def kind_of(question: CastQuestion) -> str:
    """ "knowledge" or "attitude", by what the question was written from."""
    return "knowledge" if question.known and question.kind != "thought" else "attitude"


def premise_figures(
    said: Said,
    stances: Sequence[Stance | None],
    likelihoods: Mapping[tuple[str, str], Mapping[str, Any]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """How false premises are met.

    "resisted": share of the error questions whose response contradicts; "contradicted otherwise": the same of ordinary questions,
    which hold no false premise; "likelihood": AUC of how much likelier stock corrections are than stock agreements, error
    questions against ordinary ones (0.5: the premise makes no difference).
    """
    by_kind: dict[str, list[float]] = {"error": [], "ordinary": []}
    margin: dict[str, list[float]] = {"error": [], "ordinary": []}
    unjudged = 0
    for (person, question, _), stance in zip(said, stances, strict=True):
        if question.kind not in by_kind:
            continue
        row = likelihoods.get((person.name, question.id))
        if row is not None:
            margin[question.kind].append(float(row["correction"]))
        if stance is None:
            unjudged += 1
        else:
            by_kind[question.kind].append(float(stance == "disagrees"))
    found: dict[str, Any] = {"unjudged": unjudged}
    for name, kind in (("resisted", "error"), ("contradicted otherwise", "ordinary")):
        share = mean_share(by_kind[kind], resamples=resamples, seed=seed)
        if share is not None:
            found[name] = share
    if margin["error"] and margin["ordinary"]:
        above, below = (np.array(margin[kind]) for kind in ("error", "ordinary"))
        area = bootstrap(lambda a, b: auc(above[a], below[b]), above.size, below.size, resamples=resamples, seed=seed)
        found["likelihood"] = area.to_dict() | {"count": [above.size, below.size]}
    return found


class StageIndex:
    """How near a text is to each stage of a person: the highest TF-IDF cosine to the stage's material and golden responses.

    Only the training part's responses are used. Words are compared, not meaning.
    """

    def __init__(self, person: Person) -> None:
        texts = {s: [p.text for p in stage.paragraphs] + list(person.said[s]) for s, stage in person.stages.items()}
        self._encode: Callable[[Sequence[str]], Any] = TfidfEmbedder().encoder(
            [t for own in texts.values() for t in own]
        )
        self._vectors = {stage: self._encode(own) for stage, own in texts.items()}

    def nearest(self, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """stage -> [n] highest cosines."""
        encoded = self._encode(list(texts))
        return {s: products(encoded, v).max(axis=1).astype(np.float64) for s, v in self._vectors.items()}


def stage_figures(
    said: Said,
    likelihoods: Mapping[tuple[str, str], Mapping[str, Any]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Whether it shows when somebody speaks.

    "nearest": share of responses that are nearer to the own stage's texts than to every other stage's (ties half); "references":
    the same of the golden responses, the most that can be hoped for; "likelihood": share of golden answers that are likelier
    under their own stage than under any other; "margin": by how many nats a token. People with one stage are left out.
    """
    nearest: list[float] = []
    golden: list[float] = []
    preferred: list[float] = []
    margins: list[float] = []
    for person in {id(p): p for p, _, _ in said}.values():
        if len(person.stages) < 2:
            continue
        own = [(question, text) for p, question, text in said if p is person]
        index = StageIndex(person)
        for texts, out in (([t for _, t in own], nearest), ([q.reference for q, _ in own], golden)):
            scores = index.nearest(texts)
            for i, (question, _) in enumerate(own):
                best = max(v[i] for s, v in scores.items() if s != question.stage)
                mine = scores[question.stage][i]
                out.append(0.5 if mine == best else float(mine > best))
        for question, _ in own:
            row = likelihoods.get((person.name, question.id))
            if row is not None:
                best = max(v for s, v in row["stages"].items() if s != question.stage)
                margins.append(row["stages"][question.stage] - best)
                preferred.append(0.5 if margins[-1] == 0 else float(margins[-1] > 0))
    shares = {"nearest": nearest, "references": golden, "likelihood": preferred, "margin": margins}
    return {
        name: share
        for name, values in shares.items()
        if (share := mean_share(values, resamples=resamples, seed=seed)) is not None
    }
