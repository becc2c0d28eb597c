"""The search on SmolLM2 against the algorithm written once more, one answer at a time and with every activation kept."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from dpg_fast.compat.transformers import cache_argument, output_cache
from dpg_fast.neurons import SearchSettings, SelectionRule, search_neurons
from dpg_fast.neurons.search import PERSONA_PROMPT
from dpg_fast.personality.scores import Pole, Trait
from dpg_fast.text.assets import load_descriptions, load_questions

NEW_TOKENS = 12
QUESTIONS = [question.question for question in load_questions("N", "search")][:3]


def decoded_activations(model: Any, tokenizer: Any, persona: str, question: str) -> Tensor:
    """[tokens, layers, neurons] of SiLU(gate(x)) on the tokens that the model writes and reads again, greedily."""
    messages = [{"role": "system", "content": persona}, {"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    written = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = {tokenizer.eos_token_id, model.generation_config.eos_token_id}
    seen: list[Tensor] = []
    kept: list[Tensor] = []
    handles = [
        layer.mlp.gate_proj.register_forward_hook(lambda m, a, gate: seen.append(torch.nn.functional.silu(gate[0, -1])))
        for layer in model.model.layers
    ]
    cached: dict[str, Any] = {}
    new = list(written)
    with torch.no_grad():
        for step in range(NEW_TOKENS):
            seen.clear()
            out = model(torch.tensor([new]), use_cache=True, **cached)
            if step > 0:
                kept.append(torch.stack(seen))
            cached, logits = cache_argument(model, output_cache(out)), out.logits[0, -1].clone()
            for token in set(written):
                logits[token] = logits[token] / 1.1 if logits[token] > 0 else logits[token] * 1.1
            token = int(logits.argmax())
            if token in end:
                break
            written.append(token)
            new = [token]
    for handle in handles:
        handle.remove()
    return torch.stack(kept)


def lower_edge_of_95th_percentile(values: Tensor) -> float:
    """Bins (-inf, 0], (0, .01], ... (2.98, 2.99], (2.99, inf): the first where 95% of the values are reached."""
    edges = [-float("inf"), *(i / 100 for i in range(300)), float("inf")]
    edges = torch.tensor(edges, dtype=torch.float32).tolist()
    wanted, below = 0.95 * len(values), sorted(values.tolist())
    for lower, upper in itertools.pairwise(edges):
        if sum(v <= upper for v in below) >= wanted:
            return lower
    raise AssertionError("unreachable")


@pytest.mark.slow
def test_search_equals_the_plain_algorithm(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    poles = (Pole.parse("N+"), Pole.parse("N-"))
    descriptions = {pole: [d.text for d in load_descriptions(pole, "search")] for pole in poles}
    rule = SelectionRule(minimum=50, threshold=0.2)
    settings = SearchSettings(batch_size=1, max_new_tokens=NEW_TOKENS, repetition_penalty=1.1, seed=4, selection=rule)
    table = search_neurons(model, tokenizer, {Trait.NEUROTICISM: QUESTIONS}, descriptions, settings)

    activations = {}
    for pole in poles:
        draw = random.Random(4 * 10 + pole.index)
        personas = [PERSONA_PROMPT.format(description=draw.choice(descriptions[pole])) for _ in QUESTIONS]
        answers = [decoded_activations(model, tokenizer, p, q) for p, q in zip(personas, QUESTIONS, strict=True)]
        activations[pole] = torch.cat(answers)
        assert table.origin["decode_tokens"][str(pole)] == len(activations[pole])
    probability = {pole: (values > 0).double().mean(0) for pole, values in activations.items()}
    for pole in poles:
        diff = probability[pole] - probability[pole.opposite]
        ranked = sorted(
            ((layer, i) for layer in range(diff.shape[0]) for i in range(diff.shape[1])),
            key=lambda at: (-float(diff[at]), at),
        )
        chosen = [at for rank, at in enumerate(ranked) if rank < 50 or diff[at] >= 0.2]
        rows = []
        for layer, neuron in chosen:
            p95 = lower_edge_of_95th_percentile(activations[pole][:, layer, neuron])
            if p95 > -float("inf"):
                at = (layer, neuron)
                rows.append((layer, neuron, float(diff[at]), float(probability[pole][at]), p95))
        found = table.neurons[pole]
        assert len(rows) > 200
        assert list(zip(found.layer.tolist(), found.neuron.tolist(), strict=True)) == [row[:2] for row in rows]
        for name, column in (("diff", 2), ("prob", 3), ("p95", 4)):
            assert torch.equal(
                getattr(found, name), torch.tensor([row[column] for row in rows], dtype=torch.float32)
            ), name
