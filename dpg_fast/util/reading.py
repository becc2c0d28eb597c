"""The one way in for files that others may have written: bounded, and refused with a `DPGError` that names file and place.

Only regular files are opened, up to a size; text is UTF-8 (or UTF-16 with its mark); JSON and YAML have a limited depth and
finite numbers; YAML has no aliases; tensors are compared with what is wanted before memory is taken for them.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import os
import stat
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dpg_fast.util.errors import DPGError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_BYTES = 1 << 28  # of a text, unpacked
MAX_YAML = 1 << 20
MAX_DEPTH = 64
MAX_WEIGHT = 1e6  # of an adapter: larger ones are damage, and their products leave the range of float32
#: models of fields of JSON files are strict: a number in quotes is a text
STRICT = ConfigDict(strict=True)


@contextmanager
def refusing(where: Path | str) -> Iterator[None]:
    """Refusals inside say where: a file, or a place in one."""
    try:
        yield
    except DPGError as error:
        if str(where) in str(error):
            raise
        raise type(error)(f"{where}: {error}") from error


def require_regular(file: int | Path, path: Path | None = None) -> None:
    """Refuse what is not a file with an end: a pipe, a device, a socket.

    Args:
        file: a descriptor, or a path.
        path: what the message names, where ``file`` is a descriptor.

    Raises:
        OSError: there is no such file, or it is a folder.
        ValueError: it is not a regular file.
    """
    mode = os.stat(file).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", str(path or file))
    if not stat.S_ISREG(mode):
        raise DPGError(f"{path or file} is not a regular file")


def open_regular(path: Path | str) -> BinaryIO:
    """A regular file, opened for reading; errors as `require_regular`."""
    path = Path(path)
    require_regular(path)
    return path.open("rb")


def read_bytes(path: Path | str, limit: int = MAX_BYTES, *, unpack: bool = False) -> bytes:
    """The content of a regular file; with ``unpack``, of a gzipped one, its unpacked content.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or longer than ``limit`` bytes; or its gzip stream is damaged.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if unpack and content.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as packed:
                content = packed.read(limit + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DPGError(f"{path}: damaged gzip data ({error})") from error
    if len(content) > limit:
        raise DPGError(f"{path} is too large: more than {limit >> 20} MiB")
    return content


def text_of(content: bytes, where: Path | str) -> str:
    """UTF-8 with or without its mark, or UTF-16 with it.

    Raises:
        ValueError: neither; the message names the byte.
    """
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DPGError(f"{where}: not UTF-8 text (byte {error.start}: {error.reason})") from error


def read_text(path: Path | str, limit: int = MAX_BYTES) -> str:
    """The text of a file; errors as `read_bytes` and `text_of`."""
    return text_of(read_bytes(path, limit), path)


def parse_json(text: str | bytes, where: Path | str, *, finite: bool = True) -> Any:
    """A JSON value.

    Args:
        text: of it; bytes are decoded.
        where: for messages.
        finite: refuse NaN and infinite numbers.

    Raises:
        ValueError: not JSON, too deep, or a number that is not finite.
    """
    text = text_of(text, where) if isinstance(text, bytes) else text
    hooks: dict[str, Any] = {"parse_constant": _not_finite, "parse_float": _finite} if finite else {}
    try:
        value = json.loads(text, **hooks)
    except json.JSONDecodeError as error:
        line = "" if ", line " in str(where) else f", line {error.lineno}"
        raise DPGError(f"{where}{line}: not JSON ({error.msg}, character {error.colno})") from error
    except RecursionError:
        raise DPGError(f"{where}: nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise DPGError(f"{where}: {error}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(value, where)
    return value


def read_json(path: Path | str, *, finite: bool = True, limit: int = MAX_BYTES, unpack: bool = False) -> Any:
    """The JSON value in a file; errors as `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, limit, unpack=unpack), path, finite=finite)


def json_lines(path: Path | str, name: str | None = None, *, finite: bool = True) -> Iterator[tuple[str, Any]]:
    """The values of a JSON Lines file with their places, "file, line 3"; empty lines are skipped.

    Args:
        path: of the file.
        name: what it is called in messages and places; its name.
        finite: refuse NaN and infinite numbers.

    Raises:
        OSError, ValueError: as `open_regular` and `parse_json`.
    """
    for where, line in text_lines(path, name):
        yield where, parse_json(line, where, finite=finite)


def text_lines(path: Path | str, name: str | None = None) -> Iterator[tuple[str, str]]:
    """The lines of a text file that hold something, each with its place, "file, line 3".

    Only a line feed ends a line, whatever Unicode a text holds. Errors as `open_regular` and `text_of`.
    """
    name = name or Path(path).name
    with open_regular(path) as file:
        wide = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # type: ignore[attr-defined]
        whole = (
            text_of(read_bytes(path), path).encode().split(b"\n")
            if wide
            else iter(lambda: file.readline(MAX_BYTES + 1), b"")
        )
        for number, line in enumerate(whole, 1):
            if len(line) > MAX_BYTES:
                raise DPGError(f"{name}, line {number}: longer than {MAX_BYTES >> 20} MiB")
            where = f"{name}, line {number}"
            if (text := text_of(line, where)).strip():
                yield where, text


def parse_yaml(text: str, where: Path | str) -> Any:
    """A YAML value of plain types, without aliases.

    Raises:
        ImportError: PyYAML is missing.
        ValueError: not YAML, with aliases, too deep, or a number that is not finite.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise DPGError(
                    f"{where}, line {event.start_mark.line + 1}: YAML aliases (*{event.anchor}) are not read"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise DPGError(f"{where}: nested more than {MAX_DEPTH} levels deep")
        value = yaml.load(text, Loader=loader)
    except DPGError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise DPGError(f"{where}: not YAML: {' '.join(str(error).split())[:300]}") from error
    for number in _leaves(value):
        if isinstance(number, float) and not math.isfinite(number):
            raise DPGError(f"{where}: {number} is not a finite number")
    return value


def read_yaml(path: Path | str) -> Any:
    """The YAML value in a file of at most 1 MiB; errors as `read_bytes`, `text_of` and `parse_yaml`."""
    return parse_yaml(read_text(path, MAX_YAML), path)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def checked(kind: Any, value: Any, where: Path | str) -> Any:
    """``value`` as ``kind``: a pydantic model, a typed dictionary, or any type that pydantic knows.

    Raises:
        ValueError: it is not; the message names the field.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise DPGError(f"{where}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first fault, with its place, in one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return (f"{where}: " if where else "") + first["msg"].removeprefix("Value error, ") + more


@contextmanager
def open_tensors(path: Path | str) -> Iterator[Any]:
    """A safetensors file, as `safetensors.safe_open` gives it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    require_regular(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise DPGError(f"{path}: not a safetensors file, or only a part of one ({error})") from error


def read_tensors(
    path: Path | str,
    wanted: Mapping[str, Tensor] | None = None,
    *,
    largest: float = math.inf,
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, all numbers finite.

    Args:
        path: of the file.
        wanted: name -> a tensor (on the meta device, say) of the shape and dtype that is wanted; floats may have another
            floating dtype in the file, and get the one wanted. None: whatever is there.
        largest: that a number may be, sign aside.

    Raises:
        OSError: it cannot be read.
        ValueError: damaged, a tensor missing, too many or of another shape or kind, or a number that is not finite or too large.
    """
    with open_tensors(path) as file:
        names = list(file.keys())
        if wanted is not None:
            _check_names(path, names, wanted)
            for name in names:
                shape = list(file.get_slice(name).get_shape())
                if shape != list(wanted[name].shape):
                    raise DPGError(f"{path}: {name} has shape {shape}, not {list(wanted[name].shape)}")
        dtypes = {name: None if wanted is None else wanted[name].dtype for name in names}
        return {name: take(file, name, path, dtype, largest=largest) for name, dtype in dtypes.items()}


def take(
    file: Any, name: str, path: Path | str, dtype: torch.dtype | None = None, *, largest: float = math.inf
) -> Tensor:
    """One tensor of an open safetensors file; see `read_tensors`."""
    if name not in file.keys():  # noqa: SIM118  # not a mapping
        raise DPGError(f"{path}: the tensor {name} is missing")
    tensor: Tensor = file.get_tensor(name)
    if tensor.is_complex() or (dtype is not None and tensor.is_floating_point() != dtype.is_floating_point):
        raise DPGError(f"{path}: {name} is {tensor.dtype}, not {dtype or 'of real numbers'}")
    if tensor.is_floating_point() and tensor.numel():
        size = float(tensor.float().abs().max())
        if not math.isfinite(size) or size > largest:
            limit = f" or above {largest:g}" if math.isfinite(largest) else ""
            raise DPGError(f"{path}: {name} holds numbers that are not finite{limit}")
    return tensor if dtype is None else tensor.to(dtype, copy=True)  # the file's own memory ends with it


def _check_names(path: Path | str, names: Collection[str], wanted: Collection[str]) -> None:
    missing, unknown = sorted(set(wanted) - set(names)), sorted(set(names) - set(wanted))
    if missing or unknown:
        said = [f"{what}: {', '.join(some[:3])}" for what, some in (("missing", missing), ("unknown", unknown)) if some]
        raise DPGError(f"{path}: other tensors than wanted ({'; '.join(said)})")


def _not_finite(name: str) -> NoReturn:
    raise DPGError(f"{name} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DPGError(f"{text[:40]} is not a finite number")
    return value


def _check_depth(value: Any, where: Path | str) -> None:
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise DPGError(f"{where}: nested more than {MAX_DEPTH} levels deep")
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        layer = [item for item in inner if isinstance(item, (dict, list))]


def _leaves(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)):
            waiting += item
        else:
            yield item
