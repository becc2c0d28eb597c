"""Several witnesses of one evaluation: word counts, description sets, valence taken out, agreement, the report."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpg_fast.evaluation import BareModel, TraitPlan, run_evaluation
from dpg_fast.evaluation.protocol import Results
from dpg_fast.evaluation.report import write_evaluation_report
from dpg_fast.evaluation.witnesses import panel as panels
from dpg_fast.evaluation.witnesses.panel import (
    Panel,
    PanelChoice,
    agreement,
    answer_samples,
    hear_panel,
    without_valence,
)
from dpg_fast.evaluation.witnesses.report import panel_sections, verdict
from dpg_fast.evaluation.witnesses.separation import points, separation
from dpg_fast.judges.description_sets import SetJudge, description_sets
from dpg_fast.judges.lexical import LexicalJudge, has_valence, word_class
from dpg_fast.judges.scoring import Scorer
from dpg_fast.personality.scores import POLES, Personality, Trait
from dpg_fast.reporting import Table, Text
from dpg_fast.text.answers import AnswerSettings
from dpg_fast.text.assets import load_descriptions

E, N = Trait.EXTRAVERSION, Trait.NEUROTICISM
QUESTIONS = {E: ["A party?", "A stranger?", "Alone?"], N: ["A dark road?", "A letter?", "A test?"]}
SAID = {
    "E+": "I laugh with everybody and we dance, it is fun and exciting.",
    "E-": "I read a book at home, quiet and alone, perhaps.",
    "N+": "I am afraid, I worry and cry, and I feel ashamed.",
    "N-": "Calm and relaxed, there is a steady peace.",
}


class Speaks(BareModel):
    """Says one of four sentences, with the question's length in it."""

    name = "speaks"
    asked = 0

    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        self.asked += len(questions)
        found = []
        for question, person in zip(questions, personalities, strict=True):
            trait = next((t for t in (E, N) if person is not None and person[t]), None)
            pole = "" if trait is None else f"{trait.letter}{'+' if person[trait] > 0 else '-'}"  # type: ignore[index]
            found.append(SAID.get(pole, "The road is long.") + " Well." * (len(question) % 3))
        return found


class Same(BareModel):
    def answer(self, questions: Sequence[str], personalities: Sequence[Personality | None]) -> list[str]:
        return ["The road is long."] * len(questions)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def runs(text: str, length: int = 3) -> set[tuple[str, ...]]:
    own = words(text)
    return {tuple(own[i : i + length]) for i in range(len(own) - length + 1)}


def test_description_sets_share_no_wording_with_what_adapters_and_strengths_are_made_with() -> None:
    known: set[tuple[str, ...]] = set()
    for pole in POLES:
        for entry in load_descriptions(pole):
            known |= runs(entry.text)
    sets = description_sets()
    assert len(sets) >= 6
    for pairs in sets.values():
        assert list(pairs) == list(Trait)
        for ((high, low),) in pairs.values():
            assert not (runs(high) | runs(low)) & known
            longer, shorter = sorted((len(words(high)), len(words(low))), reverse=True)
            assert longer - shorter <= 6  # poles are parallel
    texts = [text for pairs in sets.values() for ((high, low),) in pairs.values() for text in (high, low)]
    assert len(set(texts)) == len(texts) == 10 * len(sets)


def test_a_set_judge_reads_its_own_texts(tiny_llama: Any, byte_tokenizer: Any) -> None:
    judge = SetJudge("adjectives", tiny_llama, byte_tokenizer)
    seen: list[str] = []
    prompt = judge.prompt_ids
    judge.prompt_ids = lambda text, question: seen.append(text) or prompt(text, question)  # type: ignore[method-assign]
    (found,) = judge.judge("Why?", ["I sing."], traits=[E])
    assert seen == list(description_sets()["adjectives"][E][0]) and found.pairs == 1
    assert "not fitted" in judge.describe() and "validated" in judge.describe()
    assert judge.describe() != SetJudge("behaviour", tiny_llama, byte_tokenizer).describe()
    with pytest.raises(ValueError, match="accepted: behaviour"):
        SetJudge("none", tiny_llama, byte_tokenizer)


