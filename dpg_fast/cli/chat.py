"""``dpg-fast chat``: talk with a model whose personality can be changed between two turns."""

from __future__ import annotations

import sys
from typing import Any

import typer

from dpg_fast.cli.errors import refusal
from dpg_fast.cli.options import (
    Adapter,
    BaseModel,
    Characters,
    Dtype,
    MaxNewTokens,
    OnePersonality,
    Precision,
    Seed,
    System,
    Temperature,
    named_folders,
)
from dpg_fast.util.models import BUNDLED

HELP = """\
/personality E+4 N-2   Set the trait scores; "/personality none" clears them, "/personality" shows what is in force.
/character NAME        Speak as a tuned character, or NAME/STAGE; "/character none" clears it.
/reset                 Forget the conversation; the personality stays.
/help                  Show these commands.
/quit                  End the chat, as the end of the input does."""
NOTHING = ("none", "base", "")


def chat(
    base_model: BaseModel = BUNDLED,
    adapter: Adapter = None,
    character: Characters = None,
    personality: OnePersonality = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.7,
    dtype: Precision = Dtype.FLOAT32,
    seed: Seed = 0,
) -> None:
    """Talk with a model; its answers appear word by word, and /personality E+4 N-2 changes who speaks. /help says more.

    Without --adapter, the bundled SmolLM2 gets the neurons that come with the package. Lines may also come from a pipe.
    """
    import torch

    from dpg_fast.model.loading import load_wrapped
    from dpg_fast.personality.scores import parse_personality

    parse_personality(personality)  # unreadable scores are refused before the model is loaded
    characters = named_folders(character, "--character")
    if adapter is None and base_model == BUNDLED and not characters:
        adapter = BUNDLED
    model, tokenizer = load_wrapped(base_model, adapter, dtype.torch, characters)
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "repetition_penalty": 1.1,
        "do_sample": temperature > 0,
    }
    if temperature > 0:
        options["temperature"] = temperature
    talk = Talk(model, tokenizer, system, options)
    if personality is not None:
        talk.set_personality(personality)
    typer.echo(f"{base_model} with {adapter or 'no adapter'}. /help shows the commands.")
    typer.echo(talk.in_force())
    talk.run()


class Talk:
    """One conversation: its history, and who speaks.

    Args:
        model: a `PersonalityModel`.
        system: instruction before the conversation.
        options: of `PersonalityModel.generate`.
    """

    def __init__(self, model: Any, tokenizer: Any, system: str | None, options: dict[str, Any]) -> None:
        self.model, self.tokenizer, self.system, self.options = model, tokenizer, system, options
        self.history: list[dict[str, str]] = []
        self.scores = self.character = ""
        self.row: Any = None

    def run(self) -> None:
        """Read lines until the end of the input or /quit."""
        interactive = sys.stdin.isatty()
        if interactive:
            import contextlib

            with contextlib.suppress(ImportError):  # line editing, where the platform has it
                import readline  # noqa: F401
        while True:
            try:
                line = input(f"[{self.label()}] > " if interactive else "").strip()
            except (EOFError, KeyboardInterrupt):
                typer.echo()
                return
            if line == "/quit":
                return
            try:
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    self.say(line)
            except KeyboardInterrupt:
                typer.echo("\n(interrupted)")
            except Exception as error:
                message = refusal(error)
                if message is None:
                    raise
                typer.secho(message, fg="red")

    def command(self, line: str) -> None:
        """Obey a line that begins with a slash.

        Raises:
            DPGError: it cannot be obeyed; nothing has changed.
        """
        name, _, rest = line[1:].partition(" ")
        if name == "personality":
            if rest.strip():
                self.set_personality(rest.strip())
            typer.echo(self.in_force())
        elif name == "character":
            if rest.strip():
                self._set(self.scores, "" if rest.strip() in NOTHING else rest.strip().removeprefix("@"))
            typer.echo(self.in_force())
        elif name == "reset":
            self.history.clear()
            typer.echo(f"The conversation is forgotten. {self.in_force()}")
        elif name == "help":
            typer.echo(HELP)
        else:
            typer.echo(f"There is no command /{name}; /help shows those there are.")

    def set_personality(self, text: str) -> None:
        """Change the trait scores; a text with "@name" changes the character too.

        Raises:
            DPGError: it cannot be read, or the model has nothing that could give it.
        """
        if text.startswith("@"):
            name, _, scores = text[1:].partition(" ")
            self._set(scores.strip(), name)
        else:
            self._set("" if text.lower() in NOTHING else text, self.character)

    def _set(self, scores: str, character: str) -> None:
        from dpg_fast.personality.scores import parse_personality

        row = parse_personality(" ".join(filter(None, (f"@{character}" if character else "", scores))) or None)
        if row is not None:
            with self.model.speaking(row, 1):  # refuses what the model cannot give
                pass
        self.scores, self.character, self.row = scores, character, row

    def label(self) -> str:
        """Who speaks, in a few characters."""
        return "bare" if self.row is None else str(self.row)

    def in_force(self) -> str:
        """Who speaks, in a sentence."""
        return "No personality: the bare model answers." if self.row is None else f"Personality: {self.row}."

    def say(self, text: str) -> None:
        """Answer, printing as the tokens come, and remember both."""
        from transformers import TextStreamer

        messages = self._fitting([*self.history, {"role": "user", "content": text}])
        streamer = TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        answer = self.model.chat(
            messages,
            personality=self.row,
            tokenizer=self.tokenizer,
            system=self.system,
            streamer=streamer,
            **self.options,
        )
        self.history = [*messages, {"role": "assistant", "content": answer}]

    def _fitting(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """The latest exchanges that fit into the model's context."""
        room = getattr(self.model.base.config.get_text_config(), "max_position_embeddings", None)
        left_out = 0
        while room is not None and len(messages) > 1:
            ids = self.model.prompts(messages, personality=self.row, tokenizer=self.tokenizer, system=self.system)
            if ids["input_ids"].shape[1] + self.options["max_new_tokens"] <= room:
                break
            messages, left_out = messages[2:], left_out + 1
        if left_out:
            typer.echo(f"(The context is full: the first {left_out} exchanges are left out from here on.)")
        return messages
