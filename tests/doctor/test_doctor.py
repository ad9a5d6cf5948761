"""`phys4d doctor` reports every backend as present with its version, or absent with how to install it."""

import importlib.machinery
import json
import subprocess
import sys
import tomllib

import pytest

from phys4d import doctor


@pytest.fixture(scope="module")
def report():
    return doctor.collect()


def test_it_covers_the_machine_and_survives_json(report):
    assert json.loads(json.dumps(report)) == report
    assert {"phys4d", "python", "torch", "triton", "cpu", "gpus", "native", "rendering", "backends"} <= set(
        report
    )
    assert report["cpu"]["cores"] >= 1 and report["native"]["detail"]


def test_every_backend_is_present_with_a_version_or_absent_with_a_command(report):
    expected = {
        "flash-attn 2", "flash-attn 3", "flash-attn 4", "xformers", "natten", "NVIDIA apex", "newton", "mujoco",
        "moderngl", "diffusers", "peft", "transformers", "tensorboard", "opencv",
    }  # fmt: skip
    assert expected <= set(report["backends"])
    for name, found in report["backends"].items():
        assert ("version" in found) == found["available"], name
        assert ("install" in found) != found["available"], name
    assert report["rendering"]["available"] or "apt-get install" in report["rendering"]["install"]


def test_the_text_names_everything_once(report):
    lines = doctor.render(report).splitlines()
    for name in report["backends"]:
        assert sum(line.strip().startswith(f"{name} ") for line in lines) == 1
    for name in ("native kernels", "EGL rendering", "torch", "triton", "GPU"):
        assert sum(line.startswith(f"{name} ") for line in lines) == 1


def test_an_absent_backend_is_shown_with_its_command(report, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda distributions: None)
    backends = doctor._backends()
    assert not any(found["available"] for found in backends.values())
    text = doctor.render({**report, "backends": backends})
    assert "pip install 'phys4d[sim]'" in text and "pip install 'phys4d[newton]'" in text


def test_the_commands_name_extras_that_exist(repository):
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for optional in doctor.OPTIONAL.values():
        if "phys4d[" in optional.install:
            name = optional.install.split("[")[1].split("]")[0]
            lines = extras[name]
            assert any(line.startswith(dist) for line in lines for dist in optional.distributions), optional


@pytest.mark.parametrize("nvidia", [True, False])
def test_apex_is_recognised_by_its_own_modules(nvidia, tmp_path, monkeypatch):
    package = tmp_path / "apex"
    (package / "optimizers").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the namesake was imported')\n")
    if nvidia:
        (package / "optimizers" / "fused_adam.py").write_text("class FusedAdam: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.machinery.PathFinder.invalidate_caches()
    found = doctor._apex()
    assert found["available"] is nvidia
    assert nvidia or "unrelated apex" in found["install"]


def test_a_crashing_graphics_driver_does_not_crash_the_doctor(monkeypatch):
    monkeypatch.setattr(doctor, "_EGL_PROBE", "import os; os.kill(os.getpid(), 11)")
    found = doctor._rendering()
    assert not found["available"] and "status -11" in found["detail"]
    monkeypatch.setattr(doctor, "_EGL_PROBE", "import ctypes; ctypes.CDLL('libNoSuchEGL.so.1')")
    assert "libNoSuchEGL.so.1" in doctor._rendering()["detail"]


def test_no_optional_backend_is_imported(repository):
    code = (
        "import sys; from phys4d import doctor; doctor.collect(); "
        "heavy = {'diffusers', 'transformers', 'peft', 'mujoco', 'moderngl', 'cv2', 'av', 'tensorboard'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, timeout=120).returncode == 0