def test_words_are_counted() -> None:
    pattern = word_class("worr* sad don't")
    assert [word for word in ("worried", "worry", "sad", "sadly", "don't", "a") if pattern.fullmatch(word)] == [
        "worried",
        "worry",
        "sad",
        "don't",
    ]
    judge = LexicalJudge()
    loud, still = judge.judge("", [SAID["E+"], SAID["E-"]])
    assert loud.scores[E] > 2 > -2 > still.scores[E]
    tense, calm = judge.judge_all([("", SAID["N+"]), ("", SAID["N-"])], traits=[N])
    assert set(tense.scores) == {N} and tense.scores[N] > 0 > calm.scores[N]
    assert judge.judge("", ["Don’t worry"])[0].scores == judge.judge("", ["don't WORRY"])[0].scores
    (empty,) = judge.judge("", ["123 ..."])
    assert not empty.scores and empty.reason == "the answer has no words"


@pytest.fixture
def heard(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = AnswerSettings(system="Be.", max_new_tokens=6)
    methods = [Bare(tiny_llama, byte_tokenizer, settings), Speaks(tiny_llama, byte_tokenizer, settings)]
    scorer = Scorer(LexicalJudge(), tiny_llama, byte_tokenizer, system="")
    plan = TraitPlan(QUESTIONS, [-5, 0, 5])
    results = run_evaluation(methods, scorer, plan, tmp_path, {})
    return {"methods": methods, "scorer": scorer, "results": results, "directory": tmp_path}


def Bare(*given: Any) -> BareModel:
    method = BareModel(*given)
    method.answer = Same.answer.__get__(method)  # type: ignore[method-assign]
    return method


def listen(heard: dict[str, Any], choice: PanelChoice, judge: str = "openai", **options: Any) -> Panel:
    return hear_panel(
        choice,
        judge,
        heard["results"],
        heard["methods"],
        heard["scorer"],
        heard["directory"],
        {},
        resamples=20,
        **options,
    )


@pytest.mark.slow
def test_every_witness_reads_the_same_answers(heard: dict[str, Any]) -> None:
    asked = heard["methods"][1].asked
    folder = heard["directory"] / "statements"
    folder.mkdir()
    for trait in (E, N):
        rows = [{"statement": "I.", "answer_matching_behavior": end} for end in (" Yes", " No")]
        (folder / f"{trait.value}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = PanelChoice(["descriptions", "lexical", "statements"], folder)
    panel = listen(heard, choice)
    assert [one.witness for one in panel.testimonies] == ["openai", "descriptions", "lexical", "statements"]
    assert heard["methods"][1].asked == asked  # nothing was answered again
    judge, sets, lexical, statements = panel.testimonies
    assert judge.separations == lexical.separations and judge.spearman == lexical.spearman  # both count words here
    assert lexical.separations["speaks"].cells[E, E].estimate == 1 == lexical.separations["speaks"].cells[N, N].low
    assert set(sets.spread) == {"speaks"} and statements.results is None
    for name in description_sets():
        files = heard["directory"] / "witnesses" / f"descriptions-{name.replace(' ', '_')}"
        rows = [json.loads(line) for line in (files / "speaks.jsonl").open()][1:]
        assert {row["measure"] for row in rows} == {"extraversion", "neuroticism"}  # fluency is measured once
    # the pooled score is the mean of the sets'
    key = ("extraversion", 5.0, "A party?")
    each = [
        next(
            row["scores"]["extraversion"]
            for line in (
                heard["directory"] / "witnesses" / f"descriptions-{name.replace(' ', '_')}" / "speaks.jsonl"
            ).open()
            if (row := json.loads(line)).get("measure") == "extraversion"
            and (row["trait"], row["level"], row["question"]) == key
        )
        for name in description_sets()
    ]
    assert sets.results is not None
    assert sets.results.rows["speaks"][key]["scores"]["extraversion"] == pytest.approx(np.mean(each))
    assert agreement(panel)["openai", "lexical"] == (pytest.approx(1), pytest.approx(1))
    assert np.isnan(agreement(panel)["lexical", "statements"][1])


def test_by_default_what_is_at_hand_is_heard_and_the_rest_is_named(heard: dict[str, Any]) -> None:
    names, statements, left_out = PanelChoice(None).resolve("likelihood", heard["results"].plan)
    assert (
        names == ["descriptions", "lexical"] and statements is None and "not on this machine" in left_out["statements"]
    )
    assert PanelChoice(["likelihood", "lexical"]).resolve("likelihood", heard["results"].plan)[0] == ["lexical"]
    for options, message in (
        ({"names": ["ghost"]}, "unknown witnesses ghost; accepted: likelihood"),
        ({"names": ["lexical"], "statements": Path("x")}, "leaves out"),
    ):
        with pytest.raises(ValueError, match=message):
            PanelChoice(**options)  # type: ignore[arg-type]
    with pytest.raises(OSError, match=r"extraversion\.jsonl"):
        PanelChoice(None, Path("nowhere")).resolve("likelihood", heard["results"].plan)


def test_valence_is_taken_out(heard: dict[str, Any]) -> None:
    if not has_valence():
        pytest.skip("vaderSentiment is not installed")
    results: Results = heard["results"]
    tone = {"good": "I am happy, great, wonderful.", "bad": "I am awful, terrible, sad."}

    def with_scores(score: Any) -> Results:
        rows = {
            key: {**row, "answer": tone["good" if (key[1] > 0) == (i % 5 > 0) else "bad"]}
            for i, (key, row) in enumerate(results.rows["speaks"].items())
        }
        for key, row in rows.items():
            row["scores"] = {key[0]: score(key, row["answer"])}
        plan = TraitPlan(QUESTIONS, [-5, 5], cross=False)
        return Results(plan, {"speaks": rows}, results.descriptions)

    tone_alone = with_scores(lambda key, text: 2.0 if text == tone["good"] else -2.0)
    more = with_scores(lambda key, text: (2.0 if text == tone["good"] else -2.0) + key[1] / 5)
    assert points(answer_samples(tone_alone, "speaks"))[E, E] > 0.6
    assert without_valence(tone_alone, "speaks", resamples=5)[E].estimate == 0.5  # nothing else was there
    assert without_valence(more, "speaks", resamples=5)[E].estimate == 1.0


def test_the_report_says_who_contradicts_whom(heard: dict[str, Any], tmp_path: Path) -> None:
    assert verdict([1, 1, None]) == "all agree" and verdict([1, -1]) == "they contradict each other"
    assert verdict([-1, -1]) == "all agree: the wrong way"
    assert verdict([1, 0]) == "1 of 2 see it" and verdict([0, 0]) == "nobody sees it" and verdict([None]) == "-"
    panel = listen(heard, PanelChoice(["lexical"]))
    first = panel.testimonies[0]
    cells = {
        pair: replace(value, estimate=1 - value.estimate, low=1 - value.high, high=1 - value.low)
        for pair, value in first.separations["speaks"].cells.items()
    }
    against = panels.Testimony("against", "the opposite", {"speaks": replace(first.separations["speaks"], cells=cells)})
    (section,) = panel_sections(Panel([*panel.testimonies, against], {"ghost": "it is away"}))
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [row[-1] for row in tables[0].rows] == ["they contradict each other"] * 2
    said = " ".join(block.text for block in section.blocks if isinstance(block, Text))
    assert "0 of 2 traits, 2 contradicted" in said and "ghost: it is away" in said
    (alone,) = panel_sections(listen(heard, PanelChoice()))
    assert "Only one witness" in alone.blocks[0].text  # type: ignore[union-attr]
    pytest.importorskip("matplotlib")
    from dpg_fast.evaluation import method_figures

    figures = [method_figures(heard["results"], name) for name in ("bare", "speaks")]
    write_evaluation_report(heard["results"], figures, tmp_path, judge="words", settings={}, panel=panel)
    data = json.loads((tmp_path / "results.json").read_text())["witnesses"]
    assert set(data["heard"]) == {"openai", "lexical"}
    assert data["heard"]["lexical"]["methods"]["speaks"]["auc"]["extraversion"]["extraversion"]["estimate"] == 1


def test_pairs_of_cells_are_resampled_by_question(heard: dict[str, Any]) -> None:
    samples = answer_samples(heard["results"], "speaks")
    assert set(samples) == {(E, E), (E, N), (N, E), (N, N)}
    assert separation(samples, resamples=20).diagonal.low == 1
