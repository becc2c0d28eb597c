"""A model of two layers with three neurons each, whose every activation is written down: search, selection, table and
steering against numbers worked out on paper."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpg_fast import Personality, PersonalityModel
from dpg_fast.model import Calibration
from dpg_fast.neurons import PoleNeurons, SearchSettings, SelectionRule, SteeringTable, search_neurons, select_all
from dpg_fast.neurons.search import collect_statistics
from dpg_fast.neurons.selection import effect_sizes
from dpg_fast.personality.scores import Pole, Trait
from tests.neurons.test_statistics import gates

HIGH, LOW, ANXIOUS = Pole.parse("E+"), Pole.parse("E-"), Pole.parse("N+")
END = 0
#: activation of each neuron on tokens 1, 2, 3, 4; all lie in the middle of a histogram bin
ACTIVATION = [
    [[0.505, -0.1, 0.305, 0.105], [-0.1, 0.205, 0.205, -0.2], [-0.1, -0.1, -0.1, -0.1]],
    [[0.305, 0.305, -0.1, -0.1], [-0.2, -0.2, 1.005, 3.5], [0.055, 0.055, 0.055, 0.055]],
]
#: prompt token -> answer; what is written and read again is counted: E+ 1,2 and 1,3,1; E- 4,4,4 (cut) and 2
ANSWERS = {5: [1, 2, END], 6: [1, 3, 1, END], 7: [4, 4, 4, 4], 8: [2, END]}
PROMPTS = {"E+ first": 5, "E+ second": 6, "E- first": 7, "E- second": 8}
VOCABULARY = 9


class Mlp(nn.Module):
    """act(gate(x)) * 1, for one-hot x: each column of the gate holds one token's values."""

    def __init__(self, activation: list[list[float]]) -> None:
        super().__init__()
        width = len(activation)
        self.gate_proj = nn.Linear(VOCABULARY, width, bias=False)
        self.up_proj = nn.Linear(VOCABULARY, width, bias=False)
        self.down_proj = nn.Linear(width, width, bias=False)
        self.act_fn = nn.SiLU()
        with torch.no_grad():
            self.gate_proj.weight.fill_(9.0)  # prompts fire strongly: a counted one would be seen
            self.gate_proj.weight[:, END] = 9.0
            self.gate_proj.weight[:, 1:5] = gates(activation).float()
            self.up_proj.weight.fill_(1.0)
            self.down_proj.weight.copy_(torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, activation: list[list[float]]) -> None:
        super().__init__()
        self.mlp = Mlp(activation)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(activation) for activation in ACTIVATION])


class Cache:
    def __init__(self) -> None:
        self.tokens = 0

    def get_seq_length(self) -> int:
        return self.tokens


