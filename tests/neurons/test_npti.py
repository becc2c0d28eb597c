"""Published lists: reading, reporting, writing back, and which base model they are put on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from dpg_fast import PersonalityModel
from dpg_fast.cli.app import app
from dpg_fast.model.disk import artifact
from dpg_fast.neurons import SteeringTable
from dpg_fast.neurons.npti import export_lists, file_name, find_files, import_lists, pole_of_name, to_json
from dpg_fast.personality.scores import POLES, Personality, Pole
from tests.support.shared import shared_data

HIGH, LOW = Pole.parse("E+"), Pole.parse("E-")
PER_LAYER = {
    HIGH: "106,186,116,585,525,368,430,527,586,647,675,675,592,845,743,758,790,841,1010,1080,1015,990,979,1151,1216,1337,"
    "1270,1250,1208,1519,1591,1816",
    LOW: "98,64,68,400,446,346,529,599,659,729,791,803,807,1115,1203,1105,1083,1183,1271,1261,1163,1123,958,887,801,795,"
    "732,545,639,782,699,835",
}
#: a file as published: layers by their best neuron, rows by descending diff
LISTS = {
    HIGH: {"1": [[1, 3, 0.5, 0.75, 3.25], [1, 0, 0.125, 0.5, 0.0]], "0": [[0, 2, 0.25, 0.5, 0.5]]},
    LOW: {"0": [[0, 1, 0.25, 0.5, 0.25]]},
}


def published() -> Path:
    """The folder of published lists."""
    return shared_data("npti_llama3_8b_instruct")


def write(folder: Path, lists: dict[Pole, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for pole, content in lists.items():
        (folder / file_name(pole)).write_text(json.dumps(content, indent=4))
    return folder


def read(folder: Path) -> tuple[SteeringTable, list[Any]]:
    return import_lists(find_files([str(folder)]), 2, 4)


def test_published_lists_in_and_out_without_loss(tmp_path: Path) -> None:
    folder = published()
    table, reports = import_lists(find_files([str(folder)]), 32, 14336)
    assert [(r.pole, r.listed, r.kept) for r in reports] == [("E+", 27427, 27427), ("E-", 24519, 24519)]
    for report in reports:
        assert (report.not_finite, report.rounded, report.reordered) == ({}, 0, False)
    assert [r.above_histogram for r in reports] == [3, 2]
    for pole, expected in PER_LAYER.items():
        assert table.counts_per_layer()[pole].tolist() == [int(n) for n in expected.split(",")]
        assert float(table.neurons[pole].diff.min()) >= 0.1
    table.save(tmp_path / "neurons.safetensors")
    again = SteeringTable.load(tmp_path / "neurons.safetensors")
    for path in export_lists(again, tmp_path / "back"):
        original = gzip.decompress((folder / f"{path.name}.gz").read_bytes())
        assert path.read_bytes() == original, "the published bytes did not come back"
    assert again.origin == table.origin


@pytest.mark.parametrize("compress", [False, True])
def test_small_lists_round_trip(compress: bool, tmp_path: Path) -> None:
    table, reports = read(write(tmp_path / "in", LISTS))
    assert table.neurons[HIGH].layer.tolist() == [1, 0, 1]
    assert table.neurons[HIGH].diff.tolist() == [0.5, 0.25, 0.125]
    assert (reports[0].above_histogram, reports[0].largest_p95) == (1, 3.25)
    paths = export_lists(table, tmp_path / "out", compress=compress)
    assert {pole_of_name(path.name) for path in paths} == {HIGH, LOW}
    back, _ = read(tmp_path / "out")
    for pole, content in LISTS.items():
        assert to_json(back.neurons[pole]) == content
        assert list(to_json(back.neurons[pole])) == list(content)


def test_what_cannot_be_used_is_reported(tmp_path: Path) -> None:
    text = (
        '{"0": [[0, 0, 0.2, 0.4, 0.3], [0, 1, 0.3, 0.4, -Infinity], [0, 2, 0.25, 0.4, Infinity]],'
        ' "1": [[1, 0, NaN, 0.4, NaN], [1, 1, 0.1, 0.2, 0.5], [1, 3, 0.15, 0.5, 0.5]]}'
    )
    (tmp_path / "Extraversion_dict.json").write_text(text)
    table, (report,) = read(tmp_path)
    assert (report.listed, report.kept) == (6, 3)
    assert report.not_finite == {"p95 -Infinity": 1, "p95 Infinity": 1, "diff NaN": 1, "p95 NaN": 1}
    assert report.rounded == 3  # 0.2 is no float32
    assert report.reordered
    assert table.neurons[HIGH].neuron.tolist() == [0, 3, 1]
    assert torch.isfinite(table.add).all()
    arguments = [
        "neurons",
        "import",
        "--out",
        str(tmp_path / "a"),
        "--trait-file",
        str(tmp_path),
        "--base-model",
        "x/y",
    ]
    arguments += ["--num-layers", "2", "--intermediate-size", "4"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    for words in ("6 neurons listed, 3 taken", "1 left out: p95 -Infinity", "3 rounded", "not by descending diff"):
        assert words in result.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object of layers"),
        ('{"0": 1}', "a list of rows"),
        ('{"0": [[0, 1, 0.2, 0.3]]}', r"is not \[layer, neuron, diff, prob, p95\]"),
        ('{"0": [[0, 1.5, 0.2, 0.3, 0.1]]}', "is not"),
        ('{"0": [[0, 1, "0.2", 0.3, 0.1]]}', "is not"),
        ('{"0": [[0, 1, 0.2, 1.3, 0.1]]}', "no .difference of. probabilities"),
        ('{"0": [[1, 1, 0.2, 0.3, 0.1]]}', "a row says layer 1"),
        ('{"0": [[0, 1, 0.2, 0.3, 0.1], [0, 1, 0.1, 0.3, 0.1]]}', "listed twice"),
        ('{"2": [[2, 1, 0.2, 0.3, 0.1]]}', "outside this model"),
    ],
)
def test_other_content_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "Extraversion_dict.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_files_are_found_by_name(tmp_path: Path) -> None:
    write(tmp_path, {pole: {} for pole in POLES})
    assert set(find_files([str(tmp_path)])) == set(POLES)
    odd = tmp_path / "lists.json"
    odd.write_text("{}")
    assert find_files([f"N-={odd}"]) == {Pole.parse("N-"): odd}
    assert find_files([str(tmp_path / "Openness_reversed_dict.json")]).keys() == {Pole.parse("O-")}
    with pytest.raises(ValueError, match="lists_not_there: no such file or folder"):
        find_files([str(tmp_path / "lists_not_there")])
    with pytest.raises(ValueError, match="which pole"):
        find_files([str(odd)])
    with pytest.raises(ValueError, match="two files"):
        find_files([str(tmp_path), f"E+={odd}"])
    with pytest.raises(ValueError, match="no such file or folder"):
        find_files([str(tmp_path / "Neuroticism_dict.json.gz")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no <Trait>_dict"):
        find_files([str(tmp_path / "empty")])


def model(name: str, **changes: int) -> LlamaForCausalLM:
    sizes = {"hidden_size": 8, "intermediate_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2} | changes
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes)).eval()
    made.config._name_or_path = name
    return made


def test_imported_lists_go_by_name_and_sizes(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    arguments = ["neurons", "import", "--out", str(adapter), "--trait-file", str(write(tmp_path / "in", LISTS))]
    arguments += ["--base-model", "Someone/Tiny", "--num-layers", "2", "--intermediate-size", "4", "--strength", "1.4"]
    assert CliRunner().invoke(app, arguments).exit_code == 0

    for name in ("Someone/Tiny", "someone/tiny", "/models/Tiny", "/hub/models--Someone--Tiny/snapshots/0a1b"):
        wrapped = PersonalityModel.load(model(name), adapter)
        assert wrapped.calibration.strengths(Personality("E+5"))[HIGH.index] == 1.4
        wrapped.unload()
    for name in ("Someone/Tiny-2", "Other/Tiny-chat", "/models/Tiny/tuned", ""):
        with pytest.raises(ValueError, match="goes by the name 'Someone/Tiny'"):
            PersonalityModel.load(model(name), adapter)
    other = PersonalityModel.load(model("Someone/Tiny-2"), adapter, allow_mismatch=True)
    ids = torch.tensor([[1, 2, 3]])
    steered = other(ids, personality="E+5").logits
    assert not torch.equal(steered, other(ids).logits)
    other.save_pretrained(tmp_path / "again")  # with the base at hand, its weights are sampled from then on
    assert artifact.read_config(tmp_path / "again")["base_model"]["fingerprint"]["weights"]
    other.unload()

    for changes in ({"num_hidden_layers": 3}, {"intermediate_size": 8}):
        with pytest.raises(ValueError, match="made for"):
            PersonalityModel.load(model("Someone/Tiny", **changes), adapter)
        with pytest.raises(ValueError, match="2 layers of 4 neurons"):
            PersonalityModel.load(model("Someone/Tiny", **changes), adapter, allow_mismatch=True)


def test_import_can_sample_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpg_fast.util.models.load_base", lambda name: (model(name), None))
    arguments = ["neurons", "import", "--out", str(tmp_path / "a"), "--trait-file", str(write(tmp_path / "in", LISTS))]
    arguments += ["--base-model", "Someone/Tiny", "--fingerprint-from", "/elsewhere/copy"]
    assert CliRunner().invoke(app, [*arguments, "--num-layers", "2", "--intermediate-size", "4"]).exit_code == 0
    PersonalityModel.load(model("any name"), tmp_path / "a")
    changed = model("Someone/Tiny")
    with torch.no_grad():
        changed.model.layers[0].mlp.gate_proj.weight.mul_(1.5)
    with pytest.raises(ValueError, match="weights differ"):
        PersonalityModel.load(changed, tmp_path / "a")
    result = CliRunner().invoke(
        app, [*arguments, "--num-layers", "3", "--intermediate-size", "4"], env={"COLUMNS": "300"}
    )
    assert result.exit_code == 2
    assert "num_hidden_layers is 2" in result.output
    result = CliRunner().invoke(app, [*arguments[:6], "--num-layers", "2"], env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert "does not have" in result.output  # the published lists' model has 32 layers


def test_info_and_export_of_an_adapter(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    adapter, out = str(tmp_path / "adapter"), tmp_path / "out"
    sizes = ["--base-model", "Someone/Tiny", "--num-layers", "2", "--intermediate-size", "4"]
    runner = CliRunner()
    folder = str(write(tmp_path / "in", LISTS))
    assert runner.invoke(app, ["neurons", "import", "--out", adapter, "--trait-file", folder, *sizes]).exit_code == 0
    shown = runner.invoke(app, ["neurons", "info", adapter, "--plots", str(out)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for words in ("Someone/Tiny", "Neurons per layer", "3 neurons listed, 3 taken", "1 for every pole", "largest 3.25"):
        assert words in shown.output
    pictures = sorted(path.name for path in out.iterdir())
    assert pictures == ["neuron_overlap.png", "neuron_values.png", "neurons_per_layer.png"]
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    found = json.loads(runner.invoke(app, ["neurons", "info", adapter, "--json"]).output)
    assert found["per_layer"] == {"E+": [1, 2], "E-": [1, 0]}
    assert found["overlap"][HIGH.index][HIGH.index] == 3
    assert found["values"]["E-"]["p95"] == [0.25] * 5
    assert runner.invoke(app, ["neurons", "export", adapter, "--out", str(tmp_path / "back"), "--gzip"]).exit_code == 0
    back = json.loads(gzip.decompress((tmp_path / "back" / "Extraversion_dict.json.gz").read_bytes()))
    assert back == LISTS[HIGH]
    shipped = runner.invoke(app, ["neurons", "info"], env={"COLUMNS": "200"})
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in shipped.output
    assert runner.invoke(app, ["neurons", "info", str(tmp_path)]).exit_code == 2
