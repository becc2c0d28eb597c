"""The load generator for servers, on a real one with a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.serving.__main__ import main, read_targets
from benchmarks.serving.load import people
from tests.model.test_wrapper import personality_model

openai = pytest.importorskip("openai")
running = pytest.importorskip("tests.server.running").running


@pytest.fixture
def url(tiny_llama: Any, byte_tokenizer: Any) -> Iterator[str]:
    with running(personality_model(tiny_llama), byte_tokenizer) as held:
        yield f"{held.url}/v1"


@pytest.mark.parametrize("rate", [[], ["--rate", "200"]], ids=["closed", "open"])
def test_rounds_and_failures_are_counted(url: str, rate: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--target", f"plain={url}", "--target", f"one={url}#tiny@E+4", "--target", f"bad={url}#tiny@E+9"]
    status = main([*asked, "--rounds", "2", "--requests", "6", "--concurrency", "3", "--tokens", "3", *rate])
    printed = capsys.readouterr().out
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in printed.splitlines()
        if "|" in line
    }
    assert status == 1 and "BadRequestError" in printed and "out of range" in printed
    assert rows["plain"][1] == "1.00 (1.00 to 1.00)" and float(rows["plain"][0]) > 0
    assert rows["plain"][-1] == rows["one"][-1] == "0" and rows["bad"][-1] == str(3 + 2 * 6)
    assert rows["bad"][4] == "nan, nan" and float(rows["one"][4].split(",")[0]) > 0


def test_a_thousand_personalities_differ() -> None:
    assert len(set(people("m", 1000))) == 1000 and people("m", 0) == ("m",)


@pytest.mark.parametrize("target", ["http://a", "a=ftp://b", "=http://b"])
def test_unreadable_targets_are_refused(target: str) -> None:
    with pytest.raises(SystemExit):
        read_targets([target])