class HandModel(nn.Module):
    """Reads its answers from a table. The output is what its layers' MLPs give, [layers, rows, length, neurons]."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()
        self.device = torch.device("cpu")
        self.generation_config = SimpleNamespace(eos_token_id=END)
        self.eval()

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def forward(self, input_ids: Tensor, past_key_values: Cache | None = None) -> Tensor:
        x = nn.functional.one_hot(input_ids, VOCABULARY).float()
        found = torch.stack([layer.mlp(x) for layer in self.decoder.layers])
        if past_key_values is not None:
            past_key_values.tokens += input_ids.shape[1]
        return found

    def generate(self, input_ids: Tensor, max_new_tokens: int, pad_token_id: int, **_: Any) -> Tensor:
        cache, output, new = Cache(), input_ids, input_ids
        answers = [ANSWERS[prompt] for prompt in input_ids[:, -1].tolist()]
        for step in range(max_new_tokens):
            self(input_ids=new, past_key_values=cache)
            new = torch.tensor([[a[step] if step < len(a) else pad_token_id] for a in answers])
            output = torch.cat([output, new], 1)
        return output


class Tokenizer:
    chat_template = "yes"
    eos_token_id = pad_token_id = END
    padding_side = "right"

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        system, user = messages[0]["content"], messages[-1]["content"]
        return f"{system[:2]} {user}"

    def __call__(self, prompts: list[str], **_: Any) -> Any:
        assert self.padding_side == "left"
        ids = [[9 - 1] * number + [PROMPTS[prompt]] for number, prompt in enumerate(prompts)]
        length = max(map(len, ids))
        padded = torch.tensor([[END] * (length - len(row)) + row for row in ids])

        class Batch(dict[str, Tensor]):
            def to(self, device: Any) -> Batch:
                return self

        return Batch(input_ids=padded)


def texts() -> tuple[dict[Trait, list[str]], dict[Pole, list[str]]]:
    return {Trait.EXTRAVERSION: ["first", "second"]}, {HIGH: ["E+"], LOW: ["E-"]}


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_counts_probabilities_and_percentiles(batch_size: int) -> None:
    settings = SearchSettings(batch_size=batch_size, max_new_tokens=4, means=True)
    found = collect_statistics(HandModel(), Tokenizer(), *texts(), settings)
    high, low = found[HIGH], found[LOW]
    # E+ decodes 1, 2 | 1, 3, 1 and E- 4, 4, 4 | 2
    assert (high.tokens, low.tokens) == (5, 4)
    assert high.positive.tolist() == [[4, 2, 0], [4, 1, 5]]
    assert low.positive.tolist() == [[3, 1, 0], [1, 3, 4]]
    # 95% of 5 or 4 tokens are reached with the largest; its bin's lower edge, -inf for what is never above zero
    expected = (
        torch.tensor([[0.50, 0.20, -math.inf], [0.30, 1.00, 0.05]]),
        torch.tensor([[0.10, 0.20, -math.inf], [0.30, 2.99, 0.05]]),
    )
    torch.testing.assert_close(high.p95, expected[0])
    torch.testing.assert_close(low.p95, expected[1])
    # layer 1, neuron 0. Answers' means: E+ .305 and (.305 - .1 + .305) / 3 = .17; E- -.1 and .305
    assert (high.answers, low.answers) == (2, 2)
    assert high.mean is not None and high.variance is not None and low.mean is not None and low.variance is not None
    assert float(high.mean[1, 0]) == pytest.approx(0.2375, abs=1e-6)
    assert float(high.variance[1, 0]) == pytest.approx((0.305 - 0.17) ** 2 / 2, abs=1e-6)
    assert float(low.mean[1, 0]) == pytest.approx(0.1025, abs=1e-6)
    assert float(low.variance[1, 0]) == pytest.approx(0.405**2 / 2, abs=1e-6)
    shift, d = effect_sizes(high, low)
    assert float(shift[1, 0]) == pytest.approx(0.135, abs=1e-6)
    assert float(d[1, 0]) == pytest.approx(0.135 / math.sqrt((0.135**2 + 0.405**2) / 4), abs=1e-5)


def places(found: PoleNeurons) -> list[tuple[int, int]]:
    return list(zip(found.layer.tolist(), found.neuron.tolist(), strict=True))


def test_selection_order_ties_and_floor() -> None:
    statistics = collect_statistics(HandModel(), Tokenizer(), *texts(), SearchSettings(max_new_tokens=4, means=True))

    def chosen(pole: Pole, **rule: Any) -> list[tuple[int, int]]:
        return places(select_all(statistics, SelectionRule(finite_only=False, **rule))[pole])

    # differences of E+: layer 0: .8 - .75, .4 - .25, 0; layer 1: .8 - .25, .2 - .75, 0
    assert chosen(HIGH, minimum=6) == [(1, 0), (0, 1), (0, 0), (0, 2), (1, 2), (1, 1)]
    assert chosen(LOW, minimum=6) == [(1, 1), (0, 2), (1, 2), (0, 0), (0, 1), (1, 0)]
    assert chosen(HIGH, minimum=1, threshold=0.1) == [(1, 0), (0, 1)]
    assert chosen(HIGH, minimum=4, threshold=0.1) == [(1, 0), (0, 1), (0, 0), (0, 2)]
    assert chosen(LOW, minimum=2, threshold=0.0) == [(1, 1), (0, 2), (1, 2)]
    finite = select_all(statistics, SelectionRule(minimum=4))[HIGH]
    assert places(finite) == [(1, 0), (0, 1), (0, 0)]  # (0, 2) never fires: its p95 is -inf
    assert finite.diff.tolist() == pytest.approx([0.55, 0.15, 0.05])
    assert finite.prob.tolist() == pytest.approx([0.8, 0.4, 0.8])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


ADDED = {(1, 0): 0.30 * sigmoid(4.0), (0, 1): 0.20 * 0.5, (0, 0): 0.50 * sigmoid(-1.0)}


def test_table_weights_and_caps() -> None:
    settings = SearchSettings(max_new_tokens=4, selection=SelectionRule(minimum=3))
    table = search_neurons(HandModel(), Tokenizer(), *texts(), settings)
    for (layer, neuron), value in ADDED.items():
        assert float(table.add[layer, HIGH.index, neuron]) == pytest.approx(value, rel=1e-5)
    assert float(table.add[1, LOW.index, 1]) == pytest.approx(2.99 * sigmoid(4.0), rel=1e-5)
    assert float(table.add[1, LOW.index, 2]) == pytest.approx(0.05 * sigmoid(-1.5), rel=1e-5)
    assert int((table.add != 0).sum()) == 5
    # towards E+ the neurons (1, 1) and (1, 2) of E- are capped; towards E- only (1, 0), as E- has none in layer 0
    high, low = 1 << HIGH.index, 1 << LOW.index
    assert table.clamp_mask.tolist() == [[0, 0, 0], [low, high, high]]


def test_steered_activations() -> None:
    settings = SearchSettings(max_new_tokens=4, selection=SelectionRule(minimum=3))
    found = search_neurons(HandModel(), Tokenizer(), *texts(), settings)
    one = torch.ones(1, dtype=torch.int32)
    anxious = PoleNeurons(one, one, torch.tensor([0.15]), torch.tensor([0.5]), torch.tensor([1.0]))  # (1, 1): adds 0.5
    table = SteeringTable({**found.neurons, ANXIOUS: anxious}, 2, 3)
    model = PersonalityModel.from_model(
        HandModel(), steering=table, calibration=Calibration({HIGH: 1.2, LOW: 1.2, ANXIOUS: 0.8})
    )
    ids = torch.tensor([[4], [4], [4], [1], [4]])
    people = [None, Personality("E+2.5"), Personality("E+5 N+5"), Personality("E-5"), Personality("E-5 N+2.5")]
    by_layer = model(ids, personality=people)[:, :, 0]

    bare = [[0.105, -0.2, -0.1], [-0.1, 3.5, 0.055]]
    half, full = 0.6, 1.2  # half the level is half the strength
    # E+: adds to (0, 0), (0, 1), (1, 0); caps (1, 1) from 3.5 and (1, 2) from .055 to 0
    gentle = [[0.105 + half * ADDED[0, 0], -0.2 + half * ADDED[0, 1], -0.1], [-0.1 + half * ADDED[1, 0], 0.0, 0.0]]
    # and N+ adds to what E+ has capped: 0 + .8 * .5, where adding first would leave 0
    strong = [[0.105 + full * ADDED[0, 0], -0.2 + full * ADDED[0, 1], -0.1], [-0.1 + full * ADDED[1, 0], 0.4, 0.0]]
    # E- on token 1: caps (1, 0) from .305, adds to (1, 1) and (1, 2)
    quiet = [[0.505, -0.1, -0.1], [0.0, -0.2 + full * 2.99 * sigmoid(4), 0.055 + full * 0.05 * sigmoid(-1.5)]]
    # E- and N+ add to the same neuron; what is below zero stays below the cap
    both = [bare[0], [-0.1, 3.5 + full * 2.99 * sigmoid(4) + 0.4 * 0.5, 0.055 + full * 0.05 * sigmoid(-1.5)]]
    for row, expected in enumerate((bare, gentle, strong, quiet, both)):
        torch.testing.assert_close(by_layer[:, row], torch.tensor(expected), rtol=1e-5, atol=1e-6)
