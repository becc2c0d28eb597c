"""Annotation: user turns, golden answers and their checks, in PersLLM's two steps (arXiv 2407.12393).

Ours, not the paper's: replies are structured and then given the paper's two markers; questions are compared before their
answers are paid for; a verdict on every answer; replacing what was lost; several exchanges; answers of one stage to another
stage's questions in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from dpg_fast.data.questions.rules import Rejection
from dpg_fast.data.similarity import near_vectors
from dpg_fast.llm import Call, Result
from dpg_fast.personified.data import prompts
from dpg_fast.personified.data.asking import Asker
from dpg_fast.personified.data.checks import Checks
from dpg_fast.personified.data.drafts import Build, Draft, Step, clean_turn
from dpg_fast.personified.data.material import CharacterMaterial, Paragraph, Stage
from dpg_fast.personified.data.prompts import GoldenAnswer
from dpg_fast.personified.data.record import Annotation, ItemKind, LostItem, PersonifiedRecord, join_reply
from dpg_fast.personified.data.retrieval import Embedder, Retriever
from dpg_fast.personified.data.slots import PersonifySettings, Slot, check_feasible, slots, split_of
from dpg_fast.personified.data.written import WRITTEN, Example, choose
from dpg_fast.text.records import Turn
from dpg_fast.util.errors import DPGError


class Annotator:
    """Makes one character's conversations.

    Args:
        character: with its material.
        settings: what is wanted.
        asker: runs the calls.
        embedder: finds materials and repetitions.
        instructions: general instructions; each stage answers the first `settings.general` of them.
        examples: written by hand, for `settings.shots` and `settings.written`.

    Raises:
        ValueError: the material is too little for what is wanted, there are too few instructions, or the language is unknown.
    """

    def __init__(
        self,
        character: CharacterMaterial,
        settings: PersonifySettings,
        asker: Asker,
        embedder: Embedder,
        instructions: Sequence[str] = (),
        examples: Sequence[Example] = (),
    ) -> None:
        check_feasible(character.stages, settings)
        without = [s.id for s in character.stages if not any(e.stage.id == s.id and not e.asked_of for e in examples)]
        if without and (settings.shots or settings.written):
            raise DPGError(
                f"no written examples for the stages {', '.join(without)}: put them into STAGE/examples.jsonl"
            )
        if len(instructions) < settings.general:
            raise DPGError(f"there are {len(instructions)} general instructions, not {settings.general}")
        self.character, self.settings, self.asker, self.embedder = character, settings, asker, embedder
        self.instructions = instructions[: settings.general]
        self.examples = examples
        self.checks = Checks(character.name, character.language, settings.guidance)
        self._retrievers: dict[str, Retriever] = {}

    # --- the calls ---

    def question_call(self, slot: Slot) -> Call[Any]:
        """The call for a slot's user turn."""
        who, settings = self.character, self.settings
        shots = choose(self.examples, slot.stage, slot.kind, slot.source, settings.shots, slot.id)
        return prompts.question_call(
            slot.id, who.name, who.language, slot.stage, slot.kind, slot.source, slot.draw, settings.guidance, shots
        )

    def answer_call(self, draft: Draft) -> Call[Any]:
        """The call for the answer to a draft's open question."""
        assert draft.materials is not None
        count, drawn_by = self.settings.shots, f"{draft.id} {draft.draw}"
        shots = choose(self.examples, draft.stage, draft.kind, draft.source, count, drawn_by)
        return prompts.answer_call(
            draft.id,
            self.character.name,
            self.character.language,
            draft.stage,
            draft.kind,
            draft.question,
            draft.materials,
            dialogue=draft.exchanges,
            guidance=self.settings.guidance,
            check=self.checks.fault,
            shots=shots,
            draw=draft.draw,
        )

    def verdict_call(self, draft: Draft) -> Call[Any]:
        """The call that judges a draft's answer."""
        assert draft.materials is not None and draft.answer is not None
        return prompts.verdict_call(
            draft.id, self.character.name, draft.stage, draft.question, draft.answer, draft.materials, draft.exchanges
        )

    def follow_up_call(self, draft: Draft, source: Paragraph) -> Call[Any]:
        """The call for a conversation's next user turn."""
        who, guidance = self.character, self.settings.guidance
        return prompts.follow_up_call(draft.id, who.name, who.language, draft.stage, source, draft.exchanges, guidance)

    def general_drafts(self, stage: Stage) -> list[Draft]:
        """The general instructions as drafts."""
        return [
            Draft(f"{stage.id}-general-{i:05d}", stage, "general", None, f"general#{i}", text)
            for i, text in enumerate(self.instructions, 1)
        ]

    def find_materials(self, drafts: Sequence[Draft]) -> None:
        """Give each draft the materials for its open question."""
        for stage in self.character.stages:
            own = [draft for draft in drafts if draft.stage.id == stage.id]
            if not own:
                continue
            if stage.id not in self._retrievers:
                self._retrievers[stage.id] = Retriever(stage, self.embedder, self.settings.budget)
            found = self._retrievers[stage.id].find([d.question for d in own], [d.source for d in own])
            for draft, materials in zip(own, found, strict=True):
                draft.materials = materials

    # --- the work ---

    def build(self) -> Build:
        """Everything: conversations, general instructions, answers to other stages' questions."""
        done = Build()
        waiting = {stage.id: slots(stage, self.settings) for stage in self.character.stages}
        accepted: list[Draft] = []
        written = self._written(done) if self.settings.written else []
        asked = [e.question for e in self.examples if e.asked_of is None]  # and those kept, of all stages and rounds
        for number in range(self.settings.rounds):
            wanted: list[Slot] = []
            for stage in self.character.stages:
                have = sum(draft.stage.id == stage.id for draft in accepted)
                wanted += islice(waiting[stage.id], self.settings.items - have)
            if not wanted or (number and self.asker.broken):
                break
            drafts = self._questions(wanted, asked, done, f"user turns, round {number + 1}")
            accepted += self._answers(drafts, done, f"answers, round {number + 1}")
        accepted = self._follow_ups(accepted, done)
        general = [draft for stage in self.character.stages for draft in self.general_drafts(stage)]
        accepted += self._answers(general, done, "general instructions")
        order = {stage.id: i for i, stage in enumerate(self.character.stages)}
        accepted.sort(key=lambda draft: (order[draft.stage.id], draft.kind == "general", draft.id.rsplit("-", 1)[1]))
        own = [draft for draft in written if draft.asked_of is None]
        done.records = [self._record(draft) for draft in (*own, *accepted)]
        crossed = [draft for draft in written if draft.asked_of is not None]
        crossed += self._answers(self._cross(accepted), done, "other stages")
        done.cross = [self._record(draft) for draft in crossed]
        return done

    def _written(self, done: Build) -> list[Draft]:
        """The examples as drafts with their answers; they pass the same rules, or are lost."""
        drafts = []
        for e in self.examples:
            source = e.paragraph if e.asked_of is None else None
            draft = Draft(e.name, e.stage, e.kind, source, e.paragraph.id, e.question, e.asked_of, written=True)
            draft.answer = e.answer
            drafts.append(draft)
        self.find_materials(drafts)
        passed = []
        for draft in drafts:
            assert draft.answer is not None
            rejection = self.checks.question(draft.question) or self._rejection(draft, draft.answer)
            if rejection is not None:
                _drop(done, draft, "check", rejection, draft.question)
                continue
            draft.exchanges.append((draft.question, join_reply(draft.answer.analysis, draft.answer.response)))
            passed.append(draft)
        kept = {draft.id for draft in passed if draft.asked_of is None}
        return [draft for draft in passed if draft.id.split("@")[0] in kept]

    def _rejection(self, draft: Draft, answer: GoldenAnswer) -> Rejection | None:
        """Why the rules refuse ``answer`` to a draft's open question."""
        assert draft.materials is not None
        given = [paragraph.text for paragraph in (*draft.materials.knowledge, *draft.materials.style)]
        if not draft.written:  # nor may a demonstration be handed back
            own = [e.answer for e in self.examples if e.stage.id == draft.stage.id]
            given += [text for shown in own for text in (shown.analysis, shown.response)]
        return self.checks.answer(answer, draft.kind, draft.asked_of is None, given)

    def _questions(self, wanted: Sequence[Slot], asked: list[str], done: Build, title: str) -> list[Draft]:
        """Drafts with good user turns that repeat neither each other nor those in ``asked``, which grows."""
        results = self.asker([self.question_call(slot) for slot in wanted], title)
        good: list[tuple[Slot, str]] = []
        for slot, result in zip(wanted, results, strict=True):
            if result.value is None:
                _fail(done, slot, "question", result)
                continue
            done.written += 1
            text = clean_turn(result.value.text)
            rejection = self.checks.question(text, slot.source.text)
            if rejection is None:
                good.append((slot, text))
            else:
                _drop(done, slot, "question", rejection, text)
        texts = [*asked, *(text for _, text in good)]
        if not good:
            return []
        vectors = self.embedder.encoder(texts)(texts)
        again = {
            found.index - len(asked): found
            for found in near_vectors(vectors, threshold=self.settings.similarity, keep=len(asked))
        }
        drafts = []
        for i, (slot, text) in enumerate(good):
            if i in again:
                detail = f"{again[i].similarity:.2f}: {texts[again[i].of]}"
                _drop(done, slot, "question", Rejection("repeats a question", detail), text)
                continue
            asked.append(text)
            drafts.append(Draft(slot.id, slot.stage, slot.kind, slot.source, slot.source.id, text))
        return drafts

    def _answers(self, drafts: list[Draft], done: Build, title: str, step: Step = "answer") -> list[Draft]:
        """The drafts whose open question got an answer that passed; it is among their exchanges then."""
        self.find_materials(drafts)
        passed: list[Draft] = []
        left, tried = drafts, Build()
        for draw in range(self.settings.candidates):
            if not left or (draw and self.asker.broken is not None):
                break
            done.refused += tried.lost
            tried = Build()
            for draft in left:
                draft.draw = draw
            good = self._candidates(left, tried, title if not draw else f"{title}, candidate {draw + 1}", step)
            names = {draft.id for draft in good}
            left = [draft for draft in left if draft.id not in names]
            passed += good
        done.lost += tried.lost
        order = {draft.id: i for i, draft in enumerate(drafts)}
        return sorted(passed, key=lambda draft: order[draft.id])

    def _candidates(self, drafts: list[Draft], done: Build, title: str, step: Step) -> list[Draft]:
        """One answer for each draft's open question; the drafts for which it passed."""
        answered = []
        for draft, result in zip(drafts, self.asker([self.answer_call(d) for d in drafts], title), strict=True):
            if result.value is None:
                _fail(done, draft, step, result)
                continue
            answer: GoldenAnswer = result.value
            rejection = self._rejection(draft, answer)
            if rejection is not None:
                text = f"{draft.question}\n{answer.response}"
                _drop(done, draft, "check" if step == "answer" else step, rejection, text)
                continue
            if draft.kind == "general" and not answer.answerable:
                answer = answer.model_copy(update={"response": self.settings.refusal, "stance": "does not know"})
            draft.answer = answer
            answered.append(draft)
        judged = [draft for draft in answered if draft.kind != "general"] if self.settings.verify else []
        faulty: set[str] = set()
        verdicts = self.asker([self.verdict_call(draft) for draft in judged], f"verdicts, {title}")
        at: Step = "verdict" if step == "answer" else step
        for draft, result in zip(judged, verdicts, strict=True):
            if result.value is None:
                _fail(done, draft, at, result)
            elif (fault := prompts.fault_of(result.value)) is not None:
                text = f"{draft.question}\n{draft.answer.response if draft.answer else ''}"
                _drop(done, draft, at, Rejection(fault, result.value.problem), text)
            else:
                continue
            faulty.add(draft.id)
        passed = [draft for draft in answered if draft.id not in faulty]
        for draft in passed:
            assert draft.answer is not None
            draft.exchanges.append((draft.question, join_reply(draft.answer.analysis, draft.answer.response)))
        return passed

    def _follow_ups(self, accepted: list[Draft], done: Build) -> list[Draft]:
        """Further exchanges. A conversation whose next exchange fails stays as it is."""
        growing = accepted
        finished: dict[str, Draft] = {draft.id: draft for draft in accepted}
        for number in range(2, self.settings.turns + 1):
            calls = [self.follow_up_call(draft, self._next_source(draft)) for draft in growing]
            further = []
            for draft, result in zip(growing, self.asker(calls, f"user turns, exchange {number}"), strict=True):
                if result.value is None:
                    _fail(done, draft, "follow-up", result)
                    continue
                text = clean_turn(result.value.text)
                rejection = self.checks.question(text)
                if rejection is not None:
                    _drop(done, draft, "follow-up", rejection, text)
                    continue
                next_kind: ItemKind = "thought"  # a follow-up takes up what was said; it need not be answerable
                further.append(replace(draft, question=text, kind=next_kind, exchanges=list(draft.exchanges)))
            growing = self._answers(further, done, f"answers, exchange {number}", "follow-up")
            for draft in growing:
                finished[draft.id] = replace(draft, kind=finished[draft.id].kind)
        return list(finished.values())

    def _next_source(self, draft: Draft) -> Paragraph:
        """Something near to the conversation that it has not been about."""
        assert draft.materials is not None and draft.source is not None
        near = [p for p in draft.materials.knowledge if p.id != draft.source.id]
        return near[min(len(draft.exchanges), len(near)) - 1] if near else draft.source

    def _cross(self, accepted: Sequence[Draft]) -> list[Draft]:
        """First questions of training conversations, to be answered by every other stage."""
        drafts = []
        for stage in self.character.stages:
            own = [
                d
                for d in accepted
                if d.stage.id == stage.id and d.kind != "general" and split_of(d.id, self.settings) == "train"
            ]
            for draft in own[: round(self.settings.cross * len(own))]:
                others = [other for other in self.character.stages if other.id != stage.id]
                drafts += [draft.asked_of_stage(other, draft.exchanges[0][0]) for other in others]
        return drafts

    # --- results ---

    def _record(self, draft: Draft) -> PersonifiedRecord:
        assert draft.answer is not None and draft.materials is not None
        messages = []
        for user, assistant in draft.exchanges:
            messages += [Turn(role="user", content=user), Turn(role="assistant", content=assistant)]
        return PersonifiedRecord(
            id=draft.id,
            messages=messages,
            character=self.character.name,
            stage=draft.stage.id,
            label=draft.stage.label,
            time=draft.stage.time,
            kind=draft.kind,
            split=split_of(draft.id.split("@")[0], self.settings),
            source=draft.source_id,
            knowledge=[paragraph.id for paragraph in draft.materials.knowledge],
            style=[paragraph.id for paragraph in draft.materials.style],
            stance=draft.answer.stance,
            asked_of=draft.asked_of,
            annotation=Annotation(
                model=WRITTEN if draft.written else self.asker.client.settings.model,
                prompt_version=prompts.PROMPT_VERSION,
                embedding=self.embedder.name,
                verified=self.settings.verify and draft.kind != "general" and not draft.written,
            ),
        )


def _fail(done: Build, item: Slot | Draft, step: Step, result: Result[Any]) -> None:
    assert result.failure is not None
    done.lost.append(_lost(item, step, reason=result.failure.kind, detail=result.failure.detail, failed=True))


def _drop(done: Build, item: Slot | Draft, step: Step, rejection: Rejection, text: str) -> None:
    done.lost.append(_lost(item, step, reason=rejection.reason, detail=rejection.detail, text=text))


def _lost(item: Slot | Draft, step: Step, **more: Any) -> LostItem:
    return LostItem(id=item.id, stage=item.stage.id, kind=item.kind, step=step, source=item.source_id, **more)
