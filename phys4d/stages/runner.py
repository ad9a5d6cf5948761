"""Carries a run out: each stage from the model before it to the model that it writes."""

import math
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from phys4d.caches.lookup import find_cache, line
from phys4d.caches.source import Source
from phys4d.clips import Clips
from phys4d.engine.data.dataset import ClipFault
from phys4d.engine.data.decoders.choice import choose, explain
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError, printable
from phys4d.engine.run_folder.run import Run
from phys4d.engine.training.length import shown
from phys4d.engine.training.loop import train
from phys4d.engine.training.schedule import run_in_order
from phys4d.engine.training.telemetry import Workload
from phys4d.models import folder as model_folder
from phys4d.models.folder import Loaded
from phys4d.models.placement import place
from phys4d.models.world import WorldModel, create_model
from phys4d.stages import handover
from phys4d.stages.data import data_of, largest, with_caches
from phys4d.stages.plan import scarce
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig
from phys4d.stages.spec import ClipOrder

SKIPPED = "skipped_clip"  # in a line of metrics.jsonl: the key of a clip, beside its fault


def execute(config: RunConfig, run: Run, parallel: Parallel, *, resume: bool, after: Callable[[str], None]) -> None:
    """Runs the stages that have not finished, and after(stage) on all ranks behind each of them, finished or not.

    Before each stage the model that it starts from is compared with what the run recorded of it (`handover.compare`).
    """

    def before(stage: str, given: Path | None) -> None:
        on_all_ranks(lambda: handover.compare(run, config, stage, given))

    def one(stage: str, given: Path | None) -> None:
        table = config.table(stage)
        if run.writes and table.loop.samples is not None:
            print(f"{stage}: {shown(table.loop, STAGES[stage].samples(table))}", file=sys.stderr)
        for lack in scarce(config, stage) if run.writes else ():
            print(printable(lack), file=sys.stderr)
        with run.clock.stage(stage), parallel.at(f"the start or the end of {stage}"):
            run_stage(stage, config, run, parallel, given, resume=resume)
            on_all_ranks(lambda: handover.finish(run, config, stage))
            on_all_ranks(run.clock.save)

    outputs = {stage: config.output(stage) for stage in config.stages}
    run_in_order(config.stages, outputs, one, config.init, before=before, after=after)


def run_stage(stage: str, config: RunConfig, run: Run, parallel: Parallel, given: Path | None, *, resume: bool) -> None:
    """Trains one stage from the model in `given` and writes the model it makes."""
    table, spec = config.table(stage), STAGES[stage]
    loaded = on_all_ranks(lambda: _start(stage, config, given))
    loaded.model.backbone.precision = config.precision
    loaded.model.use_attention(config.model.attention, parallel)
    spec.objective.prepare(loaded.model, table, config.seed)
    place(loaded.model, parallel, checkpointing=config.checkpointing, compiled=config.compile)
    on_all_ranks(lambda: run.record(attention=_attention(loaded.model, parallel)))
    clips = on_all_ranks(lambda: _clips(stage, config, run, loaded, given))
    objective = spec.objective(table, loaded.model, parallel, config.seed, clips)
    on_all_ranks(lambda: choose_decoder(stage, clips, config, run, parallel))
    note_skips(clips, stage, run)
    count = spec.samples(table)
    each = count // objective.batches(0)[0].size

    def amounts() -> dict[str, float]:
        return {"clips": each * clips.drawn[stage], "tokens": each * clips.tokens[stage]}

    workload = Workload(amounts, clips.waited, loaded.model, ClipOrder(objective, each))
    try:
        train(
            objective,
            optimizer=table.optimizer,
            loop=table.loop,
            run=run,
            parallel=parallel,
            resume=resume,
            workload=workload,
        )
    except Exception as error:
        if clips.latest and not isinstance(error, UserError):
            error.add_note(f"{stage}: the latest clips were {', '.join(clips.latest)}")
        raise
    if clips.skips.clips:
        print(printable(f"{stage}: {clips.skips}"), file=sys.stderr)
    base = None if spec.owns_backbone else loaded.base
    model_folder.save(loaded.model, config.output(stage), stage=stage, base=base, parallel=parallel)


def _clips(stage: str, config: RunConfig, run: Run, loaded: Loaded, given: Path | None) -> Clips:
    """What a stage trains on, read from a cache where there is one; a line on rank 0 and provenance.json say so."""
    table, model = config.table(stage), loaded.model
    source = Source(model.config.kind, None if given is None else loaded.base)
    data = data_of(table)
    caches = [find_cache(part.folder, part.latents, config.cache, source) for part in data]
    said = "; ".join(
        line(part.folder, part.latents, config.cache, source, cache) for part, cache in zip(data, caches, strict=True)
    )
    if run.writes:
        print(printable(f"{stage}: {said}"), file=sys.stderr)
    run.record(latents={**(run.recorded("latents") or {}), stage: said})
    parts, arrays = with_caches(data, caches), STAGES[stage].arrays(table)
    return Clips(
        parts, arrays, model.text, model.grid, on_bad=table.on_bad, max_bad=table.max_bad,
        affine_depth=STAGES[stage].objective.affine_depth,
    )  # fmt: skip


def choose_decoder(stage: str, clips: Clips, config: RunConfig, run: Run, parallel: Parallel) -> None:
    """Sets the decoder of a stage's clips; prints and records which one its first sound clip gets, and why."""
    decoder = choose(config.decoder, parallel.device)
    clips.decode_by(decoder)
    line = decoder.name
    for index in range(len(clips)):
        with suppress(ClipFault, ValueError):  # a bad clip is reported when it is read
            dataset, own = clips.mixture.place(index)
            line = explain(decoder, dataset.member(dataset.row(own), "mp4"))
            break
    if run.writes and not clips.cached and line != run.recorded("decoder"):
        print(printable(f"{stage}: decoder: {line}"), file=sys.stderr)
    run.record(decoder=line)


def note_skips(clips: Clips, stage: str, run: Run) -> None:
    """Has the clips that a stage skips printed and recorded in metrics.jsonl, once each, also over resumed sessions."""

    def skipped(step: int, name: str, fault: str) -> None:
        print(printable(f"{stage}: step {step + 1}: skipped {fault}"), file=sys.stderr)
        run.note(stage, step + 1, skipped_clip=name, fault=fault)

    clips.skips.on_skip = skipped
    clips.skips.earlier = lambda: {entry[SKIPPED]: entry["fault"] for entry in run.noted(stage, SKIPPED)}


def _attention(model: WorldModel, parallel: Parallel) -> dict[str, Any]:
    """Which backends compute attention, why, and which modules keep their own code; for provenance.json."""
    try:
        return model.backbone.explain_attention(math.prod(model.grid.tokens), model.text.tokens, parallel.device)
    except ValueError as error:
        raise UserError(f'model.attention: {error}: set another, or "auto"') from None


def _start(stage: str, config: RunConfig, given: Path | None) -> Loaded:
    if given is not None and (given / model_folder.CARD).exists():
        return model_folder.load(given)
    size = largest(config.table(stage).data)
    if given is not None:
        return model_folder.released(given, config.model, size, seed=config.seed)
    return Loaded(create_model(config.model, *size, seed=config.seed), "", config.folder)

