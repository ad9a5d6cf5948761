"""report.html: the results of a run for a person, in one file that needs no network."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.engine import toml_text
from phys4d.engine.storage import replace_text
from phys4d.report.artefacts import Artefacts, read_artefacts
from phys4d.report.bars import category_bars
from phys4d.report.bundle import page
from phys4d.report.curves import panel
from phys4d.report.gallery import BESIDE, Clips, write_clips
from phys4d.report.glance import glance
from phys4d.report.tables import further_figures, number, reward_sentence
from phys4d.stages.registry import STAGES
from phys4d.stages.spec import NEW, StageSpec


def write_report(run_folder: Path) -> Path:
    """Writes `run_folder`/report.html from the files in the folder and returns its path.

    Reads summary.json, metrics.jsonl, config.toml, provenance.json and evaluation/; absent files are reported as
    absent. Clips for which the page has no room are written to the folder report-clips beside it. Raises UserError if
    summary.json is missing or a file has unexpected content.
    """
    run = read_artefacts(Path(run_folder))
    clips = write_clips(run)
    sections = {
        "": _opening(run, clips),
        "At a glance": _figures(run),
        "Clips": _scenes(clips),
        "By category": category_bars(run),
        "Training": _training(run),
        "Where this comes from": _origin(run),
    }
    path = run.folder / "report.html"
    title = f"phys4d: {run.folder.resolve().name}"
    replace_text(path, page(title, _body(sections), clips.data, beside="file:" if clips.beside else ""))
    return path


def _body(sections: dict[str, str]) -> str:
    """The sections under their titles, which the navigation leads to."""
    ids = {title: title.lower().replace(" ", "-") for title in sections if title}
    links = "".join(f'<a href="#{ids[title]}">{title}</a>' for title in ids)
    parts = [f"<header>{sections['']}</header><nav>{links}</nav><main>"]
    parts += [f'<section id="{ids[title]}"><h2>{title}</h2>{sections[title]}</section>' for title in ids]
    return "\n".join([*parts, "</main>"])


def _opening(run: Artefacts, shown: Clips) -> str:
    """Title, model and stages, and the run's date, revision, time and memory."""
    config = _config(run)
    model, evaluate = config.get("model") or {}, config.get("evaluate") or {}
    kind = f"{model['kind']} " if "kind" in model else ""
    new = any(NEW in STAGES[stage].takes for stage in run.curves if stage in STAGES)
    origin = "trained from scratch on simulated clips" if new else "with given weights"
    size = f" (width {model['width']}, {model['layers']} layers)" if model.get("kind") == "tiny" else ""
    done = "; ".join(f"{name} {spec.summary}" for name, spec in STAGES.items() if name in run.curves)
    clips = "Held-out clips"
    if shown.shape:
        frames, height, width = shown.shape
        clips += f" of {frames} frames of {height} × {width} pixels"
    count = f" on {evaluate['scenes']} scenes" if "scenes" in evaluate else ""
    samples = f" with {evaluate['samples']} generated clips each" if "samples" in evaluate else ""
    seconds, memory = run.summary.get("seconds"), run.summary.get("peak_rss_mb")
    facts = {
        "date": run.provenance.get("date"),
        "revision": _revision(run)[:12] or None,
        "whole run": f"{number(seconds, 0)} s ({seconds / 60:.1f} minutes)" if seconds else None,
        "peak memory": f"{memory / 1024:.1f} GiB" if memory else None,
    }
    line = "".join(
        f'<span class="fact">{name} <b>{escape(str(value or "not recorded"))}</b></span>'
        for name, value in facts.items()
    )
    lead = f"A {kind}video model{size}, {origin}, that gives depth and motion together with the picture."
    text = f"{f'Stages: {done}. ' if done else ''}{clips}, never trained on, give all figures{count}{samples}."
    title = escape(run.folder.resolve().name)
    return (
        f'<h1>phys4d: {title}</h1><p class="lead">{escape(lead)}</p><p>{escape(text)}</p>'
        f'<p class="facts">{line}</p>{_stages(run)}'
    )


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
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>'


def _gate(gate: dict[str, Any]) -> str:
    """The outcome of a gate in words."""
    said = [
        f"{metric} {number(one['value'], 4)} {'meets' if one['reached'] else 'misses'} {one['condition']}"
        for metric, one in gate.items()
    ]
    return ", ".join(said) or "–"


