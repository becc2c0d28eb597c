"""A small Hub on a real socket: repositories of models that huggingface_hub's own client creates, fills and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class Hub(ThreadingHTTPServer):
    """`repositories`: name -> file -> contents; `private`: what each was asked to be; `token`: the one that may write."""

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.token = token
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}

    def sha(self, name: str) -> str:
        """Of what the repository holds, as a commit."""
        state = hashlib.sha1()
        for path, content in sorted(self.repositories[name].items()):
            state.update(path.encode() + b"\0" + content)
        return state.hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code: str) -> None:
        self.answer(404, {"error": code}, {"X-Error-Code": code})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        words = urlsplit(self.path).path.strip("/").split("/")
        if words == ["api", "validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, {"error": "a token is needed"})
        if words == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            known = name in self.server.repositories
            if not known:
                private = asked.get("private") or asked.get("visibility") == "private"  # as older and newer clients ask
                self.server.repositories[name], self.server.private[name] = {}, bool(private)
            return self.answer(409 if known else 200, {"url": f"{self.server.url}/{name}", "name": name})
        match words:
            case ["api", "models", owner, model, "preupload", _]:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    for file in json.loads(body)["files"]
                ]
                return self.answer(200, {"files": files})
            case ["api", "models", owner, model, "commit", _]:
                files = self.server.repositories[f"{owner}/{model}"]
                for line in body.splitlines():
                    row = json.loads(line)
                    if row["key"] == "file":
                        files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                    elif row["key"] == "deletedFile":
                        del files[row["value"]["path"]]
                sha = self.server.sha(f"{owner}/{model}")
                url = f"{self.server.url}/{owner}/{model}/commit/{sha}"
                return self.answer(200, {"success": True, "commitOid": sha, "commitUrl": url})
        return self.missing("EntryNotFound")

    def do_GET(self) -> None:
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        if words[:2] == ["api", "models"]:
            words = words[2:]
        name = "/".join(words[:2])
        if name not in self.server.repositories:
            return self.missing("RepoNotFound")
        files, sha = self.server.repositories[name], self.server.sha(name)
        match words[2:]:
            case [] | ["revision", _]:
                siblings = [{"rfilename": path} for path in files]
                return self.answer(200, {"id": name, "sha": sha, "siblings": siblings, "private": False, "tags": []})
            case ["tree", *_]:
                tree = [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in files.items()]
                return self.answer(200, tree)
            case ["resolve", _, *path] if "/".join(path) in files:
                content = files["/".join(path)]
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                return self.answer(200, content, {"ETag": etag, "X-Repo-Commit": sha})
        return self.missing("EntryNotFound")

    do_HEAD = do_GET


@contextmanager
def local_hub(monkeypatch: pytest.MonkeyPatch, home: Path, token: str = "hf_local") -> Iterator[Hub]:
    """A Hub that huggingface_hub's client of this process talks to, with a cache and a token of its own."""
    from huggingface_hub import constants

    with Hub(token) as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        settings = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,  # its storage is another service
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", token)
        yield hub
        hub.shutdown()
        thread.join()
