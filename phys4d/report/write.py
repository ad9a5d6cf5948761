"""report.html: the results of a run for a person, in one file that needs no network."""

import os
from collections.abc import Iterable
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from phys4d.engine import toml_text
from phys4d.report.artefacts import Artefacts, read_artefacts
from phys4d.report.curves import panel
from phys4d.report.pictures import clip_style, colour_bar, strip_frames, wheel
from phys4d.report.scenes import scene
from phys4d.report.tables import definitions, further_figures, metrics_table, number, reward_sentence
from phys4d.stages.registry import STAGES
from phys4d.stages.spec import NEW, StageSpec

EXPANDED = 2  # number of scenes that are initially open


def write_report(run_folder: Path) -> Path:
    """Writes `run_folder`/report.html from the files in the folder and returns its path.

    Reads summary.json, metrics.jsonl, config.toml, provenance.json and evaluation/; absent files are reported as
    absent. Raises UserError if summary.json is missing or a file has unexpected content.
    """
    run = read_artefacts(Path(run_folder))
    template = Template((files("phys4d.report") / "page.html").read_text(encoding="utf-8"))
    sections = [_opening(run), _figures(run), _training(run), _scenes(run), _failures(run), _origin(run)]
    page = template.substitute(
        title=escape(f"phys4d: {run.folder.resolve().name}"),
        viridis=colour_bar("viridis"),
        magma=colour_bar("magma"),
        wheel=wheel(),
        clips=clip_style(*run.truth["video"].shape[1:4]) if run.truth else "",
        body="\n".join(sections),
    )
    path = run.folder / "report.html"
    partial = path.with_name(".report.html.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def _opening(run: Artefacts) -> str:
    """Title, model and stages, and the run's date, revision, time and memory."""
    config = _config(run)
    model, evaluate = config.get("model") or {}, config.get("evaluate") or {}
    kind = f"{model['kind']} " if "kind" in model else ""
    new = any(NEW in STAGES[stage].takes for stage in run.curves if stage in STAGES)
    origin = "trained from scratch on simulated clips" if new else "with given weights"
    size = f" (width {model['width']}, {model['layers']} layers)" if model.get("kind") == "tiny" else ""
    done = "; ".join(f"{name} {spec.summary}" for name, spec in STAGES.items() if name in run.curves)
    clips = "Held-out clips"
    if run.truth:
        frames, height, width = run.truth["video"].shape[1:4]
        clips += f" of {frames} frames of {height} × {width} pixels"
    count = f" on {evaluate['scenes']} scenes" if "scenes" in evaluate else ""
    samples = f" with {evaluate['samples']} generated clips each" if "samples" in evaluate else ""
    seconds, memory = run.summary.get("seconds"), run.summary.get("peak_rss_mb")
    facts = {
        "date": run.provenance.get("date"),
        "revision": run.provenance.get("git_revision"),
        "whole run": f"{number(seconds, 0)} s ({seconds / 60:.1f} minutes)" if seconds else None,
        "peak memory": f"{memory / 1024:.1f} GiB" if memory else None,
    }
    line = " · ".join(
        f'<span class="fact">{name} <b>{escape(str(value or "not recorded"))}</b></span>'
        for name, value in facts.items()
    )
    text = (
        f"A {kind}video model{size}, {origin}, that gives depth and motion together with the picture. "
        f"{f'Stages: {done}. ' if done else ''}{clips}, never trained on, give all figures{count}{samples}."
    )
    title = escape(run.folder.resolve().name)
    return f"<h1>phys4d: {title}</h1><p>{escape(text)}</p><p>{line}</p>{_stages(run)}"


def _stages(run: Artefacts) -> str:
    """Table with steps and seconds of each stage."""
    seconds = run.summary.get("stage_seconds") or {}
    names = [s for s in STAGES if s in run.curves or s in seconds] + [s for s in seconds if s not in STAGES]
    if not names:
        return ""
    steps = {
        name: int(max(curve[0][-1] for curve in run.curves[name].values())) for name in names if run.curves.get(name)
    }
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    counts = "".join(f"<td>{steps.get(name, '–')}</td>" for name in names)
    times = "".join(f"<td>{number(seconds.get(name), 0)}</td>" for name in names)
    rows = f"<tr><th>steps</th>{counts}</tr><tr><th>seconds</th>{times}</tr>"
    gates = run.summary.get("gates") or {}
    if gates:
        cells = "".join(f"<td>{escape(_gate(gates.get(name) or {}))}</td>" for name in names)
        rows += f"<tr><th>gate</th>{cells}</tr>"
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def _gate(gate: dict[str, Any]) -> str:
    """The outcome of a gate in words."""
    said = [
        f"{metric} {number(one['value'], 4)} {'meets' if one['reached'] else 'misses'} {one['condition']}"
        for metric, one in gate.items()
    ]
    return ", ".join(said) or "–"


def _figures(run: Artefacts) -> str:
    stages, baselines = run.summary["stages"], run.summary.get("baselines") or {}
    changes, readers = run.summary.get("changes") or {}, run.summary.get("readers") or {}
    policies = [(name, spec.takes[0]) for name, spec in STAGES.items() if spec.rewarded]
    sentence = " ".join(reward_sentence(*pair, stages, run.rewards, readers) for pair in policies)
    key = (
        "± standard error over scenes. ↓ less is better, ↑ more is better; the best stage of a column is "
        "marked. Grey rows are changes from stage to stage, scene by scene, and baselines, which are no models. "
        "Each stage's own heads read depth and motion of its generated clips, so reward and chamfer_4d compare only "
        "between stages with the same heads, and their change is left out elsewhere."
    )
    return (
        f"<h2>Held-out figures</h2>{metrics_table(stages, changes, baselines, readers)}<p><small>{key}</small></p>"
        f'{definitions()}<p class="verdict">{escape(sentence)}</p>{further_figures(stages, baselines)}'
    )


def _training(run: Artefacts) -> str:
    if not run.curves:
        return "<h2>Training</h2><p>metrics.jsonl is absent or empty: no curves.</p>"
    losses, parts, missing = [], [], []
    for stage, spec in STAGES.items():
        curves = run.curves.get(stage, {})
        parts += [panel(f"{stage}: {n}", *curves[n], unit=n.replace("_", " ")) for n in spec.parts if n in curves]
        if spec.rewarded:
            continue
        if not any(curve.name in curves for curve in spec.panels):
            missing.append(stage)
        losses += _curves(run, spec)
    policies = "".join(_policy(run, spec) for spec in STAGES.values() if spec.rewarded)
    note = f"<p>Unreadable lines of metrics.jsonl, left out: {run.unreadable}.</p>" if run.unreadable else ""
    absent = f"<p>No loss was logged for: {', '.join(missing)}.</p>" if missing else ""
    more = f"<details><summary>Parts of the losses</summary>{_panels(parts)}</details>" if parts else ""
    return (
        "<h2>Training</h2><p><small>Thin: as logged. Thick: centred moving mean.</small></p>"
        f"{note}{_panels(losses)}{absent}{more}{policies}"
    )


def _curves(run: Artefacts, spec: StageSpec) -> list[str]:
    """The logged panels of a stage; a curve with a spread is drawn with a band."""
    curves, drawn = run.curves.get(spec.name, {}), []
    for curve in spec.panels:
        if curve.name not in curves:
            continue
        steps, values = curves[curve.name]
        spread = curves.get(curve.spread) if curve.spread else None
        band = spread[1] if spread is not None and np.array_equal(spread[0], steps) else None
        title = f"{spec.name}: {curve.title}" + (" ± group std" if band is not None else "")
        drawn.append(panel(title, steps, values, unit=curve.unit, band=band))
    return drawn


def _policy(run: Artefacts, spec: StageSpec) -> str:
    curves = run.curves.get(spec.name, {})
    title = escape(spec.name.capitalize())
    if spec.panels[0].name not in curves:
        return f"<h3>{title}</h3><p>This run logged no {spec.name} stage.</p>"
    absent = [curve.name for curve in spec.panels if curve.name not in curves]
    note = f"<p>Not logged: {', '.join(absent)}.</p>" if absent else ""
    text = (
        "Reward of the rollouts on training scenes, other ones at every step, so it scatters; the held-out "
        "reward is in the table above."
    )
    return f"<h3>{title}</h3><p><small>{text}</small></p>{_panels(_curves(run, spec))}{note}"


def _panels(panels: Iterable[str]) -> str:
    return f'<div class="panels">{"".join(panels)}</div>'


def _scenes(run: Artefacts) -> str:
    if not run.truth:
        return "<h2>Scenes</h2><p>evaluation/truth.npz is absent: no scenes can be shown.</p>"
    scenes, frames = run.truth["video"].shape[:2]
    worst = {stage: int(np.argmin(arrays["reward"])) for stage, arrays in run.stages.items()}
    opened = set(range(EXPANDED)) | ({worst[list(worst)[-1]]} if worst else set())
    shown = [scene(run, k, "Scene", worst=worst, expanded=k in opened) for k in range(scenes)]
    strip = ", ".join(str(i) for i in strip_frames(frames))
    text = (
        f"The first {scenes} held-out scenes, not chosen. Clips loop in slow motion; below each are frames "
        f"{strip}. Motion goes from a frame to the next, so the last one is shown twice. "
        "Every colour range is common to all rows of a section; depth and motion take theirs from the truth, "
        "errors end at their 99th percentile, and a written mean is over all pixels and frames. The lowest "
        "reward of each stage is flagged, and the last stage's worst scene stands open."
    )
    pause = '<label><input type="checkbox" id="pause"> pause the clips</label>'
    return f"<h2>Scenes</h2><p>{text}</p><p>{pause}</p>{''.join(shown)}"


def _failures(run: Artefacts) -> str:
    if not run.failed:
        return "<h2>Failures</h2><p>evaluation/failures is absent: the worst scenes cannot be shown.</p>"
    failed = replace(run, truth=run.failed, stages=run.failed_stages)
    count, last = len(run.failed["keys"]), list(run.failed_stages)[-1]
    shown = [scene(failed, k, "Failure", worst={}, expanded=k == 0) for k in range(count)]
    text = f"Of all scenes that were measured, the {count} with the lowest mean reward after {last}."
    return f"<h2>Failures</h2><p>{text}</p>{''.join(shown)}"


def _origin(run: Artefacts) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(_plain(value))}</td></tr>"
        for name, value in run.provenance.items()
    )
    table = f'<table class="plain">{rows}</table>' if rows else "<p>provenance.json is absent.</p>"
    config = "<p>config.toml is absent.</p>"
    if run.config:
        summary = "<summary>config.toml, with every default resolved</summary>"
        config = f"<details>{summary}<pre>{escape(run.config)}</pre></details>"
    revision = str(run.provenance.get("git_revision") or "").removesuffix("-dirty")
    program, _, rest = str(run.provenance.get("command") or "").partition(" ")
    command = f"{'phys4d' if program.endswith('__main__.py') else Path(program).name} {rest}".strip()
    lines = [f"git checkout {revision}"] if revision else []
    lines.append(command if program else "phys4d demo")
    return (
        f"<h2>Where this comes from</h2>{table}{config}<h3>How to reproduce</h3>"
        f"<pre>{escape(chr(10).join(lines))}</pre>"
        "<p><small>Seeds are in the configuration. Figures come back exactly only on a like machine with the "
        "same versions.</small></p>"
    )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return "absent" if value is None else str(value)


def _config(run: Artefacts) -> dict[str, Any]:
    return toml_text.loads(run.config) if run.config else {}
