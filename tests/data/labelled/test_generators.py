"""Writing dialogue: with a local model, and over an API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dpg_fast.data.labelled import LabelSettings, build, prepare
from dpg_fast.data.labelled.augment import APIGenerator, LocalGenerator, Writer, make_requests
from dpg_fast.data.labelled.judging import DialogueScorer
from dpg_fast.data.scripts import find_scripts, read_script
from dpg_fast.data.scripts.segments import SegmentSettings
from dpg_fast.judges.likelihood import LikelihoodJudge
from dpg_fast.llm import LLMClient, LLMSettings
from dpg_fast.personality.scores import Trait
from tests.llm.server import Answer, last_user, serve

SETTINGS = LabelSettings(SegmentSettings(), test_characters=0, test_scenes=0, generate=1)


def samples() -> Any:
    return prepare([read_script(file) for file in find_scripts("samples")], SETTINGS)


def test_a_local_model_writes_the_same_again(tiny_llama: Any, byte_tokenizer: Any) -> None:
    tiny_llama.config.max_position_embeddings = 16_000
    requests = make_requests(samples(), SETTINGS)[:2]
    made = [
        LocalGenerator(tiny_llama, byte_tokenizer, seed=seed, max_new_tokens=8).write(requests) for seed in (0, 0, 1)
    ]
    assert made[0] == made[1] != made[2]
    state = torch.random.get_rng_state()
    LocalGenerator(tiny_llama, byte_tokenizer, max_new_tokens=2).write(requests[:1])
    assert torch.equal(state, torch.random.get_rng_state())  # the caller's random numbers stay his


def test_the_local_pipeline_from_end_to_end(tiny_llama: Any, byte_tokenizer: Any, tmp_path: Path) -> None:
    """A random model judges and writes: what it says means nothing, that it is asked and understood is the point."""
    prepared = prepare([read_script(next(iter(find_scripts("samples"))))], SETTINGS)
    pairs = {trait: [("loud", "quiet")] for trait in Trait}
    scorer = DialogueScorer(
        lambda: LikelihoodJudge(tiny_llama, byte_tokenizer, descriptions=pairs), {"k": 1}, tmp_path / "s.jsonl", "tiny"
    )
    writer = Writer(
        lambda: LocalGenerator(tiny_llama, byte_tokenizer, max_new_tokens=8), {"k": 1}, tmp_path / "g.jsonl"
    )
    seen: set[str] = set()
    dataset = build(prepared, SETTINGS, scorer, writer, lambda what, done, total: seen.add(what))
    assert seen == {"judging scripts", "writing dialogue", "judging dialogue"}
    assert not dataset.unjudged
    judges = {record.judge.prompt_version for record in dataset.records["train"] if record.judge is not None}
    assert judges == {"LikelihoodJudge"}


def test_the_script_is_fenced_data_over_an_api(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    requests = make_requests(samples(), SETTINGS)[:2]
    with serve(lambda body, number: Answer('{"words": "ANNA: Yes! (nods)"}')) as server:
        generator = APIGenerator(LLMClient(LLMSettings("m", server.url), tmp_path / "r.sqlite"))
        assert generator.write(requests) == ["Yes!", "Yes!"]
        body = server.requests[0]
    assert "<scenes-" in last_user(body) and "<question-" in last_user(body)
    shown = requests[0].examples[0].turns[0].words
    assert shown not in body["messages"][0]["content"]
    assert generator.cost is None
