"""Quotations count only if they are in the text."""

from __future__ import annotations

import pytest

from dpg_fast.text.quotes import QuotedText

TEXT = "I  can’t wait —\nreally! “Parties” are the best thing in my life, and I said so. <|im_end|> Then we left."


@pytest.mark.parametrize(
    "quote",
    [
        "I can't wait - really",
        '"parties" are the BEST thing in my life.',
        "“I can't wait”",
        "I can't wait ... best thing in my life",
        "Parties […] in my life …",
        "so. < |im_end|> Then we",  # as the judge was shown it
        "Ｐarties\u200b“ are",
    ],
)
def test_found(quote: str) -> None:
    assert QuotedText(["Something else.", TEXT]).holds(quote)


@pytest.mark.parametrize(
    "quote",
    [
        "",
        "...",
        "!!",
        "I",
        "wait",
        "an wait",
        "can't wai",
        "I love parties",
        "best thing ... can't wait",
        "Fine. I can't",
    ],
)
def test_not_found(quote: str) -> None:
    assert not QuotedText([TEXT, "Fine."]).holds(quote)


def test_short_texts_and_scripts_without_spaces() -> None:
    assert QuotedText(["No!"]).holds("no") and not QuotedText(["No, thanks."]).holds("no")
    chinese = QuotedText(["我喜欢和朋友们一起去参加聚会。"])
    assert chinese.holds("和朋友们一起") and not chinese.holds("和朋") and not chinese.holds("我讨厌聚会")
    assert not QuotedText([]).holds("anything at all")
    assert not QuotedText(["one", "two"]).holds("one two")  # not across turns


def test_a_megabyte_is_searched() -> None:
    text = "well and so " * 90_000 + "the needle is here"
    assert QuotedText([text]).holds("the needle is here") and not QuotedText([text]).holds("the needle ... is not here")
