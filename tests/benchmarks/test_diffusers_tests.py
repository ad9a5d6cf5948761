"""Diffusers' tests with and without acceleration: what is fetched, how a model is accelerated, what counts."""

import subprocess

import pytest
import torch

from phys4d.benchmarks import diffusers_plugin, diffusers_tests, results
from phys4d.engine.run_folder.provenance import provenance

WAN = "tests/models/transformers/test_models_transformer_wan.py"


def outcomes(**tests):
    return {"modules": {WAN: 6}, "tests": {f"{WAN}::Test::test_{name}": how for name, how in tests.items()}}


def test_a_test_that_passes_stock_and_not_accelerated_is_named():
    row = diffusers_tests.compare(
        "wan",
        WAN,
        {
            "stock": outcomes(a="passed", b="passed", c="failed", d="skipped"),
            "construction": outcomes(a="passed", b="failed", c="failed", d="skipped"),
            "first call": outcomes(a="passed", c="passed"),
        },
    )
    assert row["stock"] == {"passed": 2, "failed": 1, "skipped": 1}
    assert row["construction"] == {
        "passed": 1, "modules": 6, "newly failing": [f"{WAN}::Test::test_b: failed"]
    }  # fmt: skip
    assert diffusers_tests.newly_failing([row]) == [
        f"construction, {WAN}::Test::test_b: failed", f"first call, {WAN}::Test::test_b: None"
    ]  # fmt: skip
    assert diffusers_tests.table([row]).splitlines()[-1] == "| wan | 2 | 1 | 1 | 1 | 6 |"


