"""The teacher and its lessons, on a tiny model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpg_fast import HypernetConfig, HyperNetwork, PersonalityModel
from dpg_fast.personality.scores import Personality, Pole, Trait
from dpg_fast.text.assets import load_questions
from dpg_fast.text.personas import SYSTEM_TEMPLATE, USER_TEMPLATE
from dpg_fast.text.prompting import chat_prompt
from dpg_fast.train import LessonSettings, PersonaTeacher, TeacherSettings, load_lessons, make_lessons, taught_sources
from dpg_fast.train.lessons import Lesson, asked_questions, draw_people
from dpg_fast.train.loss import batch_loss, target_loss
from dpg_fast.train.rows import collate
from dpg_fast.train.teacher import mix
from tests.model.tiny import SCALED, tiny_model

SETTINGS = TeacherSettings(candidates=6, max_new_tokens=5, temperature=0, repetition_penalty=1.0, strength=1.0)
TEXTS = {
    Pole(trait, high): f"You are {trait.value} {'high' if high else 'low'}."
    for trait in Trait
    for high in (True, False)
}


def log_p(model: Any, tokenizer: Any, prompt: str, answer: torch.Tensor) -> torch.Tensor:
    ids = torch.tensor(tokenizer(prompt, add_special_tokens=False)["input_ids"] + answer.tolist())
    with torch.inference_mode():
        return model(input_ids=ids[None]).logits[0, -len(answer) - 1 : -1].log_softmax(-1)


def test_what_each_prompt_thought_is_what_the_model_says(tiny_llama: Any, byte_tokenizer: Any) -> None:
    teacher = PersonaTeacher(tiny_llama, byte_tokenizer, SETTINGS)
    people = [Personality("O3"), Personality("O-2 N5"), Personality()]
    answers = teacher.answer("Why?", people, TEXTS, "Speak.")
    assert [answer.traits for answer in answers] == [
        (Trait.OPENNESS,),
        (Trait.OPENNESS, Trait.NEUROTICISM),
        (),
    ]
    base = chat_prompt(byte_tokenizer, [{"role": "user", "content": "Why?"}], system="Speak.")
    for answer, person in zip(answers, people, strict=True):
        found = log_p(tiny_llama, byte_tokenizer, base, answer.tokens).gather(1, answer.candidates.long())
        torch.testing.assert_close(answer.log_base, found, rtol=1e-3, atol=2e-3)
        for trait, ratio in zip(answer.traits, answer.log_ratio, strict=True):
            sides = []
            for high in (True, False):
                text = TEXTS[Pole(trait, high)]
                asked = USER_TEMPLATE.format(question="Why?", description=text)
                prompt = chat_prompt(
                    byte_tokenizer,
                    [{"role": "user", "content": asked}],
                    system=SYSTEM_TEMPLATE.format(description=text),
                )
                sides.append(
                    log_p(tiny_llama, byte_tokenizer, prompt, answer.tokens).gather(1, answer.candidates.long())
                )
            torch.testing.assert_close(ratio, sides[0] - sides[1], rtol=1e-3, atol=4e-3)
        levels = torch.tensor([person.scores[t.position] for t in answer.traits])
        likeliest = mix(answer.log_base, answer.log_ratio, levels, 1.0).argmax(1)
        assert torch.equal(answer.candidates.gather(1, likeliest[:, None])[:, 0], answer.tokens)


def test_level_0_is_the_base_model_and_levels_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 7, generator=generator).log_softmax(1)
    ratio = torch.randn(2, 4, 7, generator=generator)
    torch.testing.assert_close(mix(base, ratio, torch.zeros(2), 2.0), base)
    half = mix(base, ratio, torch.tensor([2.5, 0.0]), 1.0)
    torch.testing.assert_close(half, (base + 0.5 * ratio[0]).log_softmax(1))


def test_lessons_are_kept_and_continued(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    settings = LessonSettings(questions=1, people=3, teacher=SETTINGS)
    files = make_lessons(tiny_llama, byte_tokenizer, tmp_path, settings)
    lessons = load_lessons(files)
    files[1].unlink()
    before = files[0].stat().st_mtime_ns
    make_lessons(tiny_llama, byte_tokenizer, tmp_path, settings)
    again = load_lessons(files[1:2])[0]
    assert files[0].stat().st_mtime_ns == before and again.levels == lessons[1].levels
    for answer, first in zip(again.answers, lessons[1].answers, strict=True):
        assert torch.equal(answer.tokens, first.tokens) and torch.equal(answer.log_ratio, first.log_ratio)
    with pytest.raises(ValueError, match=r"differs in seed \(0 there, 1 now\)"):
        make_lessons(tiny_llama, byte_tokenizer, tmp_path, dataclasses.replace(settings, seed=1))
    rows = taught_sources(lessons, byte_tokenizer, strength=1.0, redraw=0.0)
    assert len(rows) == 15
    row = rows[0].row(np.random.default_rng(0))
    assert torch.equal(row.tokens[row.positions + 1], lessons[0].answers[0].tokens.long())
    torch.testing.assert_close(row.log_target.exp().sum(1), torch.ones(len(row.positions)))
    assert row.personality.tolist() == pytest.approx(lessons[0].levels[0])


def test_questions_for_measuring_are_never_asked() -> None:
    asked = {question.question for question in asked_questions()}
    kept = {q.question for split in ("holdout", "validation") for q in load_questions(split=split)}  # type: ignore[arg-type]
    assert len(asked) == 180 and not asked & kept
    with pytest.raises(ValueError, match="36 questions"):
        asked_questions(37)


def test_people_cover_poles_pairs_and_everything() -> None:
    random = np.random.default_rng(0)
    people = [draw_people(Trait.EXTRAVERSION, 8, random) for _ in range(60)]
    place = Trait.EXTRAVERSION.position
    assert all(group[0][0].scores[place] >= 2.5 and group[1][0].scores[place] <= -2.5 for group in people)
    assert {len(traits) for group in people for _, traits in group} == {1, 2, 3, 5}
    assert all(Trait.EXTRAVERSION in traits for group in people for _, traits in group[:7])


@pytest.mark.parametrize("family", SCALED)
def test_a_hypernetwork_learns_the_logits_of_models_that_scale_or_cap_them(family: str, byte_tokenizer: Any) -> None:
    base = tiny_model(family, vocab_size=258, eos_token_id=0, max_position_embeddings=512, **SCALED[family])
    people = [Personality("O3"), Personality("O-4")]
    answers = PersonaTeacher(base, byte_tokenizer, SETTINGS).answer("Why?", people, TEXTS, "Speak.")
    prompt = chat_prompt(byte_tokenizer, [{"role": "user", "content": "Why?"}], system="Speak.")
    for answer in answers:
        wanted = log_p(base, byte_tokenizer, prompt, answer.tokens).gather(1, answer.candidates.long())
        torch.testing.assert_close(answer.log_base, wanted, rtol=1e-4, atol=1e-4)

    lesson = Lesson("Why?", "Speak.", tuple(person.scores for person in people), tuple(answers))
    sources = taught_sources([lesson], byte_tokenizer, strength=1.0, redraw=0.0)
    batch = collate([source.row(np.random.default_rng(0)) for source in sources], pad_token=0)
    model = PersonalityModel.from_model(base, hypernet=HypernetConfig(rank=4, hidden=16))
    assert isinstance(model.hypernet, HyperNetwork)
    optimizer = torch.optim.Adam(model.hypernet.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        total, count = batch_loss(model, batch)
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "personality")}
    rows, columns = (batch["positions"] >= 0).nonzero(as_tuple=True)
    logits = model(**inputs).logits[rows, batch["positions"][rows, columns]]
    plain = target_loss(logits, batch["candidates"][rows, columns], batch["log_target"][rows, columns])
    torch.testing.assert_close(batch_loss(model, batch)[0], plain)
    assert losses[-1] < 0.97 * losses[0]
