"""As much of the Hugging Face hub's HTTP interface as fetching one model takes, on a local socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def model_hub(name: str, directory: Path) -> Generator[str]:
    """Serves `directory` as the model `name`; yields the endpoint's URL."""
    files = {str(file.relative_to(directory)): file for file in directory.rglob("*") if file.is_file()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{name}/revision/"):
                self._say({"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
            elif path.startswith(f"/api/models/{name}/tree/"):
                self._say(
                    [
                        {"type": "file", "oid": "a" * 40, "path": file, "size": at.stat().st_size}
                        for file, at in files.items()
                    ]
                )
            elif path.startswith(f"/{name}/resolve/{COMMIT}/"):
                file = path.removeprefix(f"/{name}/resolve/{COMMIT}/")
                self._send(200, files[file].read_bytes(), etag=f'"{file.encode().hex()}"')
            else:
                self._send(404, b"{}", error="RepoNotFound")

        do_HEAD = do_GET  # noqa: N815  the name is the standard library's

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _say(self, document: Any) -> None:
            self._send(200, json.dumps(document).encode())

        def _send(self, status: int, body: bytes, *, etag: str = "", error: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            if etag:
                self.send_header("ETag", etag)
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
