"""`phys4d doctor`: reports what this machine can run, from metadata and files, without importing optional backends."""

import importlib.util
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import phys4d
from phys4d.engine.training.adam import nvidia_apex
from phys4d.kernels import native


@dataclass(frozen=True)
class Optional:
    """An optional backend.

    distributions: names under which its version may be installed.
    purpose: what it is used for.
    install: how to install it.
    """

    distributions: tuple[str, ...]
    purpose: str
    install: str


def _extra(name: str) -> str:
    return f"pip install 'phys4d[{name}]'"


APEX = "NVIDIA apex"
OPTIONAL = {
    "flash-attn 2": Optional(
        ("flash-attn",), "attention on Ampere and newer", "pip install --no-build-isolation flash-attn"
    ),
    "flash-attn 3": Optional(
        ("flash-attn-3", "flash_attn_3", "flash-attn-hopper"),
        "attention on Hopper",
        "build it from source: the folder hopper/ of the flash-attention repository",
    ),
    "flash-attn 4": Optional(("flash-attn-4",), "attention on Hopper and Blackwell", _extra("flash")),
    "xformers": Optional(("xformers",), "attention", _extra("xformers")),
    "natten": Optional(("natten",), "attention in windows", _extra("natten")),
    "newton": Optional(("newton",), "simulation of fluids, melting and grains", _extra("newton")),
    "mujoco": Optional(("mujoco-core", "mujoco"), "simulation of rigid and soft bodies", _extra("sim")),
    "moderngl": Optional(("moderngl",), "rendering of simulated scenes", _extra("sim")),
    "opencv": Optional(
        (
            "opencv-python-headless",
            "opencv-python",
            "opencv-contrib-python-headless",
            "opencv-contrib-python",
        ),
        "optical-flow teacher",
        _extra("teachers"),
    ),
    "av": Optional(("av",), "video encoding and decoding", _extra("train")),
    "dali": Optional(
        ("nvidia-dali-cuda130", "nvidia-dali-cuda120"), "video decoding on GPUs", _extra("dali")
    ),
    "torchcodec": Optional(("torchcodec",), "video decoding", _extra("torchcodec")),
    "diffusers": Optional(("diffusers",), "video diffusion transformers", _extra("train")),
    "transformers": Optional(("transformers",), "text encoders and teachers", _extra("train")),
    "peft": Optional(("peft",), "LoRA", _extra("train")),
    "deepspeed": Optional(("deepspeed",), "ZeRO, a strategy of training on several processes", _extra("deepspeed")),
    "tensorboard": Optional(("tensorboard",), "tracking of runs", _extra("train")),
    "s3fs": Optional(("s3fs",), "datasets in S3", _extra("remote")),
    "gcsfs": Optional(("gcsfs",), "datasets in Google Cloud Storage", _extra("remote")),
    "wandb": Optional(("wandb",), "tracking of runs by Weights & Biases", _extra("wandb")),
}

_EGL_LINE = "apt-get install -y --no-install-recommends libegl1 libgl1 libgl1-mesa-dri"

# Runs in its own process, since a broken graphics driver may crash it.
_EGL_PROBE = """
import ctypes
egl = ctypes.CDLL("libEGL.so.1")
egl.eglGetProcAddress.restype = egl.eglQueryString.restype = ctypes.c_void_p
get_display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(
    egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT"))
for surfaceless_or_device in (0x31DD, 0x313F):
    display = ctypes.c_void_p(get_display(surfaceless_or_device, None, None))
    if display and egl.eglInitialize(display, None, None):
        print(*(ctypes.string_at(egl.eglQueryString(display, name)).decode() for name in (0x3053, 0x3054)))
        break
else:
    raise SystemExit("no EGL display could be initialised")
"""


def _rendering() -> dict[str, Any]:
    """Whether EGL can render without a display."""
    try:
        probe = subprocess.run([sys.executable, "-c", _EGL_PROBE], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return {"available": False, "detail": "EGL did not answer within 60 s", "install": _EGL_LINE}
    if probe.returncode == 0:
        return {"available": True, "detail": probe.stdout.strip()}
    lines = probe.stderr.strip().splitlines()
    detail = lines[-1] if lines else f"the EGL probe died with status {probe.returncode}"
    return {"available": False, "detail": detail, "install": _EGL_LINE}


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _apex() -> dict[str, Any]:
    """Detects NVIDIA's apex by its own modules; an unrelated package with the same name is never imported."""
    purpose = 'FusedAdam (optimizer.adam = "apex"); a LayerNorm that the benchmarks compare with'
    version = _version(("apex",))
    if nvidia_apex():
        return {"available": True, "version": version or "unversioned", "purpose": purpose}
    how = "build it from source: the NVIDIA/apex repository (the package named apex in the index is unrelated)"
    if importlib.util.find_spec("apex") is not None:
        how = f"{how}; an unrelated apex {version or ''} is installed".rstrip()
    return {"available": False, "install": how, "purpose": purpose}


def _backends() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, optional in OPTIONAL.items():
        version = _version(optional.distributions)
        state = {"version": version} if version else {"install": optional.install}
        found[name] = {"available": version is not None, **state, "purpose": optional.purpose}
    found[APEX] = _apex()
    return found


def _cpu() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def collect() -> dict[str, Any]:
    """The report of `phys4d doctor` as JSON values.

    Keys: "phys4d", "python", "platform", "torch", "triton", "cuda": versions (None if absent); "cpu": name, cores,
        vectors; "gpus": name, memory_gib, capability each; "native" and "rendering": available, detail; "backends": for
        each name available, purpose, and version or install.
    """
    available, reason = native.status()
    cores = len(os.sched_getaffinity(0))
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "phys4d": phys4d.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "triton": _version(("triton",)),
        "cuda": torch.version.cuda,
        "cpu": {"name": _cpu(), "cores": cores, "vectors": torch.backends.cpu.get_cpu_capability()},
        "gpus": [
            {
                "name": gpu.name,
                "memory_gib": round(gpu.total_memory / 2**30, 1),
                "capability": f"{gpu.major}.{gpu.minor}",
            }
            for gpu in gpus
        ],
        "native": {"available": available, "detail": reason},
        "rendering": _rendering(),
        "backends": _backends(),
    }


def _state(found: dict[str, Any]) -> str:
    """One line: present with its version, or absent and how to install it."""
    if found["available"]:
        return f"yes  {found.get('version') or found.get('detail')}"
    parts = [found[key] for key in ("detail", "install") if key in found]
    return f"no   {'; '.join(parts)}"


def render(report: dict[str, Any]) -> str:
    """The report of `collect` as text, one fact for each line."""
    cpu = report["cpu"]
    gpus = [f"{g['name']}, {g['memory_gib']} GiB, sm_{g['capability'].replace('.', '')}" for g in report["gpus"]]
    facts = {
        "phys4d": report["phys4d"],
        "python": f"{report['python']} on {report['platform']}",
        "torch": f"{report['torch']} ({'CUDA ' + report['cuda'] if report['cuda'] else 'CPU only'})",
        "triton": report["triton"] or "absent; pip install triton",
        "CPU": f"{cpu['name']}, {cpu['cores']} cores, {cpu['vectors']}",
        "GPU": "; ".join(gpus) or "none",
        "native kernels": _state(report["native"]),
        "EGL rendering": _state(report["rendering"]),
    }
    lines = [f"{name:<16}{fact}" for name, fact in facts.items()]
    lines.append("")
    lines.append("optional backends")
    for name, found in report["backends"].items():
        lines.append(f"  {name:<14}{_state(found)}   [{found['purpose']}]")
    return "\n".join(lines)
