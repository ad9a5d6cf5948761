"""A library that was built from other sources is not loaded, and says so."""

import json
import shutil
from pathlib import Path

import pytest

from phys4d.kernels import native


def test_what_was_built_from_other_sources_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an update of a checkout operators may be missing in it, or have other arguments."""
    folder = Path(native.__file__).parent
    shutil.copytree(folder / "src", tmp_path / "src")
    (tmp_path / "_C.so").write_bytes(b"of an earlier revision")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    whole = native._sources_digest()
    for sources in ({}, {"sources": whole}):
        (tmp_path / "_build.json").write_text(json.dumps({"outcome": "built for CPU", **sources}))
        if sources:
            (tmp_path / "src" / "library.cpp").write_text("other")
        with pytest.warns(UserWarning, match="native kernels built from other sources .*: run make venv"):
            usable, why = native._load()
        assert not usable and why.startswith("built from other sources")
    (tmp_path / "_build.json").write_text(json.dumps({"outcome": "built", "sources": native._sources_digest()}))
    usable, why = native._load()
    assert not usable and "does not load into torch" in why


@pytest.mark.skipif(not native.status()[0], reason=native.status()[1])
def test_what_is_loaded_was_built_from_the_sources_beside_it() -> None:
    record = json.loads((Path(native.__file__).parent / "_build.json").read_text())
    assert record["sources"] == native._sources_digest()
