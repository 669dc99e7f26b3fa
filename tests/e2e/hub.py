"""A stand-in for the model hub: it answers its HTTP requests from folders, models/OWNER/NAME and datasets/OWNER/NAME."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """One commit of every repository; the requests that were made."""

    root: ClassVar[Path]
    requests: ClassVar[list[str]]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        self._answer(body.get("paths", []))

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, paths: list[str] | None = None) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.requests.append(f"{self.command} {self.path}")
        if parts[0] == "api" and len(parts) >= 4:
            kind, owner, name, *rest = parts[1:]
            self._about(self.root / kind / owner / name, rest, paths)
        elif "resolve" in parts:
            kind, parts = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
            owner, name, _, revision, *file = parts
            self._file(self.root / kind / owner / name, revision, "/".join(file))
        else:
            self._refuse("RepoNotFound")

    def _about(self, repository: Path, rest: list[str], paths: list[str] | None) -> None:
        if not repository.is_dir():
            return self._refuse("RepoNotFound")
        what, *below = rest or ["revision", REVISION]
        if below and below[0] not in (REVISION, "main"):
            return self._refuse("RevisionNotFound")
        files = sorted(path for path in repository.rglob("*") if path.is_file())
        if what == "revision":
            siblings = [{"rfilename": str(file.relative_to(repository))} for file in files]
            return self._send_json({"id": "/".join(repository.parts[-2:]), "sha": REVISION, "siblings": siblings, "tags": []})
        folder = repository / "/".join(below[1:])
        if what == "tree" and not folder.is_dir():
            return self._refuse("EntryNotFound")
        chosen = [file for file in files if folder in file.parents] if paths is None else [repository / path for path in paths]
        self._send_json([_entry(repository, path) for path in chosen if path.exists()])

    def _file(self, repository: Path, revision: str, name: str) -> None:
        file = repository / name
        if not repository.is_dir():
            return self._refuse("RepoNotFound")
        if revision not in (REVISION, "main"):
            return self._refuse("RevisionNotFound")
        if not file.is_file():
            return self._refuse("EntryNotFound")
        content = file.read_bytes()
        self._send(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": REVISION})

    def _send_json(self, content: Any) -> None:
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code}, 404)


def _entry(repository: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(repository))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": hashlib.sha1(path.read_bytes()).hexdigest()}


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The hub's address, and the requests that it is asked while this lasts."""
    requests: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"root": root, "requests": requests}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
