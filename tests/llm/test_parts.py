"""The cache, the price table and the reading of replies, without a server."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import BaseModel

from dpg_fast.llm.cache import SCHEMA_VERSION, Reply, ReplyCache
from dpg_fast.llm.calls import Call, Request, first_request, settle
from dpg_fast.llm.prices import PriceTable, Usage
from dpg_fast.llm.settings import LLMSettings
from dpg_fast.llm.structured import strict_schema
from dpg_fast.util.identity import digest


class Inner(BaseModel):
    note: str = "none"


class Outer(BaseModel):
    values: list[Inner]
    best: Inner | None = None


def test_first_reply_stays_unless_replaced(tmp_path: Path) -> None:
    with ReplyCache(tmp_path / "a.sqlite") as cache, ReplyCache(tmp_path / "a.sqlite") as other:
        assert cache.get("k") is None
        assert cache.put("k", Reply(content="one"), model="m", prompt_version="1").content == "one"
        assert other.put("k", Reply(content="two"), model="m", prompt_version="1").content == "one"
        assert other.put("k", Reply(content="two"), model="m", prompt_version="1", replace=True).content == "two"
        assert cache.get("k") == Reply(content="two") and len(cache) == 1


def test_failures_are_counted_and_forgotten(tmp_path: Path) -> None:
    with ReplyCache(tmp_path / "a.sqlite") as cache:
        for _ in range(2):
            cache.add_failure("k", item="i", prompt_version="1", kind="cut", detail="d")
        cache.add_failure("l", item="j", prompt_version="2", kind="refused", detail="d")
        assert [(f.item, f.times) for f in cache.failures()] == [("i", 2), ("j", 1)]
        assert [f.item for f in cache.failures("2")] == ["j"]
        cache.clear_failure("k")
        cache.clear_failure("unknown")
        assert [f.item for f in cache.failures()] == ["j"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but long enough to be read as one" * 40)
    with pytest.raises(ValueError, match="not a reply cache"):
        ReplyCache(tmp_path / "text")
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE notes (text TEXT)")
        other.commit()
    before = (tmp_path / "other").read_bytes()
    with pytest.raises(ValueError, match="a database of notes"):
        ReplyCache(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == before and len(list(tmp_path.glob("other*"))) == 1
    ReplyCache(tmp_path / "new").close()
    connection = sqlite3.connect(tmp_path / "new")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(ValueError, match="version"):
        ReplyCache(tmp_path / "new")


def test_keys_do_not_depend_on_spelling() -> None:
    assert digest({"a": 1, "b": [1.5, "é"]}) == digest({"b": [1.5, "é"], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
    with pytest.raises(ValueError):
        digest(float("nan"))


def test_price_table(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"models": {"a": {"input": 2, "output": 4}}}))
    table = PriceTable.load(path)
    usage = Usage(calls=1, prompt_tokens=1_000_000, cached_prompt_tokens=500_000, completion_tokens=250_000)
    assert table.cost("a", usage) == pytest.approx(3.0)  # no price for cached tokens: the full one
    assert table.cost("b", usage) is None
    for bad in ("{", '{"models": {"a": {"input": -1, "output": 1}}}', '{"models": {"a": {"in": 1}}}', '{"prices": {}}'):
        path.write_text(bad)
        with pytest.raises(ValueError, match=r"prices.json: not a price table"):
            PriceTable.load(path)


def test_strict_schema_requires_everything_at_every_level() -> None:
    schema = strict_schema(Outer)
    assert schema["required"] == ["values", "best"] and schema["additionalProperties"] is False
    inner = schema["$defs"]["Inner"]
    assert inner["required"] == ["note"] and inner["additionalProperties"] is False
    assert "default" not in json.dumps(schema)


def test_only_secrets_are_cut_out_of_texts() -> None:
    assert LLMSettings("m", api_key="sk-0123456789").redact("key sk-0123456789.") == "key [key]."
    assert LLMSettings("m", api_key="test").redact("a test of patience") == "a test of patience"


def test_a_repair_repeats_no_chat_tokens() -> None:
    call = Call("x", [{"role": "user", "content": "?"}], Outer, "1")
    found = settle(call, first_request(call, "k"), Reply(content="no JSON <|im_end|>", finish_reason="stop"))
    assert isinstance(found, Request) and found.messages[1]["content"] == "no JSON < |im_end|>"
