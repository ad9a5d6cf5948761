"""The files of a finished run without training: analytic clips, and stages with decreasing errors."""

import json
from pathlib import Path

import numpy as np

from phys4d.report.tables import METRICS

STAGES = ("pretrain", "finetune", "reinforce")
CAPTION = 'a <b>red</b> sphere & a "blue" cube'


def sphere_clip(rng, size: int, frames: int) -> dict[str, np.ndarray]:
    """A sphere of constant velocity before a tilted wall: analytic colour, depth and motion."""
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    velocity, centre = rng.uniform(-1, 1, 2) * size / 30, rng.uniform(0.35, 0.65, 2) * size
    radius, approach = rng.uniform(0.12, 0.2) * size, rng.uniform(-0.03, 0.03)
    colour = rng.uniform(80, 255, 3)
    video, depth, instance = [], [], []
    for t in range(frames):
        du, dv = columns - centre[0] - velocity[0] * t, rows - centre[1] - velocity[1] * t
        inside = du**2 + dv**2 < radius**2
        bulge = np.sqrt(np.maximum(1 - (du**2 + dv**2) / radius**2, 0))
        depth.append(np.where(inside, 2.2 - 0.3 * bulge + approach * t, 4 - 1.2 * rows / size))
        shade = np.where(inside, 0.45 + 0.55 * bulge, 0.55 + 0.1 * ((rows // 6 + columns // 6) % 2))
        video.append(np.where(inside[..., None], colour, 170.0) * shade[..., None])
        instance.append(inside)
    moving = np.stack(instance)[:-1]
    motion = np.stack([moving * velocity[0], moving * velocity[1], moving * approach])
    return {"video": np.stack(video), "depth": np.stack(depth), "motion": motion, "moving": moving}


def smooth_noise(rng, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of variance 1, alike over some four pixels as a model's errors are, with a little that is not."""
    rows, columns = (np.fft.fftfreq(n)[:, None] ** 2 for n in shape[-2:])
    spectrum = np.fft.fft2(rng.standard_normal(shape)) * np.exp(-100 * (rows + columns.T))
    blurred = np.fft.ifft2(spectrum).real
    return blurred / blurred.std() + 0.1 * rng.standard_normal(shape)


def fake_run(folder: Path, *, scenes: int, size: int, frames: int, stages: tuple[str, ...] = STAGES) -> Path:
    """Write the files of a finished run: analytic truth; stages are the truth with ever less noise."""
    rng, held_out = np.random.default_rng(0), max(40, scenes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation").mkdir()
    clips = [sphere_clip(rng, size, frames) for _ in range(scenes)]
    truth = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    truth["video"] = truth["video"].clip(0, 255).astype(np.uint8)
    truth = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in truth.items()}
    lens = np.array([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1]], dtype=np.float32)
    truth |= {
        "visible": truth["moving"], "intrinsics": np.tile(lens, (scenes, frames, 1, 1)),
        "camera_to_world": np.tile(np.eye(4, dtype=np.float32), (scenes, frames, 1, 1)), "fps": np.full(scenes, 8.0),
        "captions": np.array([CAPTION] + [f"a sphere moves, variant {k}" for k in range(1, scenes)]),
        "keys": np.array([f"scene-{k:04d}" for k in range(scenes)]),
    }  # fmt: skip
    np.savez(folder / "evaluation" / "truth.npz", **truth)
    names = {
        "key": [f"scene-{k:04d}" for k in range(held_out)], "family": ["fall"] * held_out,
        "category": ["rigid", "fluid"] * (held_out // 2),
    }  # fmt: skip
    summary: dict = {"stages": {}, "baselines": {}}
    for i, stage in enumerate(STAGES):
        if stage not in stages:
            continue
        level = (1.0, 0.35, 0.3)[i]
        rewards = -0.3 * level + 0.02 * rng.standard_normal(held_out)
        arrays = {}
        for prefix in ("read_", ""):
            noise = smooth_noise(rng, truth["depth"].shape)
            arrays[prefix + "depth"] = (truth["depth"] * np.exp(0.1 * level * noise)).astype(np.float32)
            motion = truth["motion"] + 0.3 * level * smooth_noise(rng, truth["motion"].shape)
            arrays[prefix + "motion"] = motion.astype(np.float32)
        soft = 30 * level * smooth_noise(rng, truth["depth"].shape)[..., None]
        video = (truth["video"] + soft).clip(0, 255).astype(np.uint8)
        np.savez(
            folder / "evaluation" / f"{stage}.npz",
            **arrays,
            video=video,
            reward=rewards[:scenes].astype(np.float32),
        )
        table = {
            "scenes": {"reward": rewards.tolist(), "epe": (level + 0.1 * rng.uniform(size=held_out)).tolist()},
            "baseline_scenes": {"zero_motion": {"epe": rng.uniform(1.2, 2, held_out).tolist()}},
            "names": names, "reader": "0" if stage == "pretrain" else "1",
        }  # fmt: skip
        (folder / "evaluation" / f"{stage}.json").write_text(json.dumps(table))
        figures = {m.key: float(rng.uniform(0.01, 1)) for m in METRICS} | {"reward": float(rewards.mean())}
        errors = {f"{name}_se": abs(value) / 20 for name, value in figures.items()}
        summary["stages"][stage] = figures | errors | {"psnr_moving": 14.25 + i, "psnr_moving_se": 0.31}
    change = {"absrel": -0.0125, "absrel_se": 0.001, "delta1": 0.02, "delta1_se": 0.0}
    summary["changes"] = {"pretrain to finetune": change}
    summary["baselines"] = {
        "zero_motion": {"epe": 0.0893, "epe_moving": 1.6217},
        "static_video": {"chamfer_4d": 0.19, "reward": -2.0, "psnr_moving": 11.4},
        "true_video": {"chamfer_4d": 0.1, "reward": -0.17},
        "truth": {"chamfer_4d": 0.0, "reward": 0.0},
    }
    summary["readers"] = {stage: "0" if stage == "pretrain" else "1" for stage in summary["stages"]}
    summary |= {
        "seconds": 512.3,
        "peak_rss_mb": 3120.5,
        "stage_seconds": {"backbone": 210.0, "pretrain": 61.0},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    provenance = {
        "git_revision": "0123456789abcdef-dirty", "torch": "2.13.0", "flash": None, "cpu": "a <fast> machine",
        "cores": 2, "gpus": [], "date": "2026-01-02T03:04:05+00:00",
        "command": "/somewhere/bin/phys4d demo --set a=1",
    }  # fmt: skip
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "config.toml").write_text('name = "<demo>"\n[evaluate]\nscenes = 40\nsamples = 4\n')
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in fake_metrics(rng, stages)))
    return folder


def fake_metrics(rng, stages: tuple[str, ...]) -> list[str]:
    """Log lines of all stages, one half line among them as a kill leaves it."""
    lines = []
    for stage in ("backbone", *[stage for stage in stages if stage != "reinforce"]):
        for step in range(10, 1400, 10):
            loss = (0.02 + np.exp(-step / 60)) * rng.uniform(0.8, 1.25)
            entry = {"loss": loss, "grad_norm": 1.0, "depth_loss": loss / 2, "bad": None}
            lines.append(json.dumps({"stage": stage, "step": step, "time": 0.0, **entry}))
    if "reinforce" in stages:
        for step in range(1, 26):
            policy = {"reward": -0.3 + 0.001 * step + 0.01 * rng.standard_normal(), "reward_group_std": 0.02}
            policy |= {"ratio": 1.0, "ratio_std": 4e-3 * rng.uniform(), "clip_fraction": 0.1 * rng.uniform()}
            policy |= {"kl": 1e-6 * step**2}
            lines.append(json.dumps({"stage": "reinforce", "step": step, "time": 0.0, **policy}))
    return [*lines, '{"stage": "rein']
