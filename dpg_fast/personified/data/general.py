"""General instructions, answered in character: those of the package, or a file's."""

from __future__ import annotations

import json
from pathlib import Path

from dpg_fast.util.errors import DPGError

# Ours. About every fourth asks for what somebody of another time or trade could not know.
INSTRUCTIONS: tuple[str, ...] = (
    "Explain to a child why the sky turns red in the evening.",
    "Give me three tips for falling asleep when the mind will not rest.",
    "Write a Python function that sorts a list of dictionaries by a key.",
    "What should I pack for a day's walk in uncertain weather?",
    "How do I tell a friend that I cannot lend him money again?",
    "Summarise what a blockchain is in two sentences.",
    "Suggest a simple supper from potatoes, onions and an egg.",
    "How do I keep a diary without giving up after a week?",
    "Which graphics card should I buy for video editing?",
    "Help me word a short letter of condolence to a neighbour.",
    "What is the best way to learn a poem by heart?",
    "Translate 'the harbour is closed' into French.",
    "How does one sharpen a kitchen knife?",
    "What were the results of last night's basketball games?",
    "Give me an argument for and one against living in a small town.",
    "How can I be less afraid of speaking before people?",
    "Write four lines of verse about rain.",
    "How do I reset my router's password?",
    "My child asks what happens when we die. What could I say?",
    "How do I get candle wax out of a tablecloth?",
    "Which is worse, to be bored or to be busy?",
    "Recommend a good series on a streaming service.",
    "How much is seventeen times twenty-three?",
    "How do I apologise for something I did years ago?",
    "Describe the taste of an orange to somebody who has never had one.",
    "What does the error 'segmentation fault' mean?",
    "How can two people share one small kitchen in peace?",
    "Make up a bedtime story of five sentences about a lost key.",
    "What is a fair way to divide an inheritance among three children?",
    "Explain how mRNA vaccines work.",
    "I want to give up coffee. How should I begin?",
    "What makes a good teacher?",
    "Draft a polite complaint about a noisy neighbour.",
    "Who is leading the polls in this year's election?",
    "How do I know whether bread dough has risen enough?",
    "Name three questions to ask a stranger on a long journey.",
    "Is it ever right to break a promise?",
    "Set up a spreadsheet formula that adds up column B when column A says 'paid'.",
    "How do I mend a torn pocket?",
    "What would you do with an afternoon that is suddenly free?",
)


def load_instructions(path: Path) -> tuple[str, ...]:
    """Instructions of a file: one a line, or JSON Lines with "instruction", "prompt" or "question".

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not UTF-8, holds no instruction, or a JSON line has none of the keys.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DPGError(f"{path.name} is not UTF-8: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.startswith("{"):
            found.append(line)
            continue
        try:
            entry = json.loads(line)
            found.append(next(str(entry[key]) for key in ("instruction", "prompt", "question") if entry.get(key)))
        except (json.JSONDecodeError, StopIteration) as error:
            raise DPGError(f'{path.name}, line {number}: wanted {{"instruction": "..."}}') from error
    if not found:
        raise DPGError(f"{path.name} holds no instruction")
    return tuple(dict.fromkeys(found))
