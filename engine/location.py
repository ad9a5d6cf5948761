"""Where a dataset is: a local folder, or a folder of an object store or web server, named by a URL."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from phys4d.engine.errors import UserError

SCHEMES = ("s3", "gs", "gcs", "https", "http", "memory")
"""Schemes of URLs that are opened, besides file://; memory:// is the memory of this process, for tests."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")
_SCHEME_OF_PATH = re.compile(r"(\w+):/(?!/)")
_REFUSED = re.compile(r"[\x00-\x20\x7f?#\\]|::")


@dataclass(frozen=True)
class Remote:
    """A file or folder outside of this machine's file systems.

    url: without a slash at its end, as `parse_location` accepts it.
    """

    url: str

    @property
    def scheme(self) -> str:
        """The part before "://", one of `SCHEMES`."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    def __truediv__(self, name: str) -> Self:
        """The entry of that name in this folder."""
        return type(self)(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url


Location = Path | Remote
"""Where a file or folder is; both kinds have `/`, `name` and `str()`."""


def parse_location(text: str | Path | Remote) -> Location:
    """The location that a text names: a URL of one of `SCHEMES`, a file:// URL or a path.

    Raises UserError for a URL of another scheme or one that was made a path, without a bucket or server, or
        with a password, a query or characters that a URL cannot hold.
    """
    if isinstance(text, Path) and (match := _SCHEME_OF_PATH.match(str(text))) and match[1] in SCHEMES:
        raise UserError(f"{text}: is a URL that was made a path: give it as text")
    if not isinstance(text, str):
        return text
    match = _SCHEME.match(text)
    if match is None:
        return Path(text)
    scheme, rest = match[1].lower(), text[match.end() :].rstrip("/")
    if scheme == "file" and text[: match.end()].endswith("://"):
        if not rest.startswith("/"):
            raise UserError(f"{text}: expected file:/// and an absolute path")
        return Path(rest)
    if scheme not in SCHEMES or not text[: match.end()].endswith("://"):
        raise UserError(f"{text}: {scheme} is not read: expected a folder, or a URL of {', '.join(SCHEMES[:-1])}")
    server = rest.partition("/")[0]
    if not server:
        raise UserError(f"{text}: names no bucket or server: expected such as {scheme}://NAME/clips")
    if "@" in server:
        shown = f"{scheme}://...@{text.rpartition('@')[2]}"
        raise UserError(f"{shown}: a name or password in a URL would be printed and stored: give it in the environment")
    if found := _REFUSED.search(rest):
        raise UserError(f"{text}: holds {found[0]!r}, which the URL of a folder cannot: expected {scheme}://NAME/clips")
    return Remote(f"{scheme}://{rest}")
