"""Models over two pretend devices equal the same models on one. Run as a program: ``python -m tests.model.on_two_devices``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model
from torch import Tensor, nn

from dpg_fast import Character, Description, HypernetConfig, Personality, PersonalityModel
from tests.model import twin_devices
from tests.model.characters import write_character
from tests.model.test_wrapper import random_table
from tests.model.tiny import prompts, tiny_model
from tests.model.variants import SMALL, VARIANTS, personality_model

ROWS = ["E+5 N-2", "E-5", None]
OTHERS = ["O+4", None, "N+3 E+1"]


def spread(first: str = "twin:0", second: str = "twin:1", *, by_hand: bool = False) -> Any:
    """A tiny model with one layer on ``first`` and two on ``second``, hooked by accelerate; or moved by hand."""
    model = tiny_model("llama")
    if by_hand:  # hooks of torch move what goes from layer to layer, as some pipelines do
        parts = [*model.model.layers[1:], model.model.norm, model.lm_head]
        for part in parts:
            part.to(second)
            part.register_forward_pre_hook(_mover(torch.device(second)), with_kwargs=True)
        return model
    of = {"model.embed_tokens": first, "model.rotary_emb": first, "model.layers.0": first}
    of |= {"model.layers.1": second, "model.layers.2": second, "model.norm": second, "lm_head": second}
    return dispatch_model(model, of, main_device=first, skip_keys=model._skip_keys_device_placement)


def _mover(device: torch.device) -> Any:
    def move(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return torch.utils._pytree.tree_map(lambda v: v.to(device) if isinstance(v, Tensor) else v, (args, kwargs))

    return move


def close(given: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(given.cpu(), expected, rtol=1e-4, atol=1e-4, msg=lambda text: f"{what}: {text}")


def compare(name: str, plain: PersonalityModel, model: PersonalityModel, rows: list[Any], others: list[Any]) -> None:
    """Forward, padded and cached generation, a static cache, packed rows, and personalities changed in place."""
    ids, mask = prompts(len(rows), 7), torch.ones(len(rows), 7, dtype=torch.long)
    ids[0, :3] = mask[0, :3] = 0
    there, there_mask = ids.to(model.device), mask.to(model.device)
    devices = {p.device for p in model.base.parameters()}
    assert len(devices) == 2, devices
    with torch.no_grad():
        expected = plain(ids, attention_mask=mask, personality=rows).logits
        close(model(there, attention_mask=there_mask, personality=rows).logits, expected, name)
        bare = plain(ids, attention_mask=mask).logits
        assert (expected - bare)[0].abs().max() > 0.01, f"{name}: without effect"
        close(model(there, attention_mask=there_mask).logits, bare, f"{name}, no personality")
        start = torch.tensor([2] * len(rows))
        late = plain(ids, attention_mask=mask, personality=rows, steer_from=start).logits
        close(
            model(there, attention_mask=there_mask, personality=rows, steer_from=start).logits, late, f"{name}, later"
        )
    for extra in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
        wanted = plain.generate(ids, attention_mask=mask, personality=rows, max_new_tokens=4, do_sample=False, **extra)
        found = model.generate(
            there, attention_mask=there_mask, personality=rows, max_new_tokens=4, do_sample=False, **extra
        )
        assert found.tolist() == wanted.tolist(), f"{name}: {extra}"
    if any(getattr(row, "stage", None) for row in rows):
        return
    with plain.speaking(rows, len(rows)) as one, model.speaking(rows, len(rows)) as two, torch.no_grad():
        assert one.change(others)
        assert two.change(others)
        close(model.base(there).logits, plain.base(ids).logits, f"{name}, changed")
        many = [Personality(extraversion=score / 40, openness=1) for score in range(100)]
        for part in range(0, 100, len(rows)):  # more than there are slots: others are overwritten on every device
            asked = (many[part : part + len(rows)] + many)[: len(rows)]
            if name not in ("characters",):
                close(model(there, personality=asked).logits, plain(ids, personality=asked).logits, f"{name}, {part}")
        close(model.base(there).logits, plain.base(ids).logits, f"{name}, still")


def gradients(model: PersonalityModel, ids: Tensor) -> list[Tensor]:
    assert model.hypernet is not None
    model.zero_grad()
    model(ids, labels=ids, personality=ROWS).loss.backward()
    return [p.grad.cpu() for p in model.hypernet.parameters() if p.grad is not None]


def tokenizer(text: str, return_tensors: str) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[ord(letter) % 90 + 3 for letter in text]])}


def main() -> None:
    twin_devices.install()
    table = random_table(3, 72)

    def steered(base: Any) -> PersonalityModel:
        return PersonalityModel.from_model(base, steering=table)

    for name in ("scores", "wide"):
        compare(
            name,
            personality_model(tiny_model("llama"), None, VARIANTS[name]),
            personality_model(spread(), None, VARIANTS[name]),
            ROWS,
            OTHERS,
        )
    compare("neurons", steered(tiny_model("llama")), steered(spread()), ROWS, OTHERS)
    compare("by hand", steered(tiny_model("llama")), steered(spread("cpu", "twin:1", by_hand=True)), ROWS, OTHERS)
    text = personality_model(tiny_model("llama"), tokenizer, VARIANTS["text"])
    there = personality_model(spread(), tokenizer, VARIANTS["text"])
    there.hypernet.load_state_dict(text.hypernet.state_dict())  # type: ignore[union-attr]
    compare("descriptions", text, there, [Description("a shy man"), None], [None, Description("loud")])

    with tempfile.TemporaryDirectory() as folder:
        base = tiny_model("llama")
        for number, who in enumerate(("Anna", "Ben")):
            write_character(base, Path(folder) / who, who, number)
        tuned = {who: Path(folder) / who for who in ("Anna", "Ben")}
        rows: list[Any] = [Character("Anna"), Character("Ben"), None]
        plain = PersonalityModel.from_model(base, characters=tuned)
        compare("characters", plain, PersonalityModel.from_model(spread(), characters=tuned), rows, rows[::-1])

    config = HypernetConfig(**SMALL)
    for changes in ({}, {"head": "wide"}):
        config = HypernetConfig(**{**SMALL, **changes})
        plain = personality_model(tiny_model("llama"), None, config)
        model = personality_model(spread("cpu", "twin:0"), None, config)
        ids = prompts(3, 6)
        for checkpointed in (False, True):
            if checkpointed:
                plain.gradient_checkpointing_enable()
                model.gradient_checkpointing_enable()
                plain.train(), model.train()
            for mine, theirs in zip(gradients(model, ids), gradients(plain, ids), strict=True):
                close(mine, theirs, f"gradient {changes}")
    split = spread()
    split.model.layers[1].mlp.up_proj.to("twin:0")
    try:
        steered(split)
    except ValueError as error:
        assert "model.layers.1.mlp is split over devices" in str(error), error
    else:
        raise AssertionError("a split MLP was accepted")
    print("all equal")


if __name__ == "__main__":
    main()
