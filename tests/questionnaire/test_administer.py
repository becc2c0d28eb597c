"""Administration to a small random model: probabilities, generation, permutations, resumption."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpg_fast.hypernet import HypernetConfig, HyperNetwork
from dpg_fast.model import PersonalityModel
from dpg_fast.model.disk.identity import model_identity
from dpg_fast.personality.scores import Personality
from dpg_fast.questionnaire.administer import OptionProcessor, administer, encode_with_options
from dpg_fast.questionnaire.forms import Form, make_forms, messages, question, read_answer
from dpg_fast.questionnaire.inventory import bundled_inventory
from dpg_fast.questionnaire.session import AdministrationSettings, Respondent, Session, population
from dpg_fast.text.prompting import chat_prompt
from tests.model.test_wrapper import random_table

INVENTORY = replace(bundled_inventory(), items=bundled_inventory().items[:7])
FORMS = make_forms(INVENTORY, 3, seed=4)
PEOPLE = [Respondent("base"), Respondent("E+5", Personality("E+5")), Respondent("N", Personality("N+4 O-3"))]


@pytest.fixture
def model(tiny_llama: Any) -> PersonalityModel:
    wrapped = PersonalityModel.from_model(tiny_llama, hypernet=HypernetConfig(rank=2))
    assert isinstance(wrapped.hypernet, HyperNetwork)
    wrapped.hypernet.randomize_(torch.Generator().manual_seed(0))
    return wrapped.eval()


# ------------------------------------------------------------------ forms


def test_forms_are_seeded_paired_and_start_plain() -> None:
    forms = make_forms(INVENTORY, 6, seed=1)
    assert forms[0] == Form(0, tuple(range(7)), (1, 2, 3, 4, 5), tuple("ABCDE"))
    for even, odd in zip(forms[::2], forms[1::2], strict=True):
        assert odd.option_order == even.option_order[::-1] and odd.labels == even.labels
    assert forms[:4] == make_forms(INVENTORY, 4, seed=1)
    assert forms[2:] != make_forms(INVENTORY, 6, seed=2)[2:]
    for form in forms:
        assert sorted(form.item_order) == list(range(7)) and sorted(form.labels) == list("ABCDE")
        assert Form.from_dict(form.to_dict()) == form
    kept = make_forms(INVENTORY, 4, items=False, options="reverse", labels=False)
    assert [form.option_order[0] for form in kept] == [1, 5, 1, 5]
    assert {form.item_order for form in kept} == {tuple(range(7))} and {form.labels for form in kept} == {
        tuple("ABCDE")
    }
    with pytest.raises(ValueError, match="at least one form"):
        make_forms(INVENTORY, 0)


def test_question_shows_options_where_the_form_has_them() -> None:
    form = Form(9, tuple(range(7)), (3, 1, 2, 5, 4), tuple("CABED"))
    text = question(INVENTORY, INVENTORY.items[0], form)
    assert "C. Neither accurate nor inaccurate\nA. Very inaccurate\nB. Somewhat inaccurate\nE. Very accurate" in text
    assert text.endswith(f'Statement: "{INVENTORY.items[0].text}"')
    turns = messages(INVENTORY, form, 2, ["B", "E"])
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    assert INVENTORY.items[0].text in turns[0]["content"] and turns[3]["content"] == "E"


@pytest.mark.parametrize(
    ("text", "status", "rating"),
    [
        ("A", "ok", 5),
        (" (b) Somewhat accurate", "ok", 4),
        ("The answer is E.", "ok", 1),
        ("My answer: C", "ok", 3),
        ("I'd say very accurate!", "ok", 5),
        ("Neither accurate nor inaccurate, really", "ok", 3),
        ("Somewhat accurate or very accurate", "invalid", None),
        ("A language model has no desk.", "refusal", None),
        ("I’m sorry, but I cannot say.", "refusal", None),
        ("A nice question", "invalid", None),
        ("F", "invalid", None),
        ("", "invalid", None),
    ],
)  # fmt: skip
def test_free_answers(text: str, status: str, rating: int | None) -> None:
    form = Form(0, tuple(range(7)), (5, 4, 3, 2, 1), tuple("ABCDE"))
    assert read_answer(text, INVENTORY, form) == (status, rating)


# ------------------------------------------------------------------ probabilities


@pytest.mark.parametrize("prefill", ["", "My answer is"])
def test_probabilities_are_those_of_single_prompts(model: PersonalityModel, byte_tokenizer: Any, prefill: str) -> None:
    """Batches, shared beginnings and padding change nothing; personalities are each row's own."""
    if prefill:  # a byte tokenizer writes " A" as two tokens, so the prefill brings the space
        prefill += " "
    settings = AdministrationSettings(batch_size=16, prefill=prefill)
    session = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, settings)
    assert len(session.answers) == session.total == 3 * 3 * 7
    for respondent in PEOPLE:
        form, item = FORMS[2], INVENTORY.items[FORMS[2].item_order[5]]
        prompt = chat_prompt(byte_tokenizer, messages(INVENTORY, form, 5)) + prefill
        ids = byte_tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logp = model(ids, personality=respondent.personality).logits[0, -1].double().log_softmax(0)
        labels = [byte_tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in form.labels]
        by_rating = dict(zip(form.option_order, logp[labels].exp().tolist(), strict=True))
        total = sum(by_rating.values())
        answer = session.answers[respondent.label, 2, item.id]
        assert answer.mass == pytest.approx(total, rel=1e-4)
        assert answer.distribution == pytest.approx([by_rating[n] / total for n in range(1, 6)], rel=1e-4)
        assert answer.rating == pytest.approx(sum(n * p / total for n, p in by_rating.items()), rel=1e-4)
    ratings = session.ratings()
    assert ratings.shape == (3, 3, 7) and np.abs(ratings[0] - ratings[1]).max() > 1e-3