def _figures(run: Artefacts) -> str:
    stages, baselines = run.summary["stages"], run.summary.get("baselines") or {}
    readers = run.summary.get("readers") or {}
    rewards = {stage: table["scenes"].get("reward", []) for stage, table in run.tables.items()}
    policies = [(name, spec.takes[0]) for name, spec in STAGES.items() if spec.rewarded]
    sentence = " ".join(reward_sentence(*pair, stages, rewards, readers) for pair in policies)
    key = (
        "Values are means over held-out scenes ± standard errors. Changes are paired scene by scene, with 95 % "
        "bootstrap intervals in brackets and as lines about zero: green is better, red worse, grey shows no "
        "difference. Of twenty changes without a real difference about one would be coloured by chance. Each stage's "
        "own heads read depth and motion of its generated clips, so reward and chamfer_4d are compared only between "
        "stages with the same heads."
    )
    return (
        f'{glance(run)}<p><small>{key}</small></p><p class="verdict">{escape(sentence)}</p>'
        f"{further_figures(stages, baselines)}"
    )


def _training(run: Artefacts) -> str:
    if not run.curves:
        return "<p>metrics.jsonl is absent or empty: no curves.</p>"
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
        "<p>What each stage minimised, step by step. Thin lines are as logged, thick ones a centred moving mean.</p>"
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


def _scenes(clips: Clips) -> str:
    if not clips.clips:
        return "<p>evaluation/truth.npz is absent: no scenes can be shown.</p>"
    beside = (
        f" {clips.beside} of the {clips.clips} clips are in the folder {BESIDE} beside this page: keep them together."
        if clips.beside
        else ""
    )
    text = (
        "The scenes with the best, the median and the worst reward after the last stage, then the first ones, not "
        "chosen. A card shows the truth at the left and the last stage at the right. All panels and the points show "
        "the same frame. Colour ranges are common to all rows: those of depth and motion come from the truth, errors "
        f"end at their 99th percentile. Point at a panel to read its values.{beside}"
    )
    keys = (
        "<kbd>space</kbd> plays and pauses, <kbd>←</kbd> <kbd>→</kbd> step, <kbd>Home</kbd> <kbd>End</kbd> jump, "
        "<kbd>&lt;</kbd> <kbd>&gt;</kbd> change the speed, <kbd>[</kbd> <kbd>]</kbd> change the clip, "
        "<kbd>o</kbd> orbits."
    )
    script = "<noscript>The players need a browser that runs scripts.</noscript>"
    return f'<p>{text}</p><p class="keys"><small>{keys}</small></p><div id="gallery">{script}</div>'


def _origin(run: Artefacts) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{_entry(value)}</td></tr>"
        for name, value in run.provenance.items()
    )
    table = f'<table class="plain">{rows}</table>' if rows else "<p>provenance.json is absent.</p>"
    config = "<p>config.toml is absent.</p>"
    if run.config:
        summary = "<summary>config.toml, with every default resolved</summary>"
        config = f"<details>{summary}<pre>{escape(run.config)}</pre></details>"
    revision = _revision(run)
    program, _, rest = str(run.provenance.get("command") or "").partition(" ")
    command = f"{'phys4d' if program.endswith('__main__.py') else Path(program).name} {rest}".strip()
    lines = [f"git checkout {revision}"] if revision else []
    lines.append(command if program else "phys4d demo")
    return (
        f"{table}{config}<h3>How to reproduce</h3>"
        f"<pre>{escape(chr(10).join(lines))}</pre>"
        "<p><small>Seeds are in the configuration. Figures come back exactly only on a like machine with the "
        "same versions.</small></p>"
    )


def _revision(run: Artefacts) -> str:
    """The git revision, whether or not files were changed from it; "" where it is not recorded."""
    return str(run.provenance.get("git_revision") or "").removesuffix("-dirty")


def _entry(value: Any) -> str:
    """A value of provenance.json as HTML: a table as one line for each entry."""
    if isinstance(value, dict):
        lines = "".join(f"<li><b>{escape(str(name))}</b> {_entry(inner)}</li>" for name, inner in value.items())
        return f"<ul>{lines}</ul>" if lines else "none"
    if isinstance(value, list):
        return ", ".join(_entry(item) for item in value) or "none"
    return escape("absent" if value is None else str(value))


def _config(run: Artefacts) -> dict[str, Any]:
    return toml_text.loads(run.config) if run.config else {}
