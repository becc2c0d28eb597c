"""What `question_builder` made, as files: PersonalityBench's form, and a manifest that says where they come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpg_fast import __version__
from dpg_fast.data.questions.builder import EXAMPLES_VERSION, PROMPT_VERSION, BuildSettings, QuestionPart
from dpg_fast.llm import LLMClient, Usage
from dpg_fast.personality.scores import POLES, Trait
from dpg_fast.text.records import DroppedRecord, QuestionRecord, write_records
from dpg_fast.util.files import write_text

MANIFEST = "manifest.json"


def write_build(
    output: Path, client: LLMClient, settings: BuildSettings, parts: Sequence[QuestionPart]
) -> dict[str, Any]:
    """Write the parts to the folder ``output`` and return the manifest, which is written last.

    Files: `{Trait}.jsonl` (questions), `descriptions.jsonl` (one description of every pole a line; what has no counterpart
    is moved to the dropped ones), `dropped.jsonl` with reasons, `failed.jsonl` (calls), `manifest.json`.
    """
    by_target = {part.target: part for part in parts}
    for trait in Trait:
        part = by_target.get(trait.value)
        if part is not None and part.wanted:
            file = output / f"{trait.value.capitalize()}.jsonl"
            write_records(file, (QuestionRecord(question=text) for text in part.kept))
    poles = [(pole, by_target[str(pole)]) for pole in POLES if str(pole) in by_target]
    rows = min((len(part.kept) for _, part in poles), default=0)
    for pole, part in poles:  # a line holds one description of every pole
        part.dropped += [
            DroppedRecord(kind="description", target=str(pole), text=text, reason="surplus", detail="no counterpart")
            for text in part.kept[rows:]
        ]
        part.kept = part.kept[:rows]
    if settings.descriptions:
        lines = [
            {f"{p.trait.value.capitalize()}{'' if p.high else '_reversed'}": part.kept[i] for p, part in poles}
            for i in range(rows)
        ]
        write_text(output / "descriptions.jsonl", _json_lines(lines))
    write_records(output / "dropped.jsonl", (record for part in parts for record in part.dropped))
    failed = [
        {"item": result.item, "kind": result.failure.kind, "detail": result.failure.detail}
        for part in parts
        for result in part.failed
        if result.failure is not None
    ]
    write_text(output / "failed.jsonl", _json_lines(failed))
    usage = sum((part.usage for part in parts), Usage())
    paid = sum((part.paid for part in parts), Usage())
    manifest = {
        "what": "Situational questions and descriptions made by a language model with dpg_fast's own prompts and topics; "
        "not PersonalityBench.",
        "dpg_fast": __version__,
        "model": client.settings.model,
        "served_by": sorted({name for part in parts for name in part.served_by}),
        "prompt_version": EXAMPLES_VERSION if settings.examples else PROMPT_VERSION,
        "parameters": dict(client.settings.parameters),
        "settings": {
            "questions": settings.questions,
            "descriptions": settings.descriptions,
            "per_call": settings.per_call,
            "rounds": settings.rounds,
            "spare": settings.spare,
            "examples": settings.examples,
            "similarity": settings.similarity,
            "embedding_model": settings.embedding_model,
            "embedding_similarity": settings.embedding_similarity,
            "seed": settings.seed,
            "topics": list(settings.topics),
        },
        "parts": [
            {
                "target": part.target,
                "wanted": part.wanted,
                "generated": part.generated,
                "kept": len(part.kept),
                "dropped": dict(part.reasons),
                "failed_calls": len(part.failed),
            }
            for part in parts
        ],
        "usage": usage.model_dump(),
        "cost": {
            "total": client.prices.cost(client.settings.model, usage),
            "this_run": client.prices.cost(client.settings.model, paid),
            "currency": client.prices.currency,
        },
    }
    write_text(output / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _json_lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
