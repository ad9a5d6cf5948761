"""Names of datasets: paths and URLs of the listed schemes, everything else refused before a library is imported."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from phys4d.engine.errors import UserError
from phys4d.engine.location import Location, Remote, parse_location


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("clips", Path("clips")),
        ("data/my:clips", Path("data/my:clips")),
        ("file:///data/clips/", Path("/data/clips")),
        ("s3://bucket/clips/", Remote("s3://bucket/clips")),
        ("S3://bucket", Remote("s3://bucket")),
        ("gs://bucket/a b", None),
        ("https://host:8080/a%20b/clips", Remote("https://host:8080/a%20b/clips")),
        (Path("x"), Path("x")),
        (Remote("s3://b"), Remote("s3://b")),
    ],
)
def test_what_a_text_names(text: str | Path | Remote, location: Location | None) -> None:
    if location is None:
        with pytest.raises(UserError, match="holds ' ', which the URL of a folder cannot"):
            parse_location(text)
    else:
        assert parse_location(text) == location


def test_an_entry_of_a_remote_folder() -> None:
    entry = Remote("s3://bucket/clips") / "index.parquet"
    assert str(entry) == "s3://bucket/clips/index.parquet" and entry.name == "index.parquet" and entry.scheme == "s3"
    assert pickle.loads(pickle.dumps(entry)) == entry


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ftp://host/clips", "ftp is not read: expected a folder, or a URL of s3, gs, gcs, https, http"),
        ("zip://a::s3://bucket/clips", "zip is not read"),
        ("simplecache::https://host/clips", "simplecache is not read"),
        ("local://etc/passwd", "local is not read"),
        ("s3::memory://x", "s3 is not read"),
        ("s3://bucket/a::zip://b", "holds '::'"),
        ("s3://", "names no bucket or server"),
        ("file://host/clips", "expected file:/// and an absolute path"),
        ("https://me:secret@host/clips", "https://...@host/clips: a name or password in a URL would be printed"),
        (Path("s3://bucket/clips"), "s3:/bucket/clips: is a URL that was made a path"),
        ("https://host/clips?token=x", r"holds '\?'"),
        ("s3://bucket/a\nb", "holds '.n', which"),
    ],
)
def test_a_url_that_is_refused(text: str | Path, fault: str) -> None:
    with pytest.raises(UserError, match=fault) as caught:
        parse_location(text)
    assert "secret" not in str(caught.value)


def test_a_scheme_is_refused_before_a_library_is_imported() -> None:
    code = (
        "import sys\nfrom phys4d.engine.location import parse_location\n"
        "try:\n    parse_location('github://a:b@c/d')\nexcept Exception as error:\n    print(error)\n"
        "print([name for name in ('fsspec', 'httpx', 's3fs') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"github://a:b@c/d: github is not read: .*\n\[\]\n", said)
