"""Calls as files for a provider's batch interface, and its result files read back: cheaper, and done within a day.

The format is OpenAI's: JSON Lines, each with a `custom_id`, here the content address of the request, and the body that would
have been sent. A result is stored under that address, so everything that reads stored replies goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpg_fast.llm.calls import Call, request_body
from dpg_fast.llm.client import LLMClient
from dpg_fast.llm.completion import read_completion
from dpg_fast.llm.refusals import Refusal, read_refusal
from dpg_fast.llm.session import without_key
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_text
from dpg_fast.util.reading import parse_json, text_lines

ENDPOINT = "/v1/chat/completions"
MAX_REQUESTS = 50_000  # in one file, OpenAI's limits
MAX_BYTES = 190_000_000


@dataclass
class Imported:
    """What was found in result files.

    Attributes:
        stored: replies stored.
        known: replies to requests that had one already; the earlier ones stay.
        unknown: lines whose custom_id belongs to none of the calls.
        errors: custom_id -> why there is no reply.
    """

    stored: int = 0
    known: int = 0
    unknown: int = 0
    errors: dict[str, str] = field(default_factory=dict)


def export_batch(
    client: LLMClient, calls: Iterable[Call[Any]], path: Path, *, max_requests: int = MAX_REQUESTS
) -> list[tuple[Path, int]]:
    """Write the requests that stored replies do not settle; the files and how many requests each has.

    Where one file does not hold them, ``requests.jsonl`` is followed by ``requests-2.jsonl`` and so on. The key is in none.

    Raises:
        ValueError: a single request is larger than a batch file may be.
    """
    written: list[tuple[Path, int]] = []
    lines: list[str] = []
    size = 0
    seen: set[str] = set()

    def close() -> None:
        nonlocal size
        target = path if not written else path.with_name(f"{path.stem}-{len(written) + 1}{path.suffix}")
        write_text(target, "".join(lines))
        written.append((target, len(lines)))
        lines.clear()
        size = 0

    for call in calls:
        request = client.pending(call)
        if request is None or request.key in seen:
            continue
        seen.add(request.key)
        body = request_body(call, request, client.settings.model, client.parameters(call), client.learnt.mode)
        body |= body.pop("extra_body", {})
        entry = {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": body}
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        length = len(line.encode("utf-8", "surrogatepass"))
        if length > MAX_BYTES:
            raise DPGError(f"{call.item}: a request of {length:,} bytes is more than a batch file may hold")
        if len(lines) == max_requests or size + length > MAX_BYTES:
            close()
        lines.append(line)
        size += length
    if lines:
        close()
    return written


def import_batch(client: LLMClient, calls: Iterable[Call[Any]], paths: Sequence[Path]) -> Imported:
    """Store the replies in output and error files of a batch. The first reply to a request stays.

    Args:
        client: whose cache the replies go to.
        calls: those that were exported; replies to others are not stored.
        paths: the files.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line is not a batch result; the message names file and line.
    """
    wanted: dict[str, str] = {}  # key of a request -> prompt version
    settled: set[str] = set()
    for call in calls:
        request = client.pending(call)
        if request is None:
            settled.add(client.key(call))
        else:
            wanted[request.key] = call.prompt_version
    found = Imported()
    for path in paths:
        for where, line in text_lines(path):
            try:
                _store(client, parse_json(line, "the line"), wanted, settled, found)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise DPGError(f"{where}: no batch result: {error!r}") from error
    return found


def _store(
    client: LLMClient, entry: dict[str, Any], wanted: dict[str, str], settled: set[str], found: Imported
) -> None:
    key = str(entry["custom_id"])
    if key not in wanted:
        known = key in settled or client.cache.get(key) is not None
        found.known += known
        found.unknown += not known
        return
    response, error = entry.get("response"), entry.get("error")
    if error is None and response is not None and response["status_code"] == 200:
        reply = read_completion(response["body"], client.learnt.mode)
        if isinstance(reply, Refusal):
            found.errors[key] = client.settings.redact(str(reply))
            return
        reply = without_key(reply, client.settings)
        if client.cache.get(key) is not None and not client.retry_failed:
            found.known += 1
            return
        client.cache.put(
            key, reply, model=client.settings.model, prompt_version=wanted[key], replace=client.retry_failed
        )
        found.stored += 1
        found.errors.pop(key, None)
        return
    status = None if response is None else response["status_code"]
    detail = error if error is not None else (response or {}).get("body", response)
    found.errors[key] = client.settings.redact(str(read_refusal(status, json.dumps(detail))))
