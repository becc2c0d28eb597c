"""Log-probabilities of continuations are those of ``model(...).logits``, on every family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from dpg_fast import HypernetConfig, PersonalityModel
from dpg_fast.personality.scores import Personality
from dpg_fast.text import continuation
from dpg_fast.text.continuation import continuation_logp
from tests.families.registry import FAMILIES, INSTALLED, shared_model
from tests.model.test_wrapper import random_table
from tests.model.tiny import SCALED, tiny_model

PROMPTS = [[5, 9, 23, 41], [7, 3], [5, 9, 23, 41], [11, 12, 13, 14, 15, 16, 17], [5, 9, 23, 41], [8], [5, 9, 23, 41]]
CONTINUATIONS = [[31, 32, 33], [40, 41, 42, 43, 44], [21], [50, 51], [60, 61, 62, 63, 64, 65], [70, 71, 72], []]


def expected(model: Any, prompt: Sequence[int], own: Sequence[int], **options: Any) -> tuple[torch.Tensor, bool]:
    ids = torch.tensor([[*prompt, *own]])
    with torch.no_grad():
        logp = model(ids, **options).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    picked = logp.gather(1, torch.tensor(own)[:, None])[:, 0]
    return picked, bool((logp.argmax(1) == torch.tensor(own)).all())


def check(model: Any, **options: Any) -> None:
    found = continuation_logp(model, PROMPTS, CONTINUATIONS, batch_size=3, **options)
    for prompt, own, score in zip(PROMPTS, CONTINUATIONS, found, strict=True):
        if not own:
            assert score.logp.shape == (0,) and score.total == 0 and score.greedy
            continue
        picked, greedy = expected(model, prompt, own)
        torch.testing.assert_close(score.logp, picked.double(), rtol=2e-5, atol=2e-5)
        assert score.greedy == greedy and score.total == pytest.approx(float(picked.sum()), abs=1e-3)


@pytest.mark.parametrize("name", [name for name in INSTALLED if FAMILIES[name].generates])
def test_every_family(name: str) -> None:
    check(shared_model(name))


@pytest.mark.parametrize("family", SCALED)
def test_scales_and_caps(family: str) -> None:
    model = tiny_model(family, **SCALED[family])
    plain = tiny_model(family, **{name: None if "cap" in name else 1.0 for name in SCALED[family]})
    assert not torch.allclose(*(expected(m, PROMPTS[0], CONTINUATIONS[0])[0] for m in (model, plain)), atol=0.05)
    check(model)


def test_ways_that_do_not_agree_with_the_model_are_not_taken() -> None:
    known = tiny_model("llama")
    check(known)
    odd = tiny_model("hyperclovax", **SCALED["hyperclovax"])
    check(odd)
    stateful = shared_model("Falcon-H1")
    check(stateful)
    ways = [continuation._WAYS[model][False] for model in (known, odd, stateful)]
    assert ways == [(True, True), (False, True), (True, False)]


@pytest.mark.parametrize("method", ["steering", "hypernet"])
@pytest.mark.parametrize("steer_prompt", [True, False])
def test_everybody_in_one_batch(method: str, steer_prompt: bool) -> None:
    """Equal prompts under different people are different prompts; those of one person are run once."""
    base = tiny_model("qwen3")
    options = {"steering": random_table(3, 72)} if method == "steering" else {"hypernet": HypernetConfig(rank=2)}
    model = PersonalityModel.from_model(base, **options).eval()
    if model.hypernet is not None:
        model.hypernet.randomize_(torch.Generator().manual_seed(0), std=0.2)
    people = [None, Personality("E+5"), Personality("N-4"), Personality("E+5"), Personality("E+5"), None, None]
    found = continuation_logp(
        model, PROMPTS, CONTINUATIONS, personality=people, steer_prompt=steer_prompt, batch_size=3
    )
    for prompt, own, person, score in zip(PROMPTS, CONTINUATIONS, people, found, strict=True):
        if own:
            start = 0 if steer_prompt else len(prompt)
            picked, _ = expected(model, prompt, own, personality=person, steer_from=start)
            torch.testing.assert_close(score.logp, picked.double(), rtol=2e-5, atol=2e-5)
    bare = continuation_logp(base, PROMPTS[:2], CONTINUATIONS[:2])
    torch.testing.assert_close(found[0].logp, bare[0].logp, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[1].logp, bare[1].logp, atol=1e-3)


def test_what_cannot_be_scored() -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="a prompt of at least one token"):
        continuation_logp(model, [[]], [[3]])
    with pytest.raises(ValueError):
        continuation_logp(model, [[3]], [])
    assert continuation_logp(model, [], []) == [] and continuation_logp(model, [[]], [[]])[0].total == 0


def test_more_positions_than_exist_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuation, "_AT_ONCE", 4)
    check(tiny_model("gemma2", final_logit_softcapping=3.0))
