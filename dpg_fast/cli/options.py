"""Options that several commands share: each is declared here once, with one name and one help text. Imports nothing heavy.

Names in the plural take a list with commas ("-5,0,5"); names in the singular that may be given several times say so.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dpg_fast.util.errors import DPGError

AGAIN = " May be given several times."
FOLDER_HELP = "Folder to write to; a run that was killed continues there."
FILE_HELP = "File to write."


class Dtype(StrEnum):
    """Precision of a model's weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def torch(self) -> Any:
        """The torch.dtype."""
        import torch

        return getattr(torch, self.value)


class JudgeKind(StrEnum):
    """Who judges."""

    LIKELIHOOD = "likelihood"
    OPENAI = "openai"


def option(text: str, *names: str, **more: Any) -> Any:
    """An option with its help text, a whole sentence."""
    return typer.Option(*names, help=text, **more)


# Models
_BASE_MODEL = 'Hub id or directory of the base model; "smollm2" is the bundled SmolLM2-135M-Instruct.'
BaseModel = Annotated[str, option(_BASE_MODEL)]
OptionalBaseModel = Annotated[str | None, option(_BASE_MODEL, "--base-model")]
_ADAPTER = 'Directory or Hub id of an adapter; "smollm2" (neurons) and "smollm2-hypernet" come with the package.'
Adapter = Annotated[str | None, option(_ADAPTER)]
Adapters = Annotated[list[str] | None, option(_ADAPTER + AGAIN)]
SecondHypernet = Annotated[
    str | None,
    option("Directory or Hub id of a second adapter, whose hypernetwork is measured too.", "--hypernet"),
]
_CHARACTER = "A tuned character, as NAME=DIRECTORY."
Characters = Annotated[list[str] | None, option(_CHARACTER + AGAIN, "--character")]
_PERSONALITY = 'A personality: "E+5", "E-5 N+4", a preset such as "leader", or "base" for the bare model.'
OnePersonality = Annotated[str | None, option(_PERSONALITY)]
People = Annotated[list[str] | None, option(_PERSONALITY + AGAIN, "--personality")]
Precision = Annotated[Dtype, option("Precision of the base model's weights.", "--dtype")]
Mismatch = Annotated[bool, option("Accept an adapter that was made for another base model.", "--allow-mismatch")]
Seed = Annotated[int, option("Seed of everything that is drawn at random.")]
BatchSize = Annotated[int, option("Sequences that are processed side by side.", min=1)]
MaxNewTokens = Annotated[int, option("Longest answer, in tokens.", min=1)]
Temperature = Annotated[float, option("Sampling temperature; 0 always takes the likeliest token.", min=0)]
ServerTemperature = Annotated[
    float | None, option("Sampling temperature; 0 always takes the likeliest token.", "--temperature", min=0)
]
System = Annotated[str | None, option("Instruction that is put before the conversation.", "--system-prompt")]
Traits = Annotated[str, option("Letters of the traits.")]

# Judges
Judge = Annotated[
    JudgeKind,
    option(
        "Who judges: likelihood asks a local model and needs no network; openai asks any server with OpenAI's API.",
        "--judge",
    ),
]
JudgeModel = Annotated[str | None, option("Name of the judge's model, as its server knows it.")]
JudgeUrl = Annotated[
    str | None, option("Address of the judge's server, such as http://localhost:8000/v1; OpenAI's by default.")
]
JudgeKeyEnv = Annotated[str, option("Environment variable that holds the judge's API key.")]

# Models that write
_WRITER = "Name of the model that writes, as its server knows it."
WriterModel = Annotated[str, option(_WRITER)]
OptionalWriterModel = Annotated[str | None, option(_WRITER, "--writer-model")]
WriterUrl = Annotated[
    str | None, option("Address of the writer's server, such as http://localhost:8000/v1; OpenAI's by default.")
]
WriterKeyEnv = Annotated[str, option("Environment variable that holds the writer's API key.")]

