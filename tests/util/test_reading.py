"""The one way in: what is read, what is refused, and that the place is named."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dpg_fast.hypernet.peft_io import PeftFormatError, _Patterns
from dpg_fast.neurons import SteeringTable
from dpg_fast.util import reading
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_tensors


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_their_marks(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes('{"a": "ä\u2028"}\n\n{"a": 2}\n'.encode(encoding))
    assert list(reading.json_lines(file)) == [("a.jsonl, line 1", {"a": "ä\u2028"}), ("a.jsonl, line 3", {"a": 2})]
    file.write_bytes('{"a": [1, "ä"]}'.encode(encoding))
    assert reading.read_json(file) == reading.read_yaml(file) == {"a": [1, "ä"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested more than 64 levels"),
        (b"[" * 70 + b"]" * 70, "nested more than 64 levels"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
        (b'{"a": 1,\n "b" 2}', "line 2: not JSON"),
        (b"\xff", "not UTF-8 text"),
        (b"1" * 5000, "digits"),
        (b"", "line 1: not JSON"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(DPGError, match=rf"a\.json.*{message}"):
        reading.read_json(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [*a]", "line 1: YAML aliases"),
        ("a: &a [1]\nb: *a", "line 2: YAML aliases"),
        ("[" * 1000, "nested more than 64 levels"),
        ("a: .nan", "not a finite number"),
        ("a: 2020-99-99", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("x" * (1 << 21), "too large"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(content)
    started = time.monotonic()
    with pytest.raises(DPGError, match=rf"a\.yaml.*{message}"):
        reading.read_yaml(file)
    assert time.monotonic() - started < 5


def test_gzip_is_unpacked_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.json.gz"
    file.write_bytes(gzip.compress(b"[1]"))
    assert reading.read_json(file, unpack=True) == [1]
    file.write_bytes(gzip.compress(b" " * 5_000_000))
    with pytest.raises(DPGError, match=r"a\.json\.gz is too large"):
        reading.read_bytes(file, 1_000_000, unpack=True)
    file.write_bytes(gzip.compress(b"[1]")[:-3])
    with pytest.raises(DPGError, match="damaged gzip"):
        reading.read_bytes(file, unpack=True)


@pytest.mark.parametrize(
    "read", [reading.read_json, reading.read_yaml, reading.read_tensors, lambda p: list(reading.json_lines(p))]
)
def test_pipes_and_folders_are_refused_at_once(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DPGError, match="pipe is not a regular file"):
        read(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")


def test_tensors_are_compared_before_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    write_tensors(file, {"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.zeros(2)})
    wanted = {"a": torch.empty(2, 3, device="meta"), "b": torch.empty(2, device="meta")}
    found = reading.read_tensors(file, wanted)
    assert found["a"].dtype == torch.float32 and found["a"].eq(1).all()
    for change, message in (
        ({"a": torch.empty(3, 3, device="meta")}, r"a has shape \[2, 3\], not \[3, 3\]"),
        ({"c": torch.empty(1)}, "missing: c"),
        ({"a": torch.empty(2, 3, dtype=torch.int32, device="meta")}, "a is torch.bfloat16, not torch.int32"),
    ):
        with pytest.raises(DPGError, match=rf"w\.safetensors: .*{message}"):
            reading.read_tensors(file, wanted | change)
    with pytest.raises(DPGError, match=r"above 0\.5"):
        reading.read_tensors(file, largest=0.5)
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DPGError, match="or only a part of one"):
        reading.read_tensors(file)


def test_sizes_of_a_table_are_compared_before_memory_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "neurons.safetensors"
    about = '{"schema": "dpg_fast.neurons/1", "num_layers": 200000, "intermediate": 200000}'
    save_file({"x": torch.zeros(1)}, file, {"dpg_fast": about})
    with pytest.raises(DPGError, match="200000 layers of 200000 neurons are more than any model has"):
        SteeringTable.load(file)
    with pytest.raises(DPGError, match="and the model has 2 of 3"):
        SteeringTable.load(file, (2, 3))


@pytest.mark.parametrize(
    "pattern", ["(q+)+x", "(a|a)*b", "(.*)+", "a{1000}", "(?=a)", r"(a)\1", "a*b*c*d*", "x" * 300, "(", "["]
)
def test_patterns_that_could_run_for_ever_are_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(PeftFormatError, match=r"adapter_config\.json: rank_pattern"):
        _Patterns({"rank_pattern": {pattern: 4}}, "rank_pattern", tmp_path)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("q_proj", True),
        ("layers.0.self_attn.q_proj", True),
        (r"layers\.[0-3]\..*q_proj", True),
        ("^model.*", True),
        ("k_proj|q_proj", True),
        ("proj", False),
    ],
)
def test_patterns_match_as_in_peft(tmp_path: Path, pattern: str, matches: bool) -> None:
    found = _Patterns({"rank_pattern": {pattern: 4}}, "rank_pattern", tmp_path)
    assert found.of("model.layers.0.self_attn.q_proj", 8) == (4 if matches else 8)
    assert found.of("q" * 200, 8) == 8
