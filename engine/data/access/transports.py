"""One request to a web server or object store, and its errors as those of a local file."""

import errno
import logging
import os
import re
import time
from typing import Any, NoReturn

from phys4d.engine.errors import UserError
from phys4d.engine.faults import RemoteError

_CONNECT, _SILENCE = 10.0, 30.0  # seconds until a connection stands, and without a byte
_LIMITED, _BUSY = 429, 408
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_made: dict[tuple[int, str], Any] = {}  # by process and kind: connections do not outlive a fork


class Transient(Exception):
    """A request failed in a way that may not repeat: no connection, no answer in time, a server that is busy."""


class HttpTransport:
    """Parts of files of a web server, which must serve ranges."""

    def size(self, url: str, timeout: float) -> int:
        """Size of the file in bytes. Raises as `read`."""
        return self._get(url, 0, 1, timeout)[1]

    def read(self, url: str, start: int, end: int, timeout: float) -> bytes:
        """Bytes `start` to `end` of the file, fewer where it ends. Raises Transient, or OSError if another attempt
        cannot help.
        """
        return self._get(url, start, end, timeout)[0]

    def _get(self, url: str, start: int, end: int, timeout: float) -> tuple[bytes, int]:
        httpx = _httpx()
        deadline = time.monotonic() + timeout
        headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        try:
            with _client().stream("GET", url, headers=headers) as answer:
                found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                if answer.status_code == 416 and found is not None:
                    return b"", int(found[3])
                if answer.status_code != 206:
                    _raise_status(url, answer.status_code)
                if found is None or found[1] is None or int(found[1]) != start:
                    raise RemoteError(errno.EREMOTEIO, "the server answers with another part than was asked for", url)
                expected = min(end, int(found[3])) - start
                data = bytearray()
                for part in answer.iter_raw():
                    data += part
                    if len(data) > expected:
                        raise RemoteError(errno.EREMOTEIO, "the server sends more than was asked for", url)
                    if time.monotonic() > deadline:
                        raise Transient(f"sent {len(data)} of {expected} bytes in {timeout:.0f} s")
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise Transient(_line(error)) from None
        except httpx.InvalidURL as error:
            raise RemoteError(errno.EREMOTEIO, _line(error), url) from None
        if len(data) != expected:
            raise Transient(f"sent {len(data)} of {expected} bytes")
        return bytes(data), int(found[3])


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise UserError("http and https are read by httpx: pip install 'phys4d[remote]'") from None
    return httpx


def _client() -> Any:
    key = (os.getpid(), "http")
    if key not in _made:
        httpx = _httpx()
        timeout = httpx.Timeout(_SILENCE, connect=_CONNECT, pool=None)
        _made.setdefault(key, httpx.Client(timeout=timeout, follow_redirects=True))
    return _made[key]


def _raise_status(url: str, status: int) -> NoReturn:
    if status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, "No such file", url)
    if status in (401, 403):
        raise PermissionError(errno.EACCES, f"Permission denied (HTTP {status})", url)
    if status in (_LIMITED, _BUSY) or status >= 500:
        raise Transient(f"HTTP {status}")
    what = "the server does not serve parts of files (HTTP ranges)" if status == 200 else f"HTTP {status}"
    raise RemoteError(errno.EREMOTEIO, what, url)


class FsspecTransport:
    """Parts of files of an object store, through the file system that fsspec has for it.

    Credentials, endpoint and options come from where these libraries look for them: AWS_*,
    GOOGLE_APPLICATION_CREDENTIALS, FSSPEC_S3_ANON, ~/.config/fsspec.
    """

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    def size(self, url: str, timeout: float) -> int:
        """Size of the file in bytes. Raises as `read`."""
        files = self._files(url)
        path = files._strip_protocol(url)
        found = self._call(url, timeout, "info", path, **({"refresh": True} if self.scheme == "s3" else {}))
        if found.get("type") != "file" or found.get("size") is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", url)
        return int(found["size"])

    def read(self, url: str, start: int, end: int, timeout: float) -> bytes:
        """Bytes `start` to `end` of the file, fewer where it ends. Raises Transient, or OSError if another attempt
        cannot help.
        """
        path = self._files(url)._strip_protocol(url)
        data = self._call(url, timeout, "cat_file", path, start=start, end=end)
        if len(data) > end - start:
            raise RemoteError(errno.EREMOTEIO, "the store sends more than was asked for", url)
        return data

    def _call(self, url: str, timeout: float, name: str, *arguments: Any, **options: Any) -> Any:
        files = self._files(url)
        try:
            if not files.async_impl:
                return getattr(files, name)(*arguments, **options)
            from fsspec.asyn import sync

            return sync(files.loop, getattr(files, f"_{name}"), *arguments, timeout=timeout, **options)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "No such file", url) from None
        except PermissionError as error:
            raise PermissionError(errno.EACCES, f"Permission denied ({_line(error)})", url) from None
        except MemoryError:
            raise
        except Exception as error:  # each library has errors of its own for a connection that failed
            if getattr(error, "code", None) == 401 or (type(error) is OSError and str(error).startswith("Forbidden")):
                raise PermissionError(errno.EACCES, f"Permission denied ({_line(error)})", url) from None  # of gcsfs
            raise Transient(_line(error)) from None

    def _files(self, url: str) -> Any:
        key = (os.getpid(), self.scheme)
        if key not in _made:
            try:
                import fsspec

                if self.scheme in _GOOGLE:  # it prints a traceback of each error that is raised here as one line
                    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
                options = {"config_kwargs": _S3} if self.scheme == "s3" else {}
                _made.setdefault(key, fsspec.filesystem(self.scheme, skip_instance_cache=True, **options))
            except ImportError as error:
                raise UserError(f"{url}: {_line(error)}: pip install 'phys4d[remote]'") from None
        return _made[key]


_GOOGLE = ("gs", "gcs")
_S3 = {"connect_timeout": _CONNECT, "read_timeout": _SILENCE, "retries": {"max_attempts": 1}}


def _line(error: BaseException) -> str:
    text = re.sub(r"\s+", " ", str(error))[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