# Evaluations
Levels = Annotated[str, option("Levels of the traits, with commas between them.")]
Questions = Annotated[int, option("Questions of each trait.", min=1)]
Cross = Annotated[
    bool, option("Also judge answers on traits that were not asked for.", "--cross-traits/--no-cross-traits")
]
Capability = Annotated[bool, option("Measure what methods cost on tasks of lm-evaluation-harness.")]
CapabilityTasks = Annotated[
    str,
    option("Those tasks, with commas between them; facts, arithmetic and words need no network, gsm8k and others do."),
]
CapabilityItems = Annotated[int | None, option("Items of each of those tasks; all by default.", min=1)]

Witnesses = Annotated[
    str | None,
    option(
        "Witnesses that read the answers beside the judge, with commas between them: likelihood, descriptions, lexical, "
        "statements; an empty text for none. By default descriptions, lexical, and statements where they are on this machine.",
        "--witnesses",
    ),
]
Statements = Annotated[
    Path | None,
    option("Folder of statements by others in the format of anthropics/evals, a file for each trait.", "--statements"),
]
_INVENTORY = "Inventory: bundled, ipip-neo-120, ipip-neo-300, ipip-50, mini-ipip, or a file."
Inventory = Annotated[str, option(_INVENTORY)]
InventoryName = Annotated[str | None, option(_INVENTORY, "--inventory")]

# Calls of a server
MaxTokens = Annotated[int, option("Longest reply, in tokens.", min=1)]
LegacyMaxTokens = Annotated[
    bool, option("Send the limit as max_tokens, for servers that do not know max_completion_tokens.")
]
Concurrency = Annotated[int, option("Calls that are under way at once.", min=1)]
Timeout = Annotated[float, option("Seconds for one attempt of a call.", min=0.1)]
Prices = Annotated[
    Path | None,
    option('JSON file of prices per million tokens: {"models": {"NAME": {"input": 1, "output": 2}}}.'),
]
Cache = Annotated[Path | None, option("File that keeps the server's replies; beside the output by default.")]
RetryFailed = Annotated[bool, option("Ask again, and pay again, for refused, cut or unreadable replies.")]
DryRun = Annotated[bool, option("Print the calls, tokens and price; send and write nothing.", "--dry-run")]

# Output
OutFolder = Annotated[Path, option(FOLDER_HELP, "--out")]
OptionalOutFolder = Annotated[Path | None, option(FOLDER_HELP, "--out")]
OutFile = Annotated[Path, option(FILE_HELP, "--out")]
OptionalOutFile = Annotated[Path | None, option(FILE_HELP, "--out")]
Report = Annotated[Path | None, option("Folder for an HTML report, its pictures and its figures as JSON.")]
Resamples = Annotated[int, option("Bootstrap draws for the intervals.", min=1)]
Similarity = Annotated[float, option("Similarity from which a text counts as a repetition of another.")]
Encoding = Annotated[str | None, option("Character encoding of text files, where it must not be guessed.")]


def words(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, name: str) -> list[float]:
    """The numbers of a list with commas.

    Raises:
        DPGError: a part is not a number; the message names the option.
    """
    try:
        return [float(part) for part in words(text)]
    except ValueError:
        raise DPGError(f"{name} takes numbers with commas between them, such as -5,0,5, not {text!r}") from None


def named_folders(texts: list[str] | None, name: str) -> dict[str, Path]:
    """NAME=DIRECTORY, several times.

    Raises:
        DPGError: another form, or a name given twice; the message names the option.
    """
    return {key: Path(path) for key, path in named_values(texts, name, "NAME=DIRECTORY").items()}


def named_values(texts: list[str] | None, name: str, form: str) -> dict[str, str]:
    """NAME=VALUE, several times; ``form`` is what the message calls it.

    Raises:
        DPGError: another form, or a name given twice; the message names the option.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        key, sign, value = (part.strip() for part in text.partition("="))
        if not (sign and key and value):
            raise DPGError(f"{name} takes {form}, not {text!r}")
        if key in found:
            raise DPGError(f"{name} names {key} twice")
        found[key] = value
    return found


def folder(path: Path | None) -> None:
    """Refuse a file where a folder is to be written.

    Raises:
        DPGError: it is a file.
    """
    if path is not None and path.exists() and not path.is_dir():
        raise DPGError(f"{path} is a file; name a folder")


def json_object(text: str, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DPGError: something else; the message names the option.
    """
    import json

    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DPGError(f"{name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DPGError(f"{name} takes a JSON object, not {text!r}")
    return found
