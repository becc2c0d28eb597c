"""Golden figures: what the package computes with fixed seeds, recorded before a change that must not alter it, compared after.

    python -m benchmarks.golden record before.json
    python -m benchmarks.golden compare before.json

SmolLM2-135M with the adapters of the package where it is a model that counts; random models of two layers where it is a way of
computing (search, questionnaire, training). Takes about two minutes on two cores. Compare on the machine that recorded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dpg_fast import Calibration, HypernetConfig, Personality, PersonalityModel
from dpg_fast.data.scripts import read_script
from dpg_fast.evaluation.calibration.fit import monotone_knots
from dpg_fast.judges.likelihood import LikelihoodJudge
from dpg_fast.model.loading import load_wrapped
from dpg_fast.neurons import SearchSettings, SelectionRule, search_neurons
from dpg_fast.personality.traits import POLES, Pole, Trait
from dpg_fast.questionnaire.administer import administer
from dpg_fast.questionnaire.forms import make_forms
from dpg_fast.questionnaire.inventory import bundled_inventory
from dpg_fast.questionnaire.session import AdministrationSettings, Respondent
from dpg_fast.text.assets import load_descriptions, load_questions
from dpg_fast.text.records import DialogueRecord, Turn, write_records
from dpg_fast.train import load_settings, run_training

PEOPLE = [Personality("E+5"), Personality("E-5 N+4"), None, Personality("O-3 C+2 A-5")]
QUESTION = "Your boss asks you to give a speech tomorrow. How do you feel?"
ANSWERS = [
    "I can't wait to be on that stage!",
    "I would rather hide at home all day.",
    "It is a speech, so I will write it.",
]
SCRIPTS = Path("tests/data/scripts"), Path("../shared/cases/data"), Path("../shared/data")


def numbers(values: Any, count: int = 24) -> list[float]:
    """The first values of a tensor, and its sum and sum of squares in float64."""
    flat = torch.as_tensor(values).detach().double().flatten()
    return [*flat[:count].tolist(), float(flat.sum()), float(flat.square().sum())]


def mixed_batch() -> dict[str, Any]:
    """Logits, tokens, codes and strengths of four people in one batch, for each adapter of the package."""
    found: dict[str, Any] = {}
    for adapter in ("smollm2", "smollm2-hypernet"):
        model, tokenizer = load_wrapped("smollm2", adapter)
        batch = model.prompts([QUESTION] * len(PEOPLE), tokenizer=tokenizer)
        with torch.no_grad():
            logits = model(**batch, personality=PEOPLE, steer_from=0).logits[:, -1]
        tokens = model.generate(**batch, personality=PEOPLE, max_new_tokens=16, do_sample=False)
        found[adapter] = {
            "logits": [numbers(row) for row in logits],
            "tokens": tokens[:, batch["input_ids"].shape[1] :].tolist(),
            "strengths": [model.calibration.strength(pole, level) for pole in POLES for level in (1.0, 2.5, 5.0)],
        }
        if model.hypernet is not None:
            codes = model.hypernet.codes([person for person in PEOPLE if person is not None])
            found[adapter]["codes"] = [numbers(side) for side in codes]
    return found


def likelihood_scores() -> list[Any]:
    """Scores of three answers by the likelihood judge, all traits."""
    from dpg_fast.util.models import load_base

    judge = LikelihoodJudge(*load_base("smollm2"))
    return [[judgement.scores[trait] for trait in Trait] for judgement in judge.judge(QUESTION, ANSWERS)]


def tiny() -> tuple[Any, Any]:
    """A random model of two layers, and a tokenizer with a token for each byte."""
    from tests import conftest

    fixtures: Any = conftest
    return fixtures.tiny_llama.__wrapped__(), fixtures.byte_tokenizer.__wrapped__()


def selected_neurons() -> dict[str, Any]:
    """Neurons of one trait that the search finds in the random model."""
    model, tokenizer = tiny()
    questions = {Trait.NEUROTICISM: [question.question for question in load_questions("N", "search")][:3]}
    poles = [Pole.parse("N+"), Pole.parse("N-")]
    texts = {pole: [description.text for description in load_descriptions(pole, "search")][:2] for pole in poles}
    rule = SelectionRule(minimum=4, threshold=0.02)
    settings = SearchSettings(batch_size=3, max_new_tokens=24, seed=4, selection=rule)
    table = search_neurons(model, tokenizer, questions, texts, settings)
    return {
        str(pole): [chosen.layer.tolist(), chosen.neuron.tolist(), numbers(chosen.addition)]
        for pole, chosen in table.neurons.items()
    }


def questionnaire_scores() -> list[Any]:
    """Expected ratings of seven items on two forms, of a base model and a person."""
    model, tokenizer = tiny()
    wrapped = PersonalityModel.from_model(model, hypernet=HypernetConfig(rank=2))
    wrapped.hypernet.randomize_(torch.Generator().manual_seed(0))
    inventory = replace(bundled_inventory(), items=bundled_inventory().items[:7])
    people = [Respondent("base"), Respondent("N", Personality("N+4 O-3"))]
    session = administer(
        wrapped, tokenizer, inventory, people, make_forms(inventory, 2, seed=4), AdministrationSettings(batch_size=8)
    )
    return [
        [*map(str, key), list(answer.distribution or ()), answer.rating, answer.mass]
        for key, answer in sorted(session.answers.items(), key=str)
    ]


def calibration_fit() -> list[Any]:
    """Knots of a fitted curve, and what a calibration makes of levels between them."""
    draw = random.Random(5)
    shifts = [0.0, *(max(0.0, n / 2 + draw.gauss(0, 0.4)) for n in range(1, 9))]
    knots, _ = monotone_knots([n * 0.3 for n in range(9)], shifts, 2.0)
    return [list(map(list, knots)), [Calibration().strength(pole, 3.0) for pole in POLES]]


def training_losses() -> dict[str, list[float]]:
    """Losses of a few steps: hypernetwork, first and second step of a character."""
    import yaml

    from dpg_fast.personified.train import SftSettings, run_sft
    from dpg_fast.personified.train.dpo import DpoSettings, run_dpo
    from dpg_fast.personified.train.tuned import read_training
    from dpg_fast.train import read_settings
    from tests.personified.train.people import write_project

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model, tokenizer = tiny()
        model.save_pretrained(place / "base")
        tokenizer.save_pretrained(place / "base")
        draw = random.Random(0)
        records = [
            DialogueRecord(
                messages=[
                    Turn(role="user", content=f"{n}?"),
                    Turn(role="assistant", content="".join(draw.choices("abcdefgh", k=8))),
                ],
                personality=[draw.choice((-5.0, 5.0)) for _ in range(5)],  # type: ignore[arg-type]
                source="golden",
            )
            for n in range(16)
        ]
        write_records(place / "records.jsonl", records)
        trainer = {"per_device_train_batch_size": 8, "learning_rate": 0.01, "max_steps": 4, "logging_steps": 1}
        settings = {
            "output": str(place / "out"),
            "model": str(place / "base"),
            "dtype": "float32",
            "data": {"records": str(place / "records.jsonl"), "visits": 1},
            "hypernet": {"rank": 2, "codes": 6, "hidden": 8, "depth": 1},
            "teaching": {"system": ""},
            "trainer": {**trainer, "use_cpu": True, "disable_tqdm": True, "save_steps": 4},
        }
        (place / "run.yaml").write_text(yaml.safe_dump(settings))
        run_training(load_settings(place / "run.yaml"))
        state = json.loads((place / "out" / "checkpoint-4" / "trainer_state.json").read_text())
        found = {"hypernetwork": [row["loss"] for row in state["log_history"] if "loss" in row]}
        project = write_project(place / "person", *tiny())
        tuned = run_sft(read_settings(SftSettings, project / "sft.yaml"))
        found["sft"] = [row["loss"] for row in read_training(tuned)["curve"] if "loss" in row]
        preferred = run_dpo(read_settings(DpoSettings, project / "dpo.yaml"))
        found["dpo"] = [row["loss"] for row in read_training(preferred)["curve"] if "loss" in row]
    return found


def parsed_scripts() -> dict[str, str]:
    """A digest of speakers and speeches of every script at hand, or the error that reading it gives."""
    found = {}
    for folder in SCRIPTS:
        for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if (
                file.suffix.lower() not in {".fountain", ".txt", ".srt", ".vtt", ".jsonl"}
                or file.stat().st_size > 400_000
            ):
                continue
            try:
                text = repr([repr(speech) for speech in read_script(file).speeches()])
            except (ValueError, RecursionError) as error:
                text = f"{type(error).__name__}: {error}".replace(str(file), file.name)
            found[str(file)] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


PARTS: dict[str, Callable[[], Any]] = {
    "mixed batch": mixed_batch,
    "likelihood": likelihood_scores,
    "neurons": selected_neurons,
    "questionnaire": questionnaire_scores,
    "calibration": calibration_fit,
    "training": training_losses,
    "scripts": parsed_scripts,
}


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Places where two records differ by more than rounding (1e-5 of the value, 1e-6 at least)."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted(before.keys() | after.keys())
        return [line for key in keys for line in differences(before.get(key), after.get(key), f"{where}/{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for n, (a, b) in pairs for line in differences(a, b, f"{where}/{n}")]
    both = (before, after)
    if all(isinstance(value, (int, float)) for value in both) and math.isclose(*both, rel_tol=1e-5, abs_tol=1e-6):
        return []
    return [] if before == after else [f"{where}: {before} before, {after} now"]


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    chosen = parser.parse_args()
    now = {}
    for name, part in PARTS.items():
        torch.manual_seed(0)
        now[name] = part()
        print(f"{name}: done", flush=True)
    now = json.loads(json.dumps(now))
    if chosen.action == "record":
        chosen.file.write_text(json.dumps(now, indent=1))
        print(f"recorded in {chosen.file}")
        return
    before = json.loads(chosen.file.read_text())
    found = differences(before, now)
    print("\n".join(found) or f"equal: {', '.join(PARTS)}")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
