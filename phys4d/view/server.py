"""A page of clips, served to the browsers of this machine only."""

import base64
import re
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from phys4d.engine.errors import UserError, printable
from phys4d.report.bundle import embedded, json_inside, page
from phys4d.view.sources import Source

HOST = "127.0.0.1"
_KEPT = 16  # clips in memory
_KEYS = (
    "<kbd>space</kbd> plays and pauses, <kbd>←</kbd> <kbd>→</kbd> step, <kbd>&lt;</kbd> <kbd>&gt;</kbd> change the "
    "speed, <kbd>[</kbd> <kbd>]</kbd> change the clip, <kbd>o</kbd> orbits."
)


class ViewServer(ThreadingHTTPServer):
    """Serves `source` on the loopback address: its page, and each clip and poster when a browser asks for it.

    source: clips. port: of this machine; 0 takes a free one.

    Raises UserError if the port is taken.
    """

    daemon_threads = True

    def __init__(self, source: Source, port: int) -> None:
        self.page = _page(source).encode()
        self.count = len(source.entries())
        self.reading = Lock()  # a clip is read once, and one at a time
        self.data = lru_cache(_KEPT)(lambda number: json_inside(source.data(number)).encode())
        self.poster = lru_cache(256)(source.poster)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise UserError(f"--port {port}: {error.strerror}: choose another, or leave it out") from None

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}/"


def _page(source: Source) -> str:
    entries = source.entries()
    clips = [entry | {"address": f"clip/{n}", "poster": f"poster/{n}"} for n, entry in enumerate(entries)]
    data = embedded("index", {"figures": source.figures, "clips": clips})
    title = printable(source.title).replace("&", "&amp;").replace("<", "&lt;")
    body = (
        f"<header><h1>{title}</h1><p>{len(entries)} clips. A card shows the first frame and the last.</p>"
        f'<p class="keys"><small>{_KEYS}</small></p></header><main><section id="clips"><div id="gallery"></div>'
        "</section></main>"
    )
    return page(f"phys4d view: {source.title}", body, data, beside="'self'")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET for the page, clip/N and poster/N."""

    server: ViewServer

    def do_GET(self) -> None:
        """Answers one request; one that names another host came through another site's page, and is refused."""
        own = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]
        if self.headers.get("Host") not in own:
            self._answer(403, "text/plain", b"this page is for the browsers of this machine")
        elif self.path == "/favicon.ico":  # browsers ask for it by themselves
            self._answer(204, "image/x-icon", b"")
        elif self.path == "/":
            self._answer(200, "text/html", self.server.page)
        elif (found := re.fullmatch(r"/(clip|poster)/(\d{1,9})", self.path)) and int(found[2]) < self.server.count:
            self._clip(found[1], int(found[2]))
        else:
            self._answer(404, "text/plain", b"no such page")

    def _clip(self, what: str, number: int) -> None:
        try:
            with self.server.reading:
                if what == "clip":
                    self._answer(200, "application/json", self.server.data(number))
                    return
                picture = self.server.poster(number) or ""
            self._answer(200, "image/webp", base64.b64decode(picture.partition(",")[2]))
        except UserError as error:
            self._answer(422, "text/plain", printable(str(error)).encode())

    def _answer(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Prints nothing for a request."""
