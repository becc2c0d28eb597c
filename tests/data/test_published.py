from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from dpg_fast.data.questions import published
from dpg_fast.data.questions.published import PinnedFile, check_bytes, fetch_file, fetch_personalitybench
from dpg_fast.evaluation.witnesses.statements import load_statements
from dpg_fast.personality.scores import Trait
from dpg_fast.text.assets import load_personalitybench


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_checksums(tmp_path: Path) -> None:
    assert check_bytes(b"abc", sha(b"abc")) and not check_bytes(b"abd", sha(b"abc"))
    (tmp_path / "f").write_bytes(b"some\r\nbytes\x00")
    found = subprocess.run(["git", "hash-object", "--no-filters", "f"], cwd=tmp_path, capture_output=True, text=True)
    assert check_bytes(b"some\r\nbytes\x00", "git:" + found.stdout.strip())
    for bad in ("md5:00", "sha256:00", "git:" + "x" * 40, ""):
        with pytest.raises(ValueError, match="checksum"):
            check_bytes(b"", bad)


def test_a_file_is_fetched_once_and_checked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    target = tmp_path / "cache" / "file"
    assert fetch_file(source.as_uri(), target, sha(b"hello")).read_bytes() == b"hello"
    source.unlink()
    fetch_file(source.as_uri(), target, sha(b"hello"))  # it is there
    with pytest.raises(ValueError, match="remove or rename"):
        fetch_file(source.as_uri(), target, sha(b"other"))
    source.write_bytes(b"changed")
    with pytest.raises(ValueError, match="7 bytes that came do not have"):
        fetch_file(source.as_uri(), tmp_path / "new", sha(b"hello"))
    assert not (tmp_path / "new").exists()


def test_without_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with pytest.raises(OSError, match=r"without network put it at .*file"):
        fetch_file("http://127.0.0.1:9/file", target, sha(b""))
    assert not target.exists()


def test_the_folder_is_one_the_loader_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, files = tmp_path / "home", []
    (home / "test").mkdir(parents=True)
    for trait in Trait:
        name = trait.value.capitalize()
        data = f'{{"question": "{name} \u2028?"}}\n'.encode()
        (home / "test" / f"{name}.json").write_bytes(data)
        files.append(PinnedFile(f"test/{name}.json", f"{name}.jsonl", sha(data)))
    keys = [f'"{t.value.capitalize()}{end}": "You."' for t in Trait for end in ("", "_reversed")]
    data = ("{" + ", ".join(keys) + "}").encode()
    (home / "description.json").write_bytes(data)
    monkeypatch.setattr(published, "TEST_FILES", tuple(files))
    monkeypatch.setattr(published, "DESCRIPTIONS", PinnedFile("description.json", "descriptions.jsonl", sha(data)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = fetch_personalitybench(base_url=home.as_uri())
    assert folder.is_relative_to(tmp_path / "cache")
    assert load_personalitybench(folder).questions[Trait.OPENNESS] == ("Openness \u2028?",)
    with pytest.raises(ValueError, match="test or search"):
        fetch_personalitybench(tmp_path, part="all")  # type: ignore[arg-type]


def test_statements_are_fetched_into_a_folder_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, files = tmp_path / "home", []
    home.mkdir()
    for trait in Trait:
        data = b'{"statement": "I am so.", "answer_matching_behavior": " Yes"}\n'
        (home / f"{trait.value}.jsonl").write_bytes(data)
        files.append(PinnedFile(f"{trait.value}.jsonl", f"{trait.value}.jsonl", sha(data)))
    monkeypatch.setattr(published, "STATEMENT_FILES", tuple(files))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = published.fetch_persona_statements(base_url=home.as_uri())
    assert folder == published.statements_folder() and folder.is_relative_to(tmp_path / "cache")
    assert [one.text for one in load_statements(folder)] == ["I am so."] * 5
    with pytest.raises(OSError, match="put it at"):
        published.fetch_persona_statements(tmp_path / "other", base_url=(tmp_path / "nothing").as_uri())


def test_the_pins_are_whole() -> None:
    for pins in (published.TEST_FILES, published.SEARCH_FILES, published.STATEMENT_FILES):
        assert [pin.name.lower() for pin in pins] == [f"{t.value}.jsonl" for t in Trait]
        assert len({pin.checksum for pin in pins}) == 5
        for pin in (*pins, published.DESCRIPTIONS):
            assert not check_bytes(b"anything else", pin.checksum)
