"""The counted launches and bytes of a decode step: the promise that a personality costs no launch of its own."""

from __future__ import annotations

import pytest

from benchmarks.launches import main, per_layer, traffic
from benchmarks.model_gpu import Settings


def test_launches_of_a_layer_and_bytes_at_the_floor() -> None:
    """Llama-3-8B's structure with bank and steering: at most 32 launches a layer, fewer than the bare model's."""
    settings = Settings()
    bare = per_layer(settings, 64, lora=False, steer=False)
    ours = per_layer(settings, 64, lora=True, steer=True)
    assert ours.total() <= 32 < bare.total()
    assert bare["mm"] == 7 and ours["mm"] == 4
    assert {name: ours[name] for name in ours if name not in bare} == {
        "add_rmsnorm": 2,
        "lora_combine": 1,
        "lora_stacked_add_": 3,
        "steered_gated_act": 1,
    }
    moved = traffic(settings, 64)
    assert moved.weights == 2 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336)
    assert moved.ratio == pytest.approx(1.036, abs=5e-4)


def test_steering_alone_and_one_row() -> None:
    settings = Settings()
    for rows, lora in ((1, True), (64, False)):
        assert per_layer(settings, rows, lora=lora, steer=True).total() <= 32


def test_the_command_prints_the_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--hidden", "128", "--mlp", "256", "--heads", "4", "--kv-heads", "4", "--rows", "2", "--rank", "4"])
    printed = capsys.readouterr().out
    assert "launches" in printed and "ours to bare:" in printed
    with pytest.raises(SystemExit):
        main(["--heads", "6", "--kv-heads", "4"])
