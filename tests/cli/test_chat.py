"""``dpg-fast chat`` through a pseudo-terminal, as a person uses it, and through a pipe."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import Any

import pytest

pty = pytest.importorskip("pty")

COMMAND = [sys.executable, "-m", "dpg_fast", "chat", "--base-model", "smollm2", "--max-new-tokens", "8"]


class Terminal:
    """A chat behind a pseudo-terminal."""

    def __init__(self, *more: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *more], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, close_fds=True
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str, seconds: float = 500) -> str:
        """What is printed up to and with ``text``."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            ready, _, _ = select.select([self.master], [], [], 1)
            if ready:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def say(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\n")


@pytest.mark.slow
def test_a_chat_in_a_terminal(smollm2: tuple[Any, Any]) -> None:
    chat = Terminal("--personality", "E+4 N-2")
    assert "Personality: E+4 N-2." in chat.until("[E+4 N-2] > ")
    chat.say("My name is Ada. Who are you?")
    answer = chat.until("[E+4 N-2] > ")
    assert len(answer.removeprefix("My name is Ada. Who are you?").split()) > 2
    chat.say("/personality E+9")
    assert "extraversion = 9 is out of range" in chat.until("[E+4 N-2] > ")  # nothing has changed, and the chat goes on
    chat.say("/personality A-5")
    assert "Personality: A-5." in chat.until("[A-5] > ")
    chat.say("/character nobody")
    chat.until("[A-5] > ")
    chat.say("/wave")
    assert "no command /wave" in chat.until("[A-5] > ")
    chat.say("/help")
    assert "/reset" in chat.until("[A-5] > ")
    chat.say("/reset")
    assert "forgotten" in chat.until("[A-5] > ")
    chat.say("/personality none")
    assert "the bare model answers" in chat.until("[bare] > ")
    chat.say("/quit")
    assert chat.process.wait(timeout=60) == 0


@pytest.mark.slow
def test_a_chat_through_a_pipe(smollm2: tuple[Any, Any]) -> None:
    lines = "Hello!\n/personality C+5\nWhat do you do today?\n"
    done = subprocess.run([*COMMAND, "--temperature", "0"], input=lines, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:2] == ["smollm2 with smollm2. /help shows the commands.", "No personality: the bare model answers."]
    place = said.index("Personality: C+5.")
    assert 2 < place < len(said) - 1 and all(said[2:place]) and " > " not in done.stdout


def test_an_unreadable_personality_is_refused_before_loading() -> None:
    done = subprocess.run([*COMMAND, "--personality", "E+9"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith("dpg-fast chat: extraversion = 9 is out of range")
