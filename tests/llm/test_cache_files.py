"""The reply cache on a full disk, in a folder that cannot be written, and in place of other files."""

from __future__ import annotations

import os
import resource
import sqlite3
from pathlib import Path

import pytest

from dpg_fast.llm.cache import Reply, ReplyCache
from dpg_fast.util.errors import DPGError
from tests.util.test_store import in_child

LONG = Reply(content="word " * 20_000)


def put(cache: ReplyCache, key: str) -> None:
    cache.put(key, LONG, model="m", prompt_version="1")


@pytest.mark.parametrize("room", [0, 40_000, 150_000])
def test_a_full_disk_is_named_and_costs_no_stored_reply(tmp_path: Path, room: int) -> None:
    file = tmp_path / "c.sqlite"
    with ReplyCache(file) as cache:
        put(cache, "a")

    def attempt() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + room, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match=r"reply cache cannot be used.*c\.sqlite"), ReplyCache(file) as cache:
            for number in range(20):
                put(cache, f"b{number}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with ReplyCache(file) as cache:
            assert cache.get("a") == LONG
            put(cache, "c")

    assert in_child(attempt) == 0
    with ReplyCache(file) as cache:
        assert cache.get("a") == cache.get("c") == LONG


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)

    def attempt() -> None:
        os.chdir(tmp_path)
        if os.geteuid() == 0:
            os.setuid(65534)
        with pytest.raises(OSError, match=r"reply cache cannot be used.*c\.sqlite"):
            ReplyCache("c.sqlite")

    assert in_child(attempt) == 0
    tmp_path.chmod(0o755)


def test_what_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        ReplyCache(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DPGError, match="pipe is not a regular file"):
        ReplyCache(tmp_path / "pipe")
    (tmp_path / "text").write_text("mine\n" * 100)
    with pytest.raises(DPGError, match="text is not a reply cache"):
        ReplyCache(tmp_path / "text")
    assert (tmp_path / "text").read_text() == "mine\n" * 100
    with ReplyCache(tmp_path / "c.sqlite") as cache:
        put(cache, "a")
    with sqlite3.connect(tmp_path / "c.sqlite") as other:
        other.execute('UPDATE replies SET reply = \'{"prompt_tokens": "many"}\'')
    with (
        ReplyCache(tmp_path / "c.sqlite") as cache,
        pytest.raises(DPGError, match=r"c\.sqlite, reply a: prompt_tokens"),
    ):
        cache.get("a")
