"""torch.compile of a wrapped model: one graph, right results, nothing compiled again for another personality."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

from dpg_fast import Personality, PersonalityModel
from tests.model.test_wrapper import personality_model
from tests.model.tiny import prompts, tiny_model

PEOPLE = [Personality("E+4 N-1"), None, Personality("O-5 C+2.5")]
OTHERS = [Personality("E-5"), Personality("A+1 N+3"), Personality("C-2")]


def both_ways(family: str, layers: int = 2) -> tuple[PersonalityModel, PersonalityModel]:
    base = tiny_model(family, num_hidden_layers=layers)
    return personality_model(copy.deepcopy(base)), personality_model(base)


@pytest.fixture(autouse=True)
def fresh() -> Any:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
def test_fullgraph(family: str) -> None:
    eager, compiled = both_ways(family)
    compiled.compile(fullgraph=True, backend="aot_eager")
    ids = prompts(3, 7)
    with torch.no_grad():
        for people in (PEOPLE, OTHERS, [None, *OTHERS[:2]]):
            found = compiled(ids, personality=people).logits
            wanted = eager(ids, personality=people).logits
            assert (found - wanted).norm() <= 1e-6 * wanted.norm()
        assert counters["stats"]["unique_graphs"] == 1, "another personality is not another graph"
        bare = compiled(ids).logits
        assert (bare - eager(ids).logits).norm() <= 1e-6 * bare.norm()
    assert not counters["graph_break"]


def test_generate_with_a_static_cache() -> None:
    eager, compiled = both_ways("llama")
    compiled.compile(fullgraph=True, backend="aot_eager")
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": "static"}
    for people in (PEOPLE, OTHERS, PEOPLE):
        found = compiled.generate(prompts(3, 7), personality=people, **options)
        assert torch.equal(found, eager.generate(prompts(3, 7), personality=people, **options))
        seen = counters["stats"]["unique_graphs"]
    assert counters["stats"]["unique_graphs"] == seen <= 4
    assert not counters["graph_break"]


def test_the_compilation_that_generate_does_by_itself() -> None:
    """With a static cache transformers compiles decode steps (on GPUs; here on request)."""
    eager, compiled = both_ways("llama")
    config = CompileConfig(fullgraph=False, backend="aot_eager", mode=None)
    config._compile_all_devices = True
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": "static"}
    for people in (PEOPLE, OTHERS):
        found = compiled.generate(prompts(3, 7), personality=people, compile_config=config, **options)
        assert torch.equal(found, eager.generate(prompts(3, 7), personality=people, **options))
    assert counters["stats"]["unique_graphs"] >= 1


@pytest.mark.slow
def test_inductor() -> None:
    eager, compiled = both_ways("llama", layers=1)
    compiled.compile(fullgraph=True)
    with torch.no_grad():
        for people in (PEOPLE, OTHERS):
            found = compiled(prompts(3, 7), personality=people).logits
            wanted = eager(prompts(3, 7), personality=people).logits
            assert (found - wanted).norm() <= 1e-5 * wanted.norm()


def test_unload_after_compile() -> None:
    eager, compiled = both_ways("llama")
    with torch.no_grad():
        bare = eager.base(prompts(3, 7)).logits
        compiled.compile(backend="aot_eager")
        compiled(prompts(3, 7), personality=PEOPLE)
        assert torch.equal(compiled.unload()(prompts(3, 7)).logits, bare)


@pytest.mark.slow
def test_a_compiled_step_reads_its_slots_where_they_were() -> None:
    """32 tokens with a static cache, three calls: the slots that the compiled decode step is given keep their addresses, so that
    CUDA graphs are not recorded again."""
    model = personality_model(tiny_model("llama"))
    ids = prompts(3, 5)
    with torch.no_grad():
        model(ids, personality=PEOPLE)  # watched, not compiled
    read: list[frozenset[int]] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            ints = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.dtype == torch.int32]
            read.append(frozenset(arg.data_ptr() for arg in ints))
            return graph(*args)

        return run

    model.compile(backend=backend, fullgraph=True)
    for _ in range(3):
        model.generate(ids, personality=PEOPLE, max_new_tokens=33, do_sample=False, cache_implementation="static")
    steps = [
        found for found in read if len(found) == 2
    ]  # slots of the bank and of steering; a prompt has no steered tokens
    assert len(steps) == 3 * 32 and len(set(steps)) == 1