def test_context_holds_the_answers_given(model: PersonalityModel, byte_tokenizer: Any) -> None:
    settings = AdministrationSettings(context=2, batch_size=4)
    small = replace(INVENTORY, items=INVENTORY.items[:3])
    model.config.max_position_embeddings = 4096
    session = administer(model, byte_tokenizer, small, PEOPLE[:2], FORMS_OF(small), settings)
    form = FORMS_OF(small)[1]
    said = []
    for place in (0, 1):
        answer = session.answers["E+5", 1, small.items[form.item_order[place]].id]
        assert answer.distribution is not None
        said.append(form.labels[form.option_order.index(int(np.argmax(answer.distribution)) + 1)])
    prompt = chat_prompt(byte_tokenizer, messages(small, form, 2, said))
    ids = byte_tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        p = model(ids, personality="E+5").logits[0, -1].double().softmax(0)
    labels = [byte_tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in form.labels]
    mass = session.answers["E+5", 1, small.items[form.item_order[2]].id].mass
    assert mass == pytest.approx(float(p[labels].sum()), rel=1e-4)


def FORMS_OF(inventory: Any) -> list[Form]:
    return make_forms(inventory, 2, seed=4)


def test_a_bare_model_answers_but_takes_no_personality(tiny_llama: Any, byte_tokenizer: Any) -> None:
    bare = administer(tiny_llama, byte_tokenizer, INVENTORY, PEOPLE[:1], FORMS[:1])
    wrapped = PersonalityModel.from_model(copy.deepcopy(tiny_llama))
    again = administer(wrapped, byte_tokenizer, INVENTORY, PEOPLE[:1], FORMS[:1])
    assert np.allclose(bare.ratings(), again.ratings(), atol=1e-6)
    with pytest.raises(ValueError, match=r"takes no personality, but 'E\+5' has one"):
        administer(tiny_llama, byte_tokenizer, INVENTORY, PEOPLE, FORMS)


# ------------------------------------------------------------------ generation


def test_constrained_generation_takes_the_most_probable_label(model: PersonalityModel, byte_tokenizer: Any) -> None:
    by_probability = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS[:2])
    settings = AdministrationSettings(method="generate", batch_size=5)
    generated = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS[:2], settings)
    for key, answer in generated.answers.items():
        distribution = by_probability.answers[key].distribution
        assert distribution is not None and answer.rating == np.argmax(distribution) + 1
        assert answer.status == "ok" and answer.text in tuple("ABCDE")


def test_drawn_answers_are_seeded_and_follow_the_probabilities(model: PersonalityModel, byte_tokenizer: Any) -> None:
    settings = AdministrationSettings(method="generate", temperature=1.0, batch_size=4)
    one = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, settings)
    two = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, replace(settings, batch_size=16))
    other = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, replace(settings, seed=1))
    assert np.array_equal(one.ratings(), two.ratings()) and not np.array_equal(one.ratings(), other.ratings())
    options = torch.tensor([[3, 1, 4]]).repeat(4000, 1)
    scores = torch.log(torch.tensor([0.2, 0.3, 0.1, 0.1, 0.6])).repeat(4000, 1)
    kept = OptionProcessor(options, 1.0, range(4000))(options, scores)
    assert torch.isinf(kept[:, [0, 2]]).all()
    share = torch.bincount(kept.argmax(1), minlength=5) / 4000
    assert share[[3, 1, 4]].tolist() == pytest.approx([0.1, 0.3, 0.6], abs=0.03)


