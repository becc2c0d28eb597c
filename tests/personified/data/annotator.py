"""A server that annotates by rule: it reads the fenced parts of a prompt and answers in the schema that is asked for."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tests.llm.server import Answer, last_user

SUBJECTS = (
    "the old ferry in winter",
    "your brother and his fear of water",
    "a bridge that nobody needs",
    "money owed to the chandler",
    "the bell that rings in fog",
    "tide tables in an east wind",
    "a letter that came back unopened",
    "bread on a Sunday evening",
)


def fenced(text: str, label: str) -> str:
    """The text inside the fence with this label."""
    found = re.search(rf"<{label}-([0-9a-f]{{16}})>\n(.*?)\n</{label}-\1>", text, re.DOTALL)
    return found[2] if found else ""


def schema(body: dict[str, Any]) -> str:
    """The name of the schema that is asked for."""
    return str(body["response_format"]["json_schema"]["name"])


class Annotator:
    """Replies by rule; `change` (schema -> fields) overrides what a schema's replies hold."""

    def __init__(self, **change: dict[str, Any]) -> None:
        self.change = change
        self.asked: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any], number: int) -> Answer:
        if "messages" not in body:
            return Answer(body=embeddings(body))
        name = schema(body)
        self.asked[name] += 1
        reply = getattr(self, name)(last_user(body)) | self.change.get(name, {})
        return Answer(json.dumps(reply))

    def UserTurn(self, text: str) -> dict[str, Any]:
        source = fenced(text, "text").split()
        subject = SUBJECTS[len(" ".join(source)) % len(SUBJECTS)]
        start = " ".join(source[2:12]).strip(".,;:!?")
        if "plainly false" in text:
            return {"text": f"Why did you sell the yard in Hallam because of {subject}, when {start}?"}
        if fenced(text, "conversation"):
            return {"text": f"And what happened then with {subject}, after {start}?"}
        return {"text": f"What do you make of {subject} these days, and is it true that {start}?"}

    def GoldenAnswer(self, text: str) -> dict[str, Any]:
        message = fenced(text, "message")
        known = fenced(text, "knowledge").split("\n\n")[0].split()
        words = " ".join(known[:14])
        wrong = "sell the yard in Hallam" in message
        return {
            "analysis": f"They want to hear about {message[:30].lower()}; I remember well how that was.",
            "stance": "corrects" if wrong else "disagrees" if len(message) % 2 else "neutral",
            "answerable": "Python" not in message,
            "response": f"{'No, that is wrong. ' if wrong else ''}Well, I will tell you what I remember of it: {words}.",
        }

    def AnswerVerdict(self, text: str) -> dict[str, Any]:
        return {"supported": True, "in_time": True, "premise_handled": True, "in_voice": True, "problem": ""}

    def Extract(self, text: str) -> dict[str, Any]:
        passage = fenced(text, "passage")
        items = []
        for number, block in re.findall(r"\((\d+)\) (.*?)(?=\n\n\(|\Z)", passage, re.DOTALL):
            said = re.search(r'"([^"]{20,})"', block)
            items.append({"kind": "knowledge", "paragraphs": [int(number)], "text": re.sub(r'"[^"]*"', "", block)})
            if said:
                items.append({"kind": "style", "paragraphs": [int(number)], "text": said[1]})
        return {"when": "in her youth" if "young" in passage else "in old age", "items": items}

    def ProposedStages(self, text: str) -> dict[str, Any]:
        return {
            "stages": [
                {"id": "young", "time": "It is long ago.", "belongs": "youth"},
                {"id": "old", "time": "It is late.", "belongs": "age"},
            ]
        }

    def Assignments(self, text: str) -> dict[str, Any]:
        rows = re.findall(r"^\((\d+)\) \[(.*?)\]", fenced(text, "items"), re.MULTILINE)
        return {"assignments": [{"item": int(n), "stage": 1 if "youth" in when else 2} for n, when in rows]}


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Vectors of letter counts."""
    rows = []
    for i, text in enumerate(body["input"]):
        vector = [1.0 + text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
        rows.append({"index": i, "embedding": vector, "object": "embedding"})
    return {"object": "list", "model": body["model"], "data": rows, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def write_character(folder: Path, paragraphs: int = 6) -> Path:
    """A small character with two stages."""
    (folder).mkdir(parents=True, exist_ok=True)
    (folder / "stages.yaml").write_text(
        "name: Ada Brook\nstages:\n- {id: early, time: It is 1900.}\n- {id: late, time: It is 1930.}\n"
    )
    trades = ("baker", "sailor", "joiner", "tailor", "glazier", "printer", "smith", "weaver")
    for stage, home in (("early", "village"), ("late", "city")):
        for kind, opening in (("knowledge", "Ada Brook worked with a"), ("style", "I tell you, never trust a")):
            place = folder / stage / kind
            place.mkdir(parents=True)
            texts = [
                f"{opening} {trades[i % 8]} number {i} in the {home} near the {SUBJECTS[i % 8]}, and it was the {trades[i % 8]} "
                f"who gave her {i + 3} {stage} {kind} lessons about {SUBJECTS[(3 * i + 1) % 8]}."
                for i in range(paragraphs)
            ]
            (place / "texts.txt").write_text("\n\n".join(texts))
    return folder
