"""The page in a real browser: by keyboard alone, on a desk and on a phone, light and dark, checked by axe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from dpg_fast import Personality
from dpg_fast.personality.scores import PRESETS
from tests.model.test_wrapper import personality_model
from tests.server.running import Running, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here"),
]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def held(tiny_llama: Any, byte_tokenizer: Any) -> Iterator[Running]:
    tiny_llama.generation_config.eos_token_id = [-1]
    with running(personality_model(tiny_llama), byte_tokenizer) as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (375, "dark")])
def test_two_people_answer_by_keyboard_alone(held: Running, browser: Browser, width: int, scheme: Any) -> None:
    page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(held.url)
    page.locator(".person").nth(1).wait_for()
    reached: list[str] = []
    for _ in range(50):  # every control is reached by the Tab key
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    wanted = {"add", "preset-1", "openness-1", "neuroticism-2", "message", "temperature", "tokens", "send", "forget"}
    assert wanted <= set(reached) and {"Remove", "Python", "curl", "JSON Lines"} <= set(reached)
    page.locator("#extraversion-1").focus()
    page.keyboard.press("Home")
    assert "E\u22125" in page.locator(".asked").first.inner_text()
    page.locator("#tokens").fill("5")
    page.locator("#message").focus()
    page.keyboard.press("Enter")
    page.locator("#status", has_text="Everybody has answered.").wait_for()
    page.get_by_role("button", name="JSON Lines").focus()
    page.keyboard.press("Enter")
    rows = [json.loads(line) for line in page.locator("#exported").input_value().splitlines()]
    assert [row["personality"]["extraversion"] for row in rows] == [-5, -5]
    assert [[m["role"] for m in row["messages"]] for row in rows] == [["user", "assistant"]] * 2
    page.get_by_role("button", name="Python").click()
    code = page.locator("#exported").input_value()
    compile(code, "exported", "exec")
    assert f'base_url="{held.url}/v1"' in code
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [found["id"] for found in Axe().run(page).response["violations"]] == []
    assert faults == []


def test_a_person_grows_from_turn_to_turn(held: Running, browser: Browser) -> None:
    page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
    page.goto(held.url)
    page.locator(".person").nth(1).wait_for()
    page.locator("#preset-1").select_option("recluse")
    page.locator(".drift summary").first.focus()
    page.keyboard.press("Enter")
    page.locator("#towards-1").select_option("leader")
    page.locator("#turns-1").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")  # three turns
    assert "Turn 1 of 3 is next" in page.locator(".drift .hint").first.inner_text()
    page.locator("#tokens").fill("3")
    for turn in range(1, 5):
        page.locator("#message").fill(f"Turn {turn}")
        page.locator("#send").click()
        page.locator(".person").first.locator(".assistant").nth(turn - 1).wait_for()
        page.locator("#send:enabled").wait_for()
    page.get_by_role("button", name="JSON Lines").click()
    rows = [json.loads(line) for line in page.locator("#exported").input_value().splitlines()]
    shy, bold = (str(PRESETS[name]) for name in ("recluse", "leader"))
    spoken = [Personality(person) for person in rows[0]["spoken_as"]]
    assert [str(spoken[0]), str(spoken[2]), str(spoken[3])] == [shy, bold, bold]
    assert str(spoken[1]) == str(Personality(shy).blend(Personality(bold), 0.5))
    assert rows[1]["spoken_as"] == [rows[1]["personality"]] * 4
    assert "Has become leader" in page.locator(".drift .hint").first.inner_text()
    assert [found["id"] for found in Axe().run(page).response["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#forget").click()
    assert "E\u2212" in page.locator(".asked").first.inner_text()