def test_free_answers_are_read_or_counted_as_invalid(model: PersonalityModel, byte_tokenizer: Any) -> None:
    settings = AdministrationSettings(method="generate", constrained=False, max_new_tokens=3)
    session = administer(model, byte_tokenizer, INVENTORY, PEOPLE[:1], FORMS[:1], settings)
    for answer in session.answers.values():
        assert answer.text is not None
        assert read_answer(answer.text, INVENTORY, FORMS[0]) == (answer.status, answer.rating)
    assert np.isnan(session.ratings()).any()  # a random model does not answer


# ------------------------------------------------------------------ labels, files, people


def test_labels_must_be_single_tokens(byte_tokenizer: Any) -> None:
    ids, before, options = encode_with_options(byte_tokenizer, "<|start|>a", "b ", ["X", "Y"])
    assert len(ids) == 4 and before == 2 and len(set(options)) == 2
    with pytest.raises(ValueError, match="as one token of its own"):
        encode_with_options(byte_tokenizer, "a", "", ["XY", "Z"])
    with pytest.raises(ValueError, match="as one token of its own"):
        encode_with_options(byte_tokenizer, "a", "b", ["X", "Y "])


def test_a_killed_run_continues(model: PersonalityModel, byte_tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    whole = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS)
    identity = model_identity(model)
    half = Session(INVENTORY, tuple(PEOPLE), tuple(FORMS), AdministrationSettings(), whole.model, identity)
    marked = list(whole.answers.items())[:20]
    with half.store(file) as store:
        store.append(asdict(replace(answer, rating=4.25)) for _, answer in marked)
    seen: list[int] = []
    resumed = administer(
        model, byte_tokenizer, INVENTORY, PEOPLE, FORMS,
        AdministrationSettings(batch_size=4), checkpoint=file, progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert seen[0] == 20 and seen[-1] == resumed.total
    for key, _ in marked:  # taken from the file, not asked again
        assert resumed.answers[key].rating == 4.25
    again = Session(INVENTORY, tuple(PEOPLE), tuple(FORMS), AdministrationSettings(), whole.model, identity)
    with again.store(file) as store:
        assert len(store) == whole.total and again.answers == resumed.answers
    with pytest.raises(ValueError, match="differs in respondents"):
        administer(model, byte_tokenizer, INVENTORY, PEOPLE[:1], FORMS, checkpoint=file)
    assert isinstance(model.hypernet, HyperNetwork)
    model.hypernet.randomize_(torch.Generator().manual_seed(9))
    with pytest.raises(ValueError, match="differs in identity"):
        administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, checkpoint=file)
    file.write_text("{}\n")
    with pytest.raises(ValueError, match="is not a 'dpg_fast store 1' file"):
        administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, checkpoint=file)


def test_population_covers_every_trait() -> None:
    people = population(10, seed=3)
    assert people == population(10, seed=3) and len({p.label for p in people}) == 10
    scores = np.array([p.personality.scores for p in people if isinstance(p.personality, Personality)])
    assert (np.sort(scores, axis=0)[:, :] >= np.arange(-5, 5)[:, None] - 0.25).all()
    assert (np.sort(scores, axis=0)[:, :] <= np.arange(-4, 6)[:, None] + 0.25).all()


@pytest.mark.parametrize("change", [{"method": "guess"}, {"steer": "no"}, {"batch_size": 0}, {"temperature": 1.0}])
def test_settings_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        AdministrationSettings(**change)


@pytest.mark.parametrize(("steer", "prefill"), [("all", ""), ("answer", ""), ("answer", "I say ")])
def test_neurons_are_steered_where_asked(tiny_llama: Any, byte_tokenizer: Any, steer: Any, prefill: str) -> None:
    model = PersonalityModel.from_model(tiny_llama, steering=random_table(2, 72))
    settings = AdministrationSettings(steer=steer, prefill=prefill)
    session = administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS[:2], settings)
    prompt = chat_prompt(byte_tokenizer, messages(INVENTORY, FORMS[0], 3))
    ids = byte_tokenizer(prompt + prefill, return_tensors="pt", add_special_tokens=False)["input_ids"]
    before = len(byte_tokenizer(prompt, add_special_tokens=False)["input_ids"])
    start = {"all": 0, "answer": before if prefill else before - 1}[steer]
    options = byte_tokenizer("ABCDE", add_special_tokens=False)["input_ids"]
    masses = []
    for respondent in PEOPLE:
        with torch.no_grad():
            logits = model(ids, personality=respondent.personality, steer_from=start).logits[0, -1].double()
        masses.append(float(logits.softmax(0)[options].sum()))
        mass = session.answers[respondent.label, 0, INVENTORY.items[3].id].mass
        assert mass == pytest.approx(masses[-1], rel=1e-4)
    assert abs(masses[0] - masses[1]) > 1e-3 * masses[0]
    if steer == "answer":
        with pytest.raises(ValueError, match="writes one token"):
            administer(model, byte_tokenizer, INVENTORY, PEOPLE, FORMS, replace(settings, method="generate"))
