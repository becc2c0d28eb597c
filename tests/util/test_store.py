"""The store that long jobs continue from, and the check that it is the same job."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpg_fast.util.identity import claim, differences
from dpg_fast.util.store import Store, read_rows

#: line ends of Unicode that end no line of JSON Lines, and a character of four bytes
STRANGE = "one\u2028two\u2029three\x85four\x0bfive\x1csix \U0001f600"


def test_texts_come_back_whatever_they_hold(tmp_path: Path) -> None:
    with Store(tmp_path / "new" / "s.jsonl", {"job": STRANGE}, ("id",)) as first:
        first.append([{"id": STRANGE, "text": STRANGE}, {"id": "b", "text": "\r\n"}])
    with Store(tmp_path / "new" / "s.jsonl", {"job": STRANGE}, ("id",)) as again:
        assert again.rows == first.rows and again[(STRANGE,)]["text"] == STRANGE and ("b",) in again
    assert list(read_rows(tmp_path / "new" / "s.jsonl")) == list(first.rows.values())
    assert list(read_rows(tmp_path / "nothing.jsonl")) == []


def test_a_line_left_unfinished_is_dropped_and_written_again(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    with Store(file, {}, ("id",)) as store:
        store.append([{"id": 1, "text": "ä\u2028"}])
    whole = file.read_bytes()
    for cut in range(1, 12):  # also in the middle of a character
        file.write_bytes(whole + '{"id": 2, "ü\u2028'.encode()[:cut])
        assert list(Store(file, {}, ("id",), read_only=True).rows) == [(1,)] and len(file.read_bytes()) > len(whole)
        with Store(file, {}, ("id",)) as again:
            assert list(again.rows) == [(1,)] and file.read_bytes() == whole
    with Store(file, {}, ("id",)) as again:
        again.append([{"id": 2}, {"id": 1, "text": "new"}])
    assert Store(file, {}, ("id",)).rows == {(1,): {"id": 1, "text": "new"}, (2,): {"id": 2}}


def test_a_first_line_left_unfinished_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    Store(file, {"a": 1}, ("id",)).close()
    whole = file.read_bytes()
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        Store(file, {"a": 1}, ("id",)).close()
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON\n", "is not a 'dpg_fast store 1' file"),
        ('{"job": "a", "about": {}}\n', "is not a 'dpg_fast store 1' file"),
        ("unfinished text of somebody", "is not a 'dpg_fast store 1' file"),
        (
            '{"format": "dpg_fast store 9", "about": {}}\n',
            "'dpg_fast store 9' file; this version reads 'dpg_fast store 1'",
        ),
        ('{"format": "dpg_fast store 1", "about": {}}\nno JSON\n{"id": ', "line 2: not JSON"),
        ('{"format": "dpg_fast store 1", "about": {}}\n{"name": 1}\n{"id": ', "line 2 is not a record"),
        ('{"format": "dpg_fast store 1", "about": {"seed": 1}}\n{"id": ', r"differs in seed \(1 there, not set now\)"),
    ],
)
def test_what_is_not_this_store_is_refused_and_left_alone(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text(content)
    for read_only in (False, True):
        with pytest.raises(ValueError, match=message):
            Store(file, {}, ("id",), read_only=read_only)
    assert file.read_text() == content


def test_a_second_writer_is_locked_out_until_the_first_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "s.jsonl"
    with Store(file, {}, ("id",)) as store:
        store.append([{"id": 1}])
        program = f"from dpg_fast.util.store import Store; Store({str(file)!r}, {{}}, ('id',))"
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert other.returncode and f"another process is writing {file}" in other.stderr
        assert len(Store(file, {}, ("id",), read_only=True)) == 1
        store.append([{"id": 2}])
    assert len(Store(file, {}, ("id",))) == 2


def test_an_append_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.jsonl"
    with Store(file, {}, ("id",)) as store:
        store.append([{"id": 1}])
        whole = file.read_bytes()
        for rows in ([{"id": 2}, {"id": 3, "what": object()}], [{"id": 2, "what": float("nan")}], [{"other": 1}]):
            with pytest.raises((TypeError, ValueError, KeyError)):
                store.append(rows)
        real, calls = os.write, []

        def full(descriptor: int, data: bytes) -> int:
            if calls:
                raise OSError(28, "No space left on device")
            calls.append(data)
            return real(descriptor, data[:5])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            store.append([{"id": 2}])
        monkeypatch.undo()
        assert file.read_bytes() == whole and list(store.rows) == [(1,)]
        store.append([{"id": 2}])
    assert list(Store(file, {}, ("id",)).rows) == [(1,), (2,)]
    with pytest.raises(ValueError, match="not open for writing"):
        store.append([{"id": 3}])


def test_keys_alone_and_memory_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "s.jsonl", {}, ("a", "b"), keep=False) as store:
        store.append([{"a": 1, "b": 2, "c": 3}])
    again = Store(tmp_path / "s.jsonl", {}, ("a", "b"), keep=False)
    assert (1, 2) in again and not again.rows and len(again) == 1
    memory = Store(None, {}, ("id",))
    memory.append([{"id": 1}])
    assert memory.rows == {(1,): {"id": 1}} and list(tmp_path.iterdir()) == [tmp_path / "s.jsonl"]


def test_settings_that_may_differ(tmp_path: Path) -> None:
    Store(tmp_path / "s.jsonl", {"settings": {"batch_size": 1, "seed": 0}}, ("id",)).close()
    more: dict[str, Any] = {"settings": {"batch_size": 2, "seed": 0}}
    with pytest.raises(ValueError, match=r"settings.batch_size \(1 there, 2 now\)"):
        Store(tmp_path / "s.jsonl", more, ("id",))
    Store(tmp_path / "s.jsonl", more, ("id",), free={"settings.batch_size"}.__contains__)


def test_differences_are_named_with_short_values() -> None:
    before = {"a": {"b": 1, "c": "x" * 100}, "d": [1], "gone": None}
    now = {"a": {"b": 2, "c": "y" * 100}, "d": [1], "new": True}
    assert differences(before, now) == [
        "a.b (1 there, 2 now)",
        "a.c",
        "gone (null there, not set now)",
        "new (not set there, true now)",
    ]
    assert differences(before, now, lambda name: name != "a.b") == ["a.b (1 there, 2 now)"]


def test_a_run_is_claimed_once_and_its_like_may_go_on(tmp_path: Path) -> None:
    file = tmp_path / "out" / "run.json"
    first = claim(file, {"seed": 1, "path": tmp_path, "sizes": (1, 2)})
    assert first == {"seed": 1, "path": str(tmp_path), "sizes": [1, 2]}
    assert claim(file, {"seed": 1, "path": tmp_path, "sizes": (1, 2)}) == first
    with pytest.raises(ValueError, match=r"run.json belongs to another run, which differs in seed \(1 there, 2 now\)"):
        claim(file, {**first, "seed": 2})
    assert claim(file, {**first, "seed": 2}, free={"seed"}.__contains__)["seed"] == 1
    assert claim(file, {**first, "seed": 2}, started=False)["seed"] == 2
    file.write_text("[")
    with pytest.raises(ValueError, match="does not describe a run"):
        claim(file, {})


@pytest.mark.parametrize("size", [20, 80, 150])
def test_a_disk_that_is_full_costs_the_append_and_nothing_else(tmp_path: Path, size: int) -> None:
    """A real limit on the file's size, which cuts a write off in the middle; then there is room again."""
    file = tmp_path / "s.jsonl"
    program = f"""
import resource
from dpg_fast.util.store import Store
store = Store({str(file)!r}, {{"job": 1}}, ("id",))
store.append([{{"id": 1, "text": "kept"}}])
whole = open({str(file)!r}, "rb").read()
resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + {size}, resource.RLIM_INFINITY))
try:
    store.append([{{"id": 2, "text": "x" * 200}}])
except OSError as error:
    assert error.filename == {str(file)!r} and {str(file)!r} in str(error), error
else:
    raise SystemExit("no error")
assert open({str(file)!r}, "rb").read() == whole and list(store.rows) == [(1,)]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.append([{{"id": 3, "text": "after"}}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(Store(file, {"job": 1}, ("id",)).rows) == [(1,), (3,)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    with Store(folder / "s.jsonl", {}, ("id",)) as store:
        store.append([{"id": 1}])
    (folder / "s.jsonl").chmod(0o444)
    folder.chmod(0o555)

    def attempt() -> None:
        os.chdir(folder)
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write anywhere
        assert len(Store("s.jsonl", {}, ("id",), read_only=True)) == 1
        for name in ("s.jsonl", "new.jsonl"):
            with pytest.raises(PermissionError) as caught:
                Store(name, {}, ("id",))
            assert str(caught.value.filename) == name

    assert in_child(attempt) == 0
    folder.chmod(0o755)


def in_child(call: Callable[[], object]) -> int:
    """The exit status of a forked process that runs ``call``."""
    child = os.fork()
    if child == 0:
        try:
            call()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_four_writers_of_one_file_lose_nothing(tmp_path: Path) -> None:
    """Each gets the file in turn, or is refused and tries again: 240 rows in all."""
    file = tmp_path / "s.jsonl"

    def write(writer: int) -> None:
        for number in range(60):
            while True:
                try:
                    with Store(file, {"job": 1}, ("id",), sync_every=1000) as store:
                        store.append([{"id": f"{writer}-{number}", "text": "x" * 50}])
                    break
                except ValueError as error:
                    assert "another process is writing" in str(error)
                    time.sleep(0.001)

    writers = []
    for writer in range(4):
        child = os.fork()
        if child == 0:
            os._exit(in_child(lambda: write(writer)))  # noqa: B023
        writers.append(child)
    assert [os.waitpid(child, 0)[1] for child in writers] == [0, 0, 0, 0]
    assert len(Store(file, {"job": 1}, ("id",), read_only=True)) == 240


@pytest.mark.parametrize("made", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, made: Any) -> None:
    made(tmp_path / "s.jsonl")
    for read_only in (True, False):
        with pytest.raises((ValueError, OSError), match=r"s\.jsonl"):
            Store(tmp_path / "s.jsonl", {}, ("id",), read_only=read_only)
