"""Damage files by a seed, and say what reading them came to: read, refused by name, or a fault."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dpg_fast.util.errors import DPGError

SECONDS = 10
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        3,
        1.5,
        -1e9,
        1e308,
        2**31,
        2**63,
        10**400,
        float("nan"),
        float("inf"),
        -float("inf"),
    ),
    *("", " ", "\n", "x", "7", "NaN", "../../etc/passwd", "a\x00b", "x" * 5000, "(q+)+x", "\u2028", "\ud800", "None"),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [1, 2, 3], [["x", 1, 2]], ["q_proj"], {"r": 1}),
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


class Hang(BaseException):
    """Reading took longer than `SECONDS`."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise `Hang` inside when it takes too long."""

    def over(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Outcomes:
    """How often a reader read, refused, or failed; the first of each kind of fault is kept."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def fault(self, kind: str, example: str) -> None:
        self.counts[f"FAULT {kind}"] += 1
        self.faults.setdefault(kind, example)


def sweep(
    folder: Path,
    names: Sequence[str],
    read: Callable[[Path], object],
    count: int,
    seed: int,
    work: Path,
    keep: Path | None = None,
) -> Outcomes:
    """Damage one of the files ``names`` of a copy of ``folder``, ``count`` times over, and call ``read(copy)``.

    ``read`` raises AssertionError for what was read and should not have been. A damaged file that is behind a fault is copied to
    ``keep``.
    """
    found = Outcomes()
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        place = fresh(folder, work)
        name = draw.choice(list(names))
        how = damage(place / name, draw)
        damaged = (place / name).read_bytes() if (place / name).is_file() else None  # not a pipe, nor a folder
        came_to, detail = outcome(place, name, read)
        if came_to in ("read", "refused"):
            found.counts[came_to] += 1
            continue
        found.fault(came_to, f"{name}, number {number} ({how}): {detail}")
        if keep is not None and damaged is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{seed}-{number}-{name}").write_bytes(damaged)
    return found


def fresh(folder: Path, work: Path) -> Path:
    """A copy of ``folder`` in ``work``, in place of the last one."""
    place = work / "mutant"
    if place.exists():
        shutil.rmtree(place)
    shutil.copytree(folder, place)
    return place


def outcome(place: Path, name: str, read: Callable[[Path], object]) -> tuple[str, str]:
    """What ``read(place)`` with the damaged file ``name`` came to: "read", "refused" or a kind of fault; and its message."""
    try:
        with limited():
            read(place)
        return "read", ""
    except (DPGError, OSError) as error:
        named = "mutant" in str(error) or name in str(error)
        return "refused" if named else "without a file", str(error)
    except Hang:
        return "hang", f"over {SECONDS} s"
    except AssertionError as error:
        return "read and wrong", str(error)
    except Exception as error:
        return type(error).__name__, repr(error)[:600]


def damage(path: Path, draw: random.Random) -> str:
    """Damage a file; what was done."""
    whole = path.read_bytes()
    ways: list[Callable[[], str]] = [lambda: _bytes(path, whole, draw)]
    if path.suffix == ".safetensors":
        ways += 3 * [lambda: _tensors(path, whole, draw)]
    elif path.suffix == ".json":
        ways += 3 * [lambda: _structure(path, json.loads(whole), draw)]
    elif path.suffix == ".jsonl":
        ways += 3 * [lambda: _line(path, whole, draw)]
    elif path.suffix in (".yaml", ".yml"):
        import yaml

        ways += 3 * [lambda: _structure(path, yaml.safe_load(whole), draw)]
    return draw.choice(ways)()


def _bytes(path: Path, whole: bytes, draw: random.Random) -> str:
    at, length = draw.randrange(len(whole) + 1), draw.randrange(1, 40)
    kinds = {
        "cut": lambda: whole[:at],
        "flip": lambda: whole[:at] + bytes(b ^ (1 << draw.randrange(8)) for b in whole[at : at + 3]) + whole[at + 3 :],
        "insert": lambda: whole[:at] + draw.randbytes(length) + whole[at:],
        "delete": lambda: whole[:at] + whole[at + length :],
        "repeat": lambda: whole[:at] + whole,
        "mark": lambda: b"\xef\xbb\xbf" + whole,
        "utf-16": lambda: whole.decode("utf-8", "replace").encode("utf-16"),
        "latin": lambda: whole[:at] + "Ää".encode("latin-1") + whole[at:],
        "deep": lambda: b"[" * draw.choice([70, 2000, 100_000]),
        "deeper": lambda: b'{"a":' * draw.choice([70, 2000, 100_000]),
        "bomb": lambda: BOMB.encode(),
        "self": lambda: b"a: &a [*a]\n",
        "zeros": lambda: bytes(len(whole)),
        "empty": lambda: b"",
        "gzip": lambda: b"\x1f\x8b" + whole,
        "digits": lambda: b"1" * 6000,
        "nan": lambda: b"NaN",
        "spaces": lambda: b" " * 3000 + whole,
    }
    kind = draw.choice([*kinds, "pipe", "folder", "missing"])
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(kinds[kind]())
    return kind


def mutated(value: Any, draw: random.Random) -> tuple[Any, str]:
    """A JSON value with one place changed: replaced, removed, doubled, or a key added."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item)))[:6] if isinstance(item, list) else []
        places += [(item, key) for key in keys]
        waiting += [item[key] for key in keys if isinstance(item[key], (dict, list))]
    if not places or draw.random() < 0.03:
        return draw.choice(ODD), "all"
    parent, key = draw.choice(places)
    way = draw.choice(["replace", "replace", "replace", "remove", "add", "rename"])
    if way == "remove":
        del parent[key]
    elif way == "add" and isinstance(parent, dict):
        parent[draw.choice(["x", "", "schema", "names", "use_dora"])] = draw.choice(ODD)
    elif way == "add":
        parent.insert(key, draw.choice(ODD))
    elif way == "rename" and isinstance(parent, dict):
        parent[draw.choice(["x", "X" + str(key), " "])] = parent.pop(key)
    else:
        parent[key] = draw.choice(ODD)
    return value, f"{way} {key}"


def _structure(path: Path, value: Any, draw: random.Random) -> str:
    value, how = mutated(value, draw)
    path.write_text(json.dumps(value), encoding="utf-8")
    return how


def _line(path: Path, whole: bytes, draw: random.Random) -> str:
    lines = whole.splitlines(keepends=True)
    number = draw.randrange(len(lines))
    value, how = mutated(json.loads(lines[number]), draw)
    lines[number] = json.dumps(value).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    return f"line {number + 1}, {how}"


def _tensors(path: Path, whole: bytes, draw: random.Random) -> str:
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    if draw.random() < 0.35:
        if "__metadata__" in header and draw.random() < 0.5:
            name = draw.choice(list(header["__metadata__"]))
            try:
                inner, how = mutated(json.loads(header["__metadata__"][name]), draw)
                header["__metadata__"][name] = json.dumps(inner)
            except ValueError:
                header["__metadata__"][name], how = str(draw.choice(ODD)), "text"
        else:
            header, how = mutated(header, draw)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
        return f"header, {how}"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    flat = tensor.reshape(-1)
    kind = draw.choice(
        ["nan", "inf", "huge", "large", "dtype", "slice", "reshape", "flip", "drop", "rename", "more", "empty"]
    )
    if kind in ("nan", "inf", "huge", "large") and flat.numel():
        number = {"nan": float("nan"), "inf": -float("inf"), "huge": 3e38, "large": 1e9}[kind]
        flat[draw.randrange(flat.numel())] = number if tensor.is_floating_point() else draw.choice([-1, 2**31 - 1])
    elif kind == "dtype":
        tensors[name] = tensor.to(
            draw.choice([torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
        )
    elif kind == "slice" and tensor.dim() and tensor.shape[0]:
        tensors[name] = tensor[: draw.randrange(tensor.shape[0])].contiguous()
    elif kind == "reshape":
        tensors[name] = draw.choice([flat, tensor.unsqueeze(0), tensor.unsqueeze(-1)]).contiguous().clone()
    elif kind == "flip" and tensor.dim() > 1:
        tensors[name] = tensor.transpose(0, 1).contiguous()
    elif kind == "drop":
        del tensors[name]
    elif kind == "rename":
        tensors[draw.choice(["x", name + "x", name.upper(), "a" * 3000])] = tensors.pop(name)
    elif kind == "more":
        tensors[name + ".more"] = torch.ones(3)
    else:
        tensors[name] = torch.zeros(0)
    path.unlink()
    save_file(tensors, path, header.get("__metadata__"))
    return f"{kind} {name}"
