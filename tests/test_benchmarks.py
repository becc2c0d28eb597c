"""The kernel benchmarks in their quick form: real runs, and refusals of what is wrong or too large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import kernels as kernels_suite
from benchmarks import model_gpu, run, turns
from benchmarks.kernels import gated_case, npti, suite
from benchmarks.kernels.shapes import MODELS, Work, grid
from benchmarks.kernels.stats_op import moved
from benchmarks.kernels.way import sample_rows
from benchmarks.report import Absent, Result, markdown
from dpg_fast import HyperNetwork, kernels
from dpg_fast.kernels.testing import relative_error

QUICK = ["--suite", "kernels", "--quick", "--rounds", "2"]


def load(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "kernels_cpu.json").read_text())
    return content


@pytest.mark.slow
def test_every_op_is_timed_beside_its_baseline(tmp_path: Path) -> None:
    assert run.main([*QUICK, "--out", str(tmp_path)]) == 0
    found = load(tmp_path)
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in found["results"]:
        groups.setdefault(line["group"], []).append(line)
    assert {group.partition(",")[0] for group in groups} == set(suite.OPS)
    for group, lines in groups.items():
        assert lines[0]["ratio"] == 1.0, group
        ours = [line for line in lines if line["name"].startswith("dpg_fast")]
        assert ours, group
        for line in ours:
            assert line["error"] <= 1.5 and line["ratio"] > 0 and 0 < line["p10"] <= line["milliseconds"] <= line["p90"]
            assert line["bytes"] > 0 and line["flops"] > 0 and line["bandwidth"] > 0 and line["compute"] > 0
    assert not any(line["wrong"] for line in found["absent"])
    assert any(line["reason"] == "CUDA only" for line in found["absent"])
    assert {"copy bandwidth", "matrix product, bfloat16"} <= set(found["machine"])
    text = (tmp_path / "kernels_cpu.md").read_text()
    assert all(f"## {group}" in text for group in groups)
    assert "- vLLM's Triton kernels, stored adapters: CUDA only" in text


def test_groups_are_on_the_disk_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def lines(options: Any) -> Any:
        for group in ("a", "b", "c"):
            seen.append([line["group"] for line in load(tmp_path)["results"]] if list(tmp_path.iterdir()) else [])
            yield Result(group, "first", 1.0, 1.0)

    monkeypatch.setattr(kernels_suite, "run", lines)
    assert run.main([*QUICK, "--out", str(tmp_path)]) == 0
    assert seen == [[], [], ["a"]]  # b's first line ends a; c's first line will end b
    assert [line["group"] for line in load(tmp_path)["results"]] == ["a", "b", "c"]


@pytest.mark.parametrize("op", ["lora_add", "train_linear"])
def test_a_wrong_kernel_is_refused(op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.lora_add

    def wrong(y: torch.Tensor, x: torch.Tensor, A: torch.Tensor, *rest: Any) -> torch.Tensor:
        return right(y, x, 1.05 * A, *rest)

    monkeypatch.setattr(kernels, "lora_add", wrong)
    assert run.main([*QUICK, "--ops", op, "--tokens", "8", "--people", "1", "--out", str(tmp_path)]) == 1
    found = load(tmp_path)
    assert [line["name"] for line in found["absent"] if line["wrong"]] == ["dpg_fast"]
    assert not any(line["name"] == "dpg_fast" for line in found["results"])
    assert "- dpg_fast: WRONG, error" in (tmp_path / "kernels_cpu.md").read_text()


def test_counts_in_the_wrong_place_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = kernels.activation_stats

    def wrong(*args: Any) -> None:
        right(*args)
        args[-1].copy_(args[-1].roll(1, -1))

    monkeypatch.setattr(kernels, "activation_stats", wrong)
    assert run.main([*QUICK, "--ops", "activation_stats", "--people", "1"]) == 1
    assert "WRONG: activation_stats, tiny" in capsys.readouterr().err


def test_what_exceeds_the_budget_is_left_out(tmp_path: Path) -> None:
    large = ["--models", "llama3-8b", "--tokens", "8192", "--people", "1", "--ops", "lora_add", "--budget", "0.01"]
    assert run.main([*QUICK, *large, "--out", str(tmp_path)]) == 0
    found = load(tmp_path)
    assert found["results"] == []
    assert [line["name"] for line in found["absent"]] == ["all ways"]
    assert found["absent"][0]["reason"].startswith("left out: estimated ")


def test_a_rival_that_breaks_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("another version")

    monkeypatch.setattr("benchmarks.kernels.rivals.peft_linear", broken)
    op = suite.OPS["lora_add"]
    work = Work(MODELS["tiny"], "down", 8, 8, "float32", "cpu")
    found = {way.name: text for way, text in suite._check(op, op.make(work, 0), [w for w in op.ways(work) if w.build])}
    assert found["PEFT, 8 adapters in one batch"] == "cannot run here (TypeError: another version)"
    assert isinstance(found["dpg_fast"], tuple)


def test_npti_without_its_mask_is_our_op() -> None:
    work = Work(MODELS["tiny"], "mlp", 8, 1, "float32", "cpu")
    case = gated_case.make(work, 0)
    five = next(way for way in npti.ways(work) if way.same)
    assert five.to_check is not None and five.build is not None
    expected = kernels.steered_gated_act(case.gate, case.up, "silu", steering=case.steering)
    assert relative_error(five.to_check(case)(), expected) < 1e-6
    torch.manual_seed(0)
    assert relative_error(five.build(case)(), expected) > 1e-4  # a tenth of the neurons is left out


def test_grid_has_no_more_people_than_tokens() -> None:
    points = [(w.tokens, w.people) for w in grid(["tiny"], ["q"], [1, 8, 2048], [1, 8, 64], ["float32"], "cpu")]
    assert points == [(1, 1), (8, 1), (8, 8), (2048, 1), (2048, 8), (2048, 64)]
    prompts = Work(MODELS["tiny"], "q", 2048, 64, "float32", "cpu")
    assert prompts.rows == 64 and prompts.sizes == (64, 64)


def test_sampled_rows_reach_both_ends() -> None:
    rows = sample_rows(8192, "cpu")
    assert len(rows) == len(rows.unique()) == 256 and rows[0] == 0 and rows[-1] == 8191
    assert sample_rows(3, "cpu").tolist() == [0, 1, 2]


def test_moved_counts() -> None:
    exact = torch.tensor([100_000, 100_000])
    shifted = torch.tensor([99_990, 100_010])
    assert moved(exact, exact, exact) == 0
    assert moved(shifted, shifted, exact) == 1
    assert moved(shifted, exact, exact) == 5


@pytest.mark.slow
def test_model_suite_in_its_gpu_form(tmp_path: Path) -> None:
    assert run.main(["--suite", "model", "--quick", "--rounds", "1", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "model_cpu.json").read_text())
    groups: dict[str, dict[str, float]] = {}
    for line in found["results"]:
        groups.setdefault(line["group"].split(", ")[1], {})[line["name"]] = line["ratio"]
    assert set(groups) == {"decode step", "prefill of 16 tokens", "training step"}
    assert groups["decode step"]["bare model"] == 1.0
    assert "dpg_fast, 4 personalities: bank + neurons" in groups["decode step"]
    assert "PEFT rank 4, 4 adapters in one batch (eager)" in groups["decode step"]
    assert "dpg_fast, 4 personalities" in groups["training step"]
    assert found["absent"] == []


def test_model_check_refuses_a_wrong_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    right = HyperNetwork.materialise

    def wrong(self: HyperNetwork, item: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {name: (1.05 * A, B) for name, (A, B) in right(self, item).items()}

    model_gpu.check("cpu", model_gpu.Settings.tiny())
    monkeypatch.setattr(HyperNetwork, "materialise", wrong)
    with pytest.raises(RuntimeError, match="differs from merged weights"):
        model_gpu.check("cpu", model_gpu.Settings.tiny())


def test_markdown_of_the_model_suite_keeps_its_form() -> None:
    lines = [
        Result("g", "bare", 2.0, 1.0, 1.0, 1.0),
        Result("g", "way", 2.5, 1.25, 1.2, 1.3),
        Absent("g", "PEFT", "none"),
    ]
    text = markdown("Suite model", {"device": "x"}, lines, ["note"])
    assert "| way | 2.50 | 1.25 | 1.20 - 1.30 |\n\n- PEFT: none\n" in text


def test_ways_are_timed_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []

    def way(name: str, work: int) -> None:
        calls.append(name)
        sum(range(work))

    names = {"short": 20_000, "long": 2_000_000}
    ways = {name: (lambda name=name, work=work: way(name, work)) for name, work in names.items()}
    times = turns.processor_seconds(ways, 3)
    assert calls == ["long", "short", "short", "long", "long", "short", "short", "long"]  # the first two warm up
    assert all(len(seconds) == 3 for seconds in times.values()) and min(times["long"]) > max(times["short"])
    turns.print_ratios("title", times, "short")
    assert "1.000 of short [1.000, 1.000]" in capsys.readouterr().out