def git(folder, *arguments):
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository_of_tests(tmp_path):
    """A git repository with tests/models and src/diffusers at the tag v1."""
    folder = tmp_path / "repository"
    for path in ("tests/models/test_a.py", "src/diffusers/__init__.py"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text("")
    git(tmp_path, "init", "--quiet", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "v1")
    return folder


def test_only_the_tests_of_a_tag_are_fetched_and_once(repository_of_tests, tmp_path):
    commit = git(repository_of_tests, "rev-parse", "v1")
    source = tmp_path / "cache"
    assert diffusers_tests.fetch(source, str(repository_of_tests), "v1") == commit
    assert (source / "tests" / "models" / "test_a.py").is_file() and not (source / "src").exists()
    assert diffusers_tests.fetch(source, "nowhere", "v1") == commit


def test_what_cannot_be_fetched_or_would_hide_the_installed_diffusers_is_refused(repository_of_tests, tmp_path):
    with pytest.raises(diffusers_tests.Unavailable, match="git fetch of v2"):
        diffusers_tests.fetch(tmp_path / "cache", str(repository_of_tests), "v2")
    with pytest.raises(diffusers_tests.Unavailable, match="in place of the installed"):
        diffusers_tests.fetch(repository_of_tests, "nowhere", "v1")
    local = tmp_path / "local"
    (local / "tests" / "models").mkdir(parents=True)
    assert diffusers_tests.fetch(local, "nowhere", "v1") == "local"


def test_files_are_those_that_name_a_class(tmp_path):
    folder = tmp_path / diffusers_tests.FOLDER
    folder.mkdir(parents=True)
    for name, text in {
        "a": "from diffusers import Wan",
        "b": "from diffusers import WanVACE",
        "c": "x = (Latte)",
    }.items():
        (folder / f"test_models_transformer_{name}.py").write_text(text)
    assert diffusers_tests.files_of_families(tmp_path, ["Wan", "Latte"]) == {
        name: f"{diffusers_tests.FOLDER}/test_models_transformer_{name}.py" for name in "ac"
    }


class Model:
    def __init__(self, width):
        self.width = width

    def __call__(self, x):
        return x


class Derived(Model):
    pass


@pytest.mark.parametrize(
    ("patch", "at"), [(diffusers_plugin._after_construction, 0), (diffusers_plugin._at_first_call, 1)]
)
def test_each_model_is_accelerated_once_and_by_its_own_class(patch, at, monkeypatch):
    for kind in (Model, Derived):
        monkeypatch.setattr(kind, "__init__", kind.__init__)
        monkeypatch.setattr(kind, "__call__", kind.__call__)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    found = []
    patch(Model, lambda model: found.append(model.width))
    patch(Derived, lambda model: found.append(-model.width))
    counts = []
    model, derived = Model(3), Derived(width=4)
    counts.append(list(found))
    assert model(1) == 1 and derived(2) == 2 and model(1) == 1
    counts.append(list(found))
    assert counts == [[3, -4] if at == 0 else [], [3, -4]]
    assert torch.compile(Model(5)) is not None
    assert found == [3, -4, 5], "before it is compiled, where it was not called"


@pytest.mark.parametrize(("change", "rows"), [({}, 1), ({"torch": "1"}, 0), ({"git_revision": "0" * 40}, 0)])
def test_rows_of_the_same_kernels_without_a_new_failure_are_kept(change, rows, tmp_path):
    origin = provenance() | {"git_revision": "HEAD"}
    mode = {"newly failing": [], "passed": 1}
    good, bad = ({"family": name, "construction": mode, "first call": mode} for name in ("wan", "ltx"))
    bad["first call"] = mode | {"newly failing": ["a: failed"]}
    found = {"rows": [good, bad], "source": {}, "provenance": origin | change}
    (tmp_path / "found.json").write_text(results.json.dumps(found))
    kept = diffusers_tests.kept(tmp_path / "found.json", {}, origin)
    assert [row["family"] for row in kept] == ["wan"][:rows]
    assert diffusers_tests.kept(tmp_path / "found.json", {"commit": "another"}, origin) == []


PLANTED = {
    "tests/__init__.py": "",
    "tests/conftest.py": "from . import testing_utils\n",
    "tests/testing_utils.py": """
import pytest
def require_accelerator(case): return pytest.mark.skip("needs an accelerator")(case)
require_torch_accelerator = require_accelerator
""",
    "tests/models/__init__.py": "",
    "tests/models/transformers/__init__.py": "",
    "tests/models/transformers/test_models_transformer_latte.py": """
from diffusers import LatteTransformer3DModel
from ...testing_utils import require_accelerator

def model():
    return LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=1, sample_size=4,
        cross_attention_dim=16, attention_bias=True, patch_size=2, norm_type="ada_norm_single", caption_channels=10,
        norm_elementwise_affine=False, activation_fn="gelu-approximate", video_length=3)

@require_accelerator
def test_has_weights():
    assert list(model().parameters())

def test_has_processors_of_its_own():
    processors = [module.processor for module in model().modules() if hasattr(module, "processor")]
    assert processors and all(type(found).__module__.startswith("diffusers.") for found in processors)

def test_fails():
    assert False
""",
}


@pytest.mark.slow
def test_a_planted_test_that_only_stock_passes_is_found(tmp_path, monkeypatch, capsys):
    for name, text in PLANTED.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(
        "sys.argv", ["diffusers_tests", "--source", str(tmp_path), "--families", "latte", "--out", str(tmp_path)]
    )
    assert diffusers_tests.main() == 1
    said = capsys.readouterr().out
    assert "newly failing:" in said and said.count("test_has_processors_of_its_own: failed") == 1
    (row,) = results.json.loads((tmp_path / "diffusers-tests.json").read_text())["rows"]
    assert row["stock"] == {"passed": 2, "failed": 1} and row["first call"]["passed"] == 2


def test_nothing_fails_newly_in_the_committed_result():
    result = results.committed("diffusers-tests.json")
    assert {row["family"] for row in result["rows"]} == {
        "allegro", "chronoedit", "cogvideox", "consisid", "cosmos", "easyanimate", "hunyuan_1_5", "hunyuan_video",
        "hunyuan_video_framepack", "latte", "ltx", "ltx2", "mochi", "sana_video", "skyreels_v2", "wan", "wan_animate",
        "wan_vace",
    }  # fmt: skip
    assert result["source"]["without tests"] == ["Kandinsky5Transformer3DModel"]
    assert not diffusers_tests.newly_failing(result["rows"])
    assert all(row["stock"]["passed"] > 10 and row["construction"]["modules"] > 50 for row in result["rows"])
