"""A web server that serves parts of files (HTTP ranges), with faults on request, for tests."""

import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Served:
    """A running server. url: of its folder. sent: path and bytes of the body of each answer.

    fault: called with path and range before an answer; what it returns replaces the answer: a status, "drop" (half
        of the body), "whole" (no range), "more" (a byte more), "wait" (no answer), None (no fault).
    """

    url: str
    sent: list[tuple[str, int]] = field(default_factory=list)
    fault: Callable[[str, tuple[int, int] | None], int | str | None] = lambda path, part: None


@contextmanager
def web_server(folder: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[Served]:
    """Serves the files of a folder on a free port. certificate: files of certificate and key, for https."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, asked = folder / self.path.strip("/"), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
            part = (int(asked[1]), int(asked[2]) + 1) if asked else None
            fault = served.fault(path.name, part)
            if fault == "wait":
                ended.wait()
            if isinstance(fault, int) or not path.is_file():
                return self.answer(fault if isinstance(fault, int) else 404, b"")
            data, size = path.read_bytes(), path.stat().st_size
            if part is None or fault == "whole":
                return self.answer(200, data)
            if part[0] >= size:
                return self.answer(416, b"", f"bytes */{size}")
            body = data[slice(*part)]
            if fault == "more":
                body += b"x"
            return self.answer(206, body, f"bytes {part[0]}-{min(part[1], size) - 1}/{size}", fault == "drop")

        def answer(self, status: int, body: bytes, content_range: str = "", drop: bool = False) -> None:
            served.sent.append((self.path.rpartition("/")[2], len(body)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            try:
                self.wfile.write(body[: len(body) // 2] if drop else body)
            except OSError:  # the reader has had enough
                self.close_connection = True
            self.close_connection |= drop

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    served = Served(f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1, signed by themselves."""
    files = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return files
