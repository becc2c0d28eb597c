"""Published data files, fetched from their public homes at a pinned commit and checked before they are used."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dpg_fast.personality.scores import Trait
from dpg_fast.util.errors import DPGError
from dpg_fast.util.files import write_atomically
from dpg_fast.util.smollm2 import cache_root

NPTI_COMMIT = "630d2a236e5c8d2484fbd5b71249aedd1fc44195"
NPTI_URL = f"https://raw.githubusercontent.com/RUCAIBox/NPTI/{NPTI_COMMIT}/NPTI/dataset"
Part = Literal["test", "search"]
_TIMEOUT = 60.0
_LARGEST = 512 * 1024 * 1024
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PinnedFile:
    """A file under a base URL, the name it gets here, and its checksum (see `check_bytes`)."""

    path: str
    name: str
    checksum: str


def _file(part: str, trait: Trait, checksum: str) -> PinnedFile:
    name = trait.value.capitalize()
    return PinnedFile(f"{part}/{name}.json", f"{name}.jsonl", checksum)


DESCRIPTIONS = PinnedFile(
    "description.json",
    "descriptions.jsonl",
    "sha256:4089d5865fac071c61e03f05fb8dc18cf33cf226c015e9452e5e957afe44eac7",
)
TEST_FILES = (
    _file("test", Trait.OPENNESS, "sha256:2018cfdfbac763d0c921b1da7197f152c850e5d78be3f9de86af2ba6243d0acd"),
    _file("test", Trait.CONSCIENTIOUSNESS, "sha256:8980a9272a5da4c1a741df3787c0e328e365e0ea5aa55cf56d9f29e0054ec5d6"),
    _file("test", Trait.EXTRAVERSION, "sha256:ff8cce6c9cf5c6f0cbb2d5c6551eaa6294bc4c2384ded2b8460392cf54dae267"),
    _file("test", Trait.AGREEABLENESS, "sha256:160dde7ef40affc8809dee381265a50ca01ffde968aa9f24212c7a08be31858a"),
    _file("test", Trait.NEUROTICISM, "sha256:e370b3446fd7e92069039b0105bec9123e770f39b4fee29574116401e6d5b798"),
)
# The 36,000 questions of each trait are pinned by the object ids in the commit's tree (git's SHA-1 of length and content).
SEARCH_FILES = (
    _file("search", Trait.OPENNESS, "git:a53f3b04ef4337243cea226d9820ad20bfa8961b"),
    _file("search", Trait.CONSCIENTIOUSNESS, "git:c9d8bd6191cff9e918244a1e520a4bd83531519a"),
    _file("search", Trait.EXTRAVERSION, "git:f425b330ff81171037f988ceb2da6455ef0e79c1"),
    _file("search", Trait.AGREEABLENESS, "git:0a7774d7209fc1bc7ad9b5e676d10bb159ae6642"),
    _file("search", Trait.NEUROTICISM, "git:eac0228380b546e0b3b4da5bd85b231716612e8b"),
)

EVALS_COMMIT = "84fcc677e52e1902d696c32cd1a6b663e70d3993"
EVALS_URL = f"https://raw.githubusercontent.com/anthropics/evals/{EVALS_COMMIT}/persona"
STATEMENT_FILES = tuple(
    PinnedFile(f"{trait.value}.jsonl", f"{trait.value}.jsonl", checksum)
    for trait, checksum in (
        (Trait.OPENNESS, "sha256:07e3a5d29e62a27806f75bc7b015d8d9c4120edbda7e593884e036a2d32ffa7b"),
        (Trait.CONSCIENTIOUSNESS, "sha256:fd05517c0a453a7b47d19964ac6528db394c8cd00a5f74cc11d91479a20b90a6"),
        (Trait.EXTRAVERSION, "sha256:6734dc0bc84bc5929017eef6209cb9152c4e5fe4b744c7d11af8cb9749687576"),
        (Trait.AGREEABLENESS, "sha256:8caa0fa07946370fb4ec38dd82eda7d3a86591c1dc701d2e645ae33c3239f5ce"),
        (Trait.NEUROTICISM, "sha256:b2b0f426449517ed9a2d1d2b635bbc13efc0815ff2cfa361b7fbc1044d284d6a"),
    )
)


def check_bytes(data: bytes, checksum: str) -> bool:
    """Whether ``data`` has the checksum "sha256:<64 hex digits>" or "git:<40 hex digits>" (a git blob's id).

    Raises:
        ValueError: the checksum is of neither form.
    """
    kind, _, wanted = checksum.lower().partition(":")
    hexadecimal = set(wanted) <= set("0123456789abcdef")
    if kind == "sha256" and len(wanted) == 64 and hexadecimal:
        return hashlib.sha256(data).hexdigest() == wanted
    if kind == "git" and len(wanted) == 40 and hexadecimal:
        return hashlib.sha1(b"blob %d\x00" % len(data) + data, usedforsecurity=False).hexdigest() == wanted
    raise DPGError(f'a checksum is "sha256:<64 hex digits>" or "git:<40 hex digits>", not {checksum!r}')


def fetch_file(url: str, target: Path | str, checksum: str, *, timeout: float = _TIMEOUT) -> Path:
    """The file at ``target``, downloaded from ``url`` unless it is there already with the right content.

    Raises:
        OSError: the download failed (no network, no such file); the message says what to do instead.
        ValueError: what came, or a file already at ``target``, has another checksum.
    """
    target = Path(target)
    if target.exists():
        if check_bytes(target.read_bytes(), checksum):
            return target
        raise DPGError(f"{target} is there, but its checksum is not {checksum}; remove or rename it")
    check_bytes(b"", checksum)  # a misspelt checksum is found before the download
    try:
        with urllib.request.urlopen(url, timeout=timeout) as reply:
            data = _read(reply, url)
    except (OSError, ValueError) as error:  # URLError is an OSError; a malformed URL is a ValueError
        reason = getattr(error, "reason", None) or error
        raise OSError(f"cannot download {url} ({reason}); on a machine without network put it at {target}") from error
    if not check_bytes(data, checksum):
        raise DPGError(f"{url}: the {len(data):,} bytes that came do not have the checksum {checksum}")
    write_atomically(target, lambda temporary: Path(temporary).write_bytes(data))
    return target


def fetch_personalitybench(folder: Path | str | None = None, *, part: Part = "test", base_url: str = NPTI_URL) -> Path:
    """PersonalityBench's questions and persona paragraphs in a folder that `load_personalitybench` reads.

    The files come from RUCAIBox/NPTI at a pinned commit. Their authors state no licence, so they are downloaded for the
    user and not distributed with this package.

    Args:
        folder: where to put them; default: this package's cache directory.
        part: "test" (459 questions in all) or "search" (36,000 for each trait).
        base_url: a mirror with the same files.

    Raises:
        OSError, ValueError: as `fetch_file`; files fetched before stay.
    """
    if part not in ("test", "search"):
        raise DPGError(f"part is test or search, not {part!r}")
    folder = cache_root() / "personalitybench" / NPTI_COMMIT[:7] / part if folder is None else Path(folder)
    for file in (DESCRIPTIONS, *(TEST_FILES if part == "test" else SEARCH_FILES)):
        fetch_file(f"{base_url}/{file.path}", folder / file.name, file.checksum)
    return folder


def fetch_persona_statements(folder: Path | str | None = None, *, base_url: str = EVALS_URL) -> Path:
    """The folder with 1,000 statements of each trait, half of them of each pole, from anthropics/evals at a pinned commit.

    Written and labelled by others (Perez et al., arXiv 2212.09251; CC-BY-4.0). They are downloaded for the user and do not
    come with this package.

    Args:
        folder: where to put them; default: this package's cache directory.
        base_url: a mirror with the same files.

    Raises:
        OSError, ValueError: as `fetch_file`; files fetched before stay.
    """
    folder = statements_folder() if folder is None else Path(folder)
    for file in STATEMENT_FILES:
        fetch_file(f"{base_url}/{file.path}", folder / file.name, file.checksum)
    return folder


def statements_folder() -> Path:
    """Where `fetch_persona_statements` puts the files by default."""
    return cache_root() / "persona_statements" / EVALS_COMMIT[:7]


def _read(reply: object, url: str) -> bytes:
    chunks, size = [], 0
    while chunk := reply.read(_CHUNK):  # type: ignore[attr-defined]
        chunks.append(chunk)
        size += len(chunk)
        if size > _LARGEST:
            raise OSError(f"{url} is larger than {_LARGEST:,} bytes")
    return b"".join(chunks)
