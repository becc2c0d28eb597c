"""Models behind an API among a command's options: a command takes a `Server` or a `JudgeChoice`, and gets all options of one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dpg_fast.cli.options import (
    AGAIN,
    Cache,
    Concurrency,
    DryRun,
    Judge,
    JudgeKeyEnv,
    JudgeKind,
    JudgeModel,
    JudgeUrl,
    LegacyMaxTokens,
    MaxTokens,
    Prices,
    RetryFailed,
    ServerTemperature,
    Timeout,
    WriterKeyEnv,
    WriterModel,
    WriterUrl,
    json_object,
    named_values,
    option,
)
from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    from dpg_fast.judges.choice import JudgeChoice
    from dpg_fast.llm.server import Server

Options = dict[str, tuple[Any, Any]]  # name of an option -> kind and default
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Structured(StrEnum):
    """How a reply's form is asked for."""

    AUTO = "auto"
    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    TEXT = "text"


Header = Annotated[
    list[str] | None,
    option(
        "A header to send with each call, as NAME=VARIABLE, the environment variable that holds its value." + AGAIN,
        "--header",
    ),
]
Query = Annotated[
    list[str] | None,
    option("A parameter of the address, as NAME=VALUE, such as Azure's api-version." + AGAIN, "--query"),
]
_REQUIRED = inspect.Parameter.empty
_WHO: dict[str, Options] = {
    "judge": {"model": (JudgeModel, None), "url": (JudgeUrl, None), "key_env": (JudgeKeyEnv, "OPENAI_API_KEY")},
    "writer": {
        "model": (WriterModel, _REQUIRED),
        "url": (WriterUrl, None),
        "key_env": (WriterKeyEnv, "OPENAI_API_KEY"),
    },
}
_SHARED: Options = {
    "header": (Header, None),
    "query": (Query, None),
    "temperature": (ServerTemperature, None),
    "send_temperature": (
        Annotated[bool, option("Send the temperature; --no-send-temperature leaves it to the server.")],
        True,
    ),
    "max_tokens": (MaxTokens, 1500),
    "legacy_max_tokens": (LegacyMaxTokens, False),
    "structured": (
        Annotated[
            Structured,
            option(
                "How a reply's form is asked for: with a JSON schema, as any JSON object, or in the prompt's text alone; auto "
                "begins with the first and finds out what the server knows."
            ),
        ],
        Structured.AUTO,
    ),
    "parameters": (
        Annotated[str, option('Further parameters of each call, as a JSON object such as {"seed": 1}.')],
        "{}",
    ),
    "concurrency": (Concurrency, 8),
    "timeout": (Timeout, 120.0),
    "max_retries": (
        Annotated[int, option("Attempts after overload, server errors and broken connections.", min=0)],
        6,
    ),
    "prices": (Prices, None),
    "cache": (Cache, None),
    "retry_failed": (RetryFailed, False),
    "dry_run": (DryRun, False),
}


def takes_server(who: str, **defaults: Any) -> Decorator:
    """Give a command with a parameter ``server`` the options of a model behind an API, which is made of them.

    Args:
        who: "judge" or "writer", which the model's name, address and key belong to.
        defaults: of options, where they differ.
    """
    own = {f"{who}_{name}": declared for name, declared in _WHO[who].items()}
    shared = {name: (kind, defaults.get(name, default)) for name, (kind, default) in _SHARED.items()}
    return _takes(
        "server", own | shared, lambda given: make_server({k.removeprefix(f"{who}_"): v for k, v in given.items()})
    )


def takes_judge() -> Decorator:
    """Give a command with a parameter ``judge`` the options that a `JudgeChoice` is made of."""
    own = {f"judge_{name}": declared for name, declared in _WHO["judge"].items()}
    shared = {name: _SHARED[name] for name in ("header", "query")}
    return _takes("judge", {"judge": (Judge, JudgeKind.LIKELIHOOD)} | own | shared, make_judge)


def takes_judges_model(parameter: str = "judge") -> Decorator:
    """Give a command with this parameter the options of a judge's model behind an API; None where none is named."""
    own = {f"judge_{name}": declared for name, declared in _WHO["judge"].items()}
    return _takes(parameter, own | {name: _SHARED[name] for name in ("header", "query")}, make_judges_model)


def _takes(parameter: str, options: Options, make: Callable[[dict[str, Any]], Any]) -> Decorator:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            values = {name: given.pop(name) for name in options}
            return command(**given, **{parameter: make(values)})

        _sign(run, command, parameter, options)
        return run

    return decorate


def make_judge(given: Mapping[str, Any]) -> JudgeChoice:
    """The judge that the options name.

    Raises:
        DPGError: options of another form, or that do not belong together.
    """
    from dpg_fast.judges.choice import JudgeChoice

    return JudgeChoice(
        given["judge"].value,
        given["judge_model"],
        given["judge_url"],
        given["judge_key_env"],
        headers=named_values(given["header"], "--header", "NAME=VARIABLE"),
        query=named_values(given["query"], "--query", "NAME=VALUE"),
    )


def make_judges_model(given: Mapping[str, Any]) -> Server | None:
    """The judge's model that the options name.

    Raises:
        DPGError: options of another form, or of a model that is not named.
    """
    from dpg_fast.llm.server import Server

    if not given["judge_model"]:
        if given["judge_url"] or given["header"] or given["query"]:
            raise DPGError("name the judge's model with --judge-model")
        return None
    return Server(
        given["judge_model"],
        given["judge_url"],
        given["judge_key_env"],
        headers=named_values(given["header"], "--header", "NAME=VARIABLE"),
        query=named_values(given["query"], "--query", "NAME=VALUE"),
    )


def prompted_model(
    model: str,
    url: str | None,
    key_env: str,
    parameters: str,
    header: list[str] | None,
    query: list[str] | None,
    prices: Path | None,
    dry_run: bool,
) -> Server:
    """A model that is only prompted, at temperature 0 unless its parameters name another.

    Raises:
        DPGError: options of another form.
    """
    from dpg_fast.llm.server import Server

    asked = json_object(parameters, "--api-parameters")
    return Server(
        model,
        url,
        key_env,
        temperature=asked.pop("temperature", 0.0),
        parameters=asked,
        headers=named_values(header, "--api-header", "NAME=VARIABLE"),
        query=named_values(query, "--api-query", "NAME=VALUE"),
        prices=prices,
        dry_run=dry_run,
    )


def make_server(values: Mapping[str, Any]) -> Server:
    """The server that the options name.

    Raises:
        DPGError: options of another form.
    """
    from dpg_fast.llm.server import Server

    given = dict(values)
    if not given.pop("send_temperature"):
        given["temperature"] = None
    return Server(
        model=given.pop("model") or "",
        parameters=json_object(given.pop("parameters"), "--parameters"),
        headers=named_values(given.pop("header"), "--header", "NAME=VARIABLE"),
        query=named_values(given.pop("query"), "--query", "NAME=VALUE"),
        structured=given.pop("structured").value,
        **given,
    )


def _sign(run: Any, command: Callable[..., Any], made: str, options: Options) -> None:
    """Let ``run`` show the command's parameters, with ``options`` in the place of the one that is made of them."""
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == made:
            pairs = [(name, kind, default) for name, (kind, default) in options.items()]
        else:
            kind = parameter.annotation
            kind = eval(kind, command.__globals__) if isinstance(kind, str) else kind
            pairs = [(parameter.name, kind, parameter.default)]
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
            for name, kind, default in pairs
        ]
    run.__signature__ = inspect.Signature(shown)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
