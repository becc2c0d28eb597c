"""``dpg-fast serve``: one model at one address, each request with its own personality."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from dpg_fast.cli.options import (
    Adapter,
    BaseModel,
    Characters,
    Dtype,
    Mismatch,
    Precision,
    named_folders,
    option,
)
from dpg_fast.util.errors import DPGError
from dpg_fast.util.models import BUNDLED


def serve(
    base_model: BaseModel = BUNDLED,
    adapter: Adapter = None,
    character: Characters = None,
    allow_mismatch: Mismatch = False,
    dtype: Precision = Dtype.FLOAT32,
    name: Annotated[str | None, option("Name that requests give as model; by default that of the base model.")] = None,
    host: Annotated[str, option("Address to listen at; 0.0.0.0 is every address of this machine.")] = "127.0.0.1",
    port: Annotated[int, option("Port to listen at; 0 takes a free one.", min=0, max=65535)] = 8000,
    running: Annotated[int, option("Answers that are generated side by side.", min=1, max=1024)] = 64,
    waiting: Annotated[int, option("Answers that wait beyond those, before more are refused.", min=0)] = 192,
    cache_tokens: Annotated[int, option("Tokens of all running answers and their prompts together.", min=64)] = 16384,
    answer_tokens: Annotated[int, option("Longest answer where a request states no limit, in tokens.", min=1)] = 256,
    request_seconds: Annotated[float, option("Seconds that one request may take.", min=0.1)] = 600.0,
    body_bytes: Annotated[int, option("Largest body of a request.", min=1024)] = 1 << 20,
    grace: Annotated[float, option("Seconds that answers get to finish after SIGTERM or Ctrl-C.", min=0)] = 20.0,
    saved: Annotated[
        Path | None,
        option("JSON file that keeps personalities saved under a name; without it, they end with the server."),
    ] = None,
    api_keys: Annotated[
        Path | None,
        option(
            "File of API keys, one in each line. Keys may also stand in the environment variable DPG_FAST_API_KEYS, with "
            "commas between them. Without any key everybody who reaches the address may send requests."
        ),
    ] = None,
) -> None:
    """Serve a model to clients of OpenAI's API: every request may have its own personality.

    Without --adapter, the bundled SmolLM2 gets the neurons and the hypernetwork that come with the package.
    """
    from dpg_fast.judges.likelihood import LikelihoodJudge
    from dpg_fast.model.loading import BOTH, load_wrapped
    from dpg_fast.server.access import KEYS_VARIABLE, read_keys
    from dpg_fast.server.app import HTTPSettings
    from dpg_fast.server.engine import EngineLimits
    from dpg_fast.server.run import RunningServer, ServeOptions, serve
    from dpg_fast.util.models import load_base

    characters = named_folders(character, "--character")
    keys = tuple(read_keys(os.environ.get(KEYS_VARIABLE), api_keys))
    if adapter is None and base_model == BUNDLED and not characters:
        adapter = BOTH
    if adapter is None and not characters:
        raise DPGError(f"{base_model} has no adapter here: give --adapter, or --character")
    name = name or base_model.rstrip("/").rpartition("/")[2]
    if "@" in name:
        raise DPGError(f"--name {name}: the sign @ separates a personality from the name")
    model, tokenizer = load_wrapped(base_model, adapter, dtype.torch, characters, allow_mismatch=allow_mismatch)
    options = ServeOptions(
        name,
        EngineLimits(running, waiting, step_tokens=max(512, running), cache_tokens=cache_tokens),
        HTTPSettings(keys, body_bytes),
        answer_tokens,
        request_seconds,
        grace,
        saved,
    )
    serve(RunningServer(model, tokenizer, options, lambda: LikelihoodJudge(*load_base(BUNDLED))), host, port)
