"""Stage tokens join the embeddings of every family, whatever is done behind them (factors, norms, positions), as in PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpg_fast import Personality, PersonalityModel
from dpg_fast.architecture.layers import UnsupportedArchitectureError, find_architecture
from dpg_fast.compat.peft import rewritten_names
from dpg_fast.compat.transformers_models import model_type
from dpg_fast.personified.train.tuned import add_stages
from tests.families.checks import error, values
from tests.families.registry import FAMILIES, SUPPORTED
from tests.model.characters import write_character

pytest.importorskip("peft", reason="PEFT writes the adapters and is the reference here")

GENERATING = [name for name in SUPPORTED if FAMILIES[name].generates and not FAMILIES[name].dense_only]
STAGED = [name for name in GENERATING if FAMILIES[name].stages]


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGED)
@torch.no_grad()
def test_a_stage_is_what_peft_computes(name: str, tmp_path: Path) -> None:
    base = FAMILIES[name].build()
    taken_for_experts = rewritten_names(
        model_type(base)
    )  # by PEFT, which would adapt those in the place of these layers
    sites = tuple(n for n in find_architecture(base).linears if n.rpartition(".")[2] not in taken_for_experts)
    rival = write_character(base, tmp_path / "ann", "ann", 1, targets=sites)
    model = PersonalityModel.from_model(base, characters={"ann": tmp_path / "ann"})
    person = Personality(character="ann", stage="early")
    rows = base.get_input_embeddings().num_embeddings
    ids = torch.randint(2, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    ids[0, 3] = model.stage_token_id(person)
    found = values(model(ids, personality=[person, None]))
    wanted, other = ids[:1].clone(), ids[:1].clone()
    wanted[0, 3], other[0, 3] = rows, rows + 1
    expected = values(rival(wanted))[..., :rows]
    assert error(found[:1], expected) < 1e-5
    assert error(values(rival(other))[..., :rows], expected) > 1e-2


@pytest.mark.parametrize("name", [name for name in GENERATING if not FAMILIES[name].stages])
def test_a_second_embedding_of_tokens_is_refused(name: str, tmp_path: Path, byte_tokenizer: object) -> None:
    """Its rows are no part of an adapter: what was trained could not be loaded."""
    base = FAMILIES[name].build()
    kinds = {kind: type(module) for kind, module in base.named_modules()}
    write_character(base, tmp_path / "ann", "ann", 1, targets=("down_proj",))
    with pytest.raises(UnsupportedArchitectureError, match="embed_tokens_per_layer looks up"):
        PersonalityModel.from_model(base, characters={"ann": tmp_path / "ann"})
    assert {kind: type(module) for kind, module in base.named_modules()} == kinds
    with pytest.raises(UnsupportedArchitectureError, match="have no stages"):
        add_stages(base, byte_tokenizer, ["early"])
    write_character(base, tmp_path / "bob", "bob", 2, stages={}, targets=("down_proj",))
    PersonalityModel.from_model(base, characters={"bob": tmp_path / "bob"}).unload()
