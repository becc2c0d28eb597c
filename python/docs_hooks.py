"""Hooks of mkdocs: pages of docs/ link to files of the repository outside it, which a site does not have.

Each such file becomes a page or file ``repository/<its path>``, and so do those that it links to in turn; links are rewritten.
The Markdown stays as GitHub shows it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)\s#]+)")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
ROLE = re.compile(r":(?:meth|class|func|mod|attr|data):(?=<code)")  # of docstrings that Sphinx could read too
SHIM = "https://unpkg.com/iframe-worker/shim"
FOREIGN = re.compile(
    r"""<(?:script|img|iframe)[^>]*\ssrc=["']?(?:https?:)?//[^"'>\s]+|<link[^>]*stylesheet[^>]*href=["']?https?:[^"'>\s]+"""
)
LISTED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md")


def targets(page: Path) -> list[Path]:
    """Files that a page links to."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [path for _, link in LINK.findall(text) if (path := (page.parent / link).resolve()).is_file()]


def place(path: Path) -> str:
    """Where a file of the repository lies in the site's sources."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"repository/{path.relative_to(ROOT).as_posix()}"


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside docs/ and is linked to, directly or through other added pages."""
    todo = [ROOT / name for name in LISTED]
    todo += [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.is_relative_to(DOCS):
            files.append(File.generated(config, place(path), abs_src_path=str(path)))
        if path.suffix == ".md":
            todo += [target for target in targets(path) if target.is_relative_to(ROOT)]
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at the places of their targets."""
    source = Path(page.file.abs_src_path)

    def moved(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        if not target.is_file() or not target.is_relative_to(ROOT):
            return match[0]
        return match[1] + os.path.relpath(place(target), Path(page.file.src_uri).parent).replace(os.sep, "/")

    fences = FENCE.findall(markdown)
    parts = [LINK.sub(moved, part) for part in FENCE.split(markdown)]
    return "".join(part + fence for part, fence in zip(parts, [*fences, ""], strict=True))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Leave out the roles before names in docstrings."""
    return ROLE.sub("", html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Material's offline plugin takes what searches without a server from the network: take it from docs/assets.

    Raises:
        RuntimeError: the page loads something else from the network.
    """
    here = os.path.relpath("assets/iframe_worker.js", Path(page.file.dest_uri).parent)
    output = output.replace(SHIM, here)
    if foreign := FOREIGN.findall(output):
        raise RuntimeError(f"{page.file.src_uri} loads from the network: {foreign}")
    return output


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """The same for pages that no Markdown stands behind (404)."""
    return output.replace(SHIM, "assets/iframe_worker.js")
