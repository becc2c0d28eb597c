"""Write files and directories so that a reader never sees half of one, whatever stops the writer."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def naming(path: Path, temporary: Path | str | None = None) -> Iterator[None]:
    """Errors of the disk inside name ``path``: those without a file, and those of ``temporary`` in its place."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            found = "" if error.filename is None else str(error.filename)
            if not found:
                error.filename = str(path)
            elif temporary is not None and found.startswith(str(temporary)):
                error.filename, error.filename2 = found.replace(str(temporary), str(path), 1), None
        raise


def write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Call ``write(temporary_path)`` beside ``path``, then rename it into place.

    The directory is created if needed; on failure nothing is left behind and an existing file keeps its content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    with naming(path, path.parent.absolute() / prefix):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
        os.close(descriptor)
    try:
        with naming(path, temporary):
            write(temporary)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; a disk that is full or gone is an `OSError`, as for any file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(temporary: str) -> None:
        try:
            save_file(dict(tensors), temporary, None if metadata is None else dict(metadata))
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    write_atomically(Path(path), write)


def replace_directory(target: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(fresh_directory)`` beside ``target``, then put it into place; a directory that was there is removed.

    Parents are created if needed; on failure nothing is left behind and an existing directory stays. On Linux the two change
    places in one step, so that ``target`` is the old or the new one at any moment; elsewhere it is missing between two.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    fresh = target.with_name(f".{target.name}.{mark}.new")
    old = target.with_name(f".{target.name}.{mark}.old")
    fresh.mkdir()
    try:
        with naming(target, fresh):
            write(fresh)
        if target.exists():
            if _exchange(fresh, target):
                fresh.rename(old)
            else:
                target.rename(old)
        if not target.exists():
            fresh.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if old.is_dir():
        shutil.rmtree(old)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change places in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    done: int = rename(here, os.fsencode(first), here, os.fsencode(second), swap)
    return done == 0
