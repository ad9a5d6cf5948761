"""`phys4d generate` and `export`: videos from a model, and a model for other programs."""

import argparse
from pathlib import Path
from typing import Any

from phys4d.commands import Commands
from phys4d.engine.environment import Place, place
from phys4d.engine.errors import UserError, printable
from phys4d.engine.signals import keeps

_MOST_PIXELS = 1 << 16  # along a side, or frames


def add_generate(commands: Commands) -> None:
    """Adds `generate`."""
    generate = commands.add_parser("generate", help="videos with depth and motion, from a first frame and a prompt")
    generate.add_argument("--model", type=Path, required=True, help="of a run, of a stage, or a published model")
    generate.add_argument("--lora", type=Path, metavar="DIR", help="one more LoRA, such as MODEL/adapters/NAME")
    what = generate.add_argument_group("what is generated")
    what.add_argument("--image", type=Path, help="the first frame, for a model that reads one")
    what.add_argument("--prompt", help="what happens")
    what.add_argument("--batch", type=Path, metavar="JSONL", help="a line for each clip: image, prompt, seed, ...")
    what.add_argument("--suite", choices=("physics-iq",), help="all clips of a benchmark, five seconds each")
    what.add_argument("--benchmark", type=Path, metavar="DIR", help="--suite: its folder, with switch-frames")
    what.add_argument("--descriptions", type=Path, metavar="CSV", help="--suite: default: the benchmark's own")
    what.add_argument("--runs", type=int, default=1, help="--suite: clips of each view, by other seeds (default: 1)")
    what.add_argument("--negative", default="", help="what guidance leads away from (default: empty)")
    what.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    what.add_argument("--frames", type=int, help="default: the model's own")
    what.add_argument("--size", metavar="HxW", help="pixels (default: the model's own)")
    what.add_argument("--crop", action="store_true", help="keep the centre of a picture of another aspect")
    what.add_argument("--fov", type=float, default=60.0, metavar="DEGREES", help="across the picture (default: 60)")
    how = generate.add_argument_group("how it is sampled (default: as the model was published)")
    how.add_argument("--steps", type=int)
    how.add_argument("--solver", choices=("euler", "unipc", "dpm++"))
    how.add_argument("--shift", type=float, help="of the noise levels")
    how.add_argument("--guidance", type=float, help="scale of classifier-free guidance; 1: none, half the time")
    where = generate.add_argument_group("where it is computed")
    where.add_argument("--device", help="such as cpu or cuda:1 (default: the first accelerator)")
    where.add_argument("--precision", choices=("fp32", "bf16"), help="default: bf16 on an accelerator, fp32 on a CPU")
    where.add_argument(
        "--offload", choices=("none", "parts", "blocks"), default="none",
        help="what waits in host memory: nothing (default), transformer and codec in turn, or blocks one by one, too",
    )  # fmt: skip
    parts = "decode a part of each frame at a time, which takes less memory"
    where.add_argument("--vae-tiling", action="store_true", help=parts)
    out = generate.add_argument_group("what is written")
    out.add_argument("--out", type=Path, metavar="DIR", help="one clip: its folder; --batch: of folders")
    out.add_argument("--fps", type=float, default=24.0, help="of the videos (default: 24)")
    out.add_argument("--frames-png", action="store_true", help="also every frame")
    out.add_argument(
        "--points", type=int, default=100_000, metavar="N", help="most points of a frame's PLY, 0: none (default: 1e5)"
    )
    generate.add_argument(
        "--dry-run", action="store_true",
        help="count the memory that a clip takes, without weights or a GPU; --model may be a published model's name",
    )  # fmt: skip
    generate.set_defaults(command=_generate)


def _generate(options: argparse.Namespace) -> int:
    _check_options(options)
    from phys4d.engine.data.tools.framing import parse_size
    from phys4d.engine.output import check_folder
    from phys4d.generate.opening import open_model
    from phys4d.generate.physics_iq import Asked, asked_for, copy_videos, kept_frames
    from phys4d.generate.request import Request, read_requests
    from phys4d.generate.run import Options, generate
    from phys4d.generate.writing import Written

    try:
        size = None if options.size is None else parse_size(options.size)
    except ValueError as error:
        raise UserError(f"--size {options.size}: {error}") from None
    if options.dry_run:
        return _count(options, size)
    names = ("model", "lora", "frames", "steps", "solver", "shift", "precision", "fov", "crop", "offload", "vae_tiling")
    opened = open_model(options.model, options.lora, options.frames, size)
    kept = None if options.suite is None else kept_frames(options.fps, opened.size[0])
    wanted = Options(size=size, kept=kept, **{name: getattr(options, name) for name in names})
    here = place() if options.suite is not None else Place()
    device = chosen_device(options.device, here)
    defaults: dict[str, Any] = {"negative": options.negative, "seed": options.seed}
    defaults["guidance"] = opened.sampling.guidance if options.guidance is None else options.guidance
    asked: list[Asked] = []
    if options.suite is not None:
        where, text, image = options.benchmark, options.descriptions, opened.reads_image
        asked = asked_for(where, text, options.out, options.runs, defaults, here, image=image)
        places = [(clip.request, clip.folder) for clip in asked]
        check_folder(options.out)
        keeps(f"{options.out}: finished clips are kept: the same command goes on from there")
    elif options.batch is not None:
        places = [(request, options.out / request.name) for request in read_requests(options.batch, defaults)]
        check_folder(options.out)
        keeps(f"{options.out}: finished clips are kept: the same command goes on from there")
    else:
        from phys4d.engine.config import build

        values = {"prompt": options.prompt, "name": "clip", **defaults}
        if options.image is not None:
            values["image"] = options.image
        places = [(build(Request, values, "generate"), options.out)]
    done = generate(opened, wanted, places, Written(options.fps, options.frames_png, options.points), device)
    copy_videos(asked)
    there = f", {done.there} were there already" if done.there else ""
    what = "video, depth and motion" if done.geometry else "video alone: a published model has no heads"
    print(printable(f"{options.out}: {done.written} clips ({what}){there}"))
    return 0


def _count(options: argparse.Namespace, size: tuple[int, int] | None) -> int:
    from phys4d.generate.memory import count_memory
    from phys4d.models.backbone import Precision

    precision: Precision = options.precision or "bf16"
    clip, memory = count_memory(str(options.model), options.frames, size, precision, tiled=options.vae_tiling)
    tiles = ", decoded with --vae-tiling" if options.vae_tiling else ""
    print(printable(f"{options.model}: one clip of {clip[0]}x{clip[1]}x{clip[2]}, {precision}{tiles}"))
    for line in memory.lines():
        print(line)
    return 0


def add_export(commands: Commands) -> None:
    """Adds `export`."""
    export = commands.add_parser("export", help="a model for diffusers, peft or ComfyUI")
    export.add_argument("model", type=Path, help="a run folder or a model folder")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    how = export.add_mutually_exclusive_group()
    how.add_argument("--merged", action="store_true", help="the LoRA added to the transformer's weights")
    how.add_argument("--lora-only", action="store_true", help="the LoRA without the model that it belongs to")
    how.add_argument("--layout", choices=("diffusers", "comfyui"), default="diffusers", help="comfyui: the LoRA alone")
    export.add_argument(
        "--dtype", choices=("stored", "bf16"), default="stored", help="bf16: fp32 weights are rounded, half the bytes"
    )
    export.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> int:
    from phys4d.export.run import What, export

    what: What = "merged" if options.merged else "lora" if options.lora_only else "whole"
    if options.layout == "comfyui":
        what = "comfyui"
    print(printable(export(options.model, options.out, what, options.dtype)))
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Raises UserError for options that are out of range or exclude each other; milliseconds."""
    alone = {"--image": options.image, "--prompt": options.prompt}
    given = [name for name, value in alone.items() if value is not None]
    if options.batch is not None and given:
        raise UserError(f"{given[0]}: not with --batch, whose lines say it")
    if options.suite is not None:
        if given or options.batch is not None:
            raise UserError(f"{(*given, '--batch')[0]}: not with --suite, whose benchmark says it")
        if options.benchmark is None or options.dry_run:
            raise UserError(f"--suite {options.suite}: expected --benchmark, its folder, and no --dry-run")
    elif options.benchmark is not None or options.descriptions is not None or options.runs != 1:
        raise UserError("--benchmark, --descriptions, --runs: belong to --suite physics-iq")
    if options.dry_run:
        alone |= {"--batch": options.batch, "--out": options.out, "--lora": options.lora}
        if given := [name for name, value in alone.items() if value is not None]:
            raise UserError(f"{given[0]}: not with --dry-run, which generates nothing")
    elif options.out is None:
        raise UserError("--out: is needed, the folder to write")
    elif options.batch is None and options.suite is None and options.prompt is None:
        raise UserError("--prompt: is needed, or --batch with a line for each clip")
    ranges = {
        "--frames": (options.frames, 1, _MOST_PIXELS), "--steps": (options.steps, 1, 1000),
        "--shift": (options.shift, 0.01, 100), "--guidance": (options.guidance, 1, 100), "--fov": (options.fov, 1, 179),
        "--fps": (options.fps, 0.1, 1000), "--points": (options.points, 0, 1 << 26),
        "--seed": (options.seed, 0, 1 << 62), "--runs": (options.runs, 1, 1000),
    }  # fmt: skip
    for name, (value, least, most) in ranges.items():
        if value is not None and not least <= value <= most:
            raise UserError(f"{name} {value}: expected {least} to {most}")


def chosen_device(name: str | None, here: Place | None = None) -> Any:
    """The device of this name, or the accelerator of this process; UserError where there is none."""
    import torch

    from phys4d.engine.distributed.parallel import own_device

    if name is None:
        return own_device(0, 0) if here is None else own_device(here.rank, here.local_rank)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"--device {name}: is not there ({' '.join(str(error).split())[:200]})") from None
    if device.type == "meta":
        raise UserError(f"--device {name}: computes nothing: name cpu or an accelerator, such as cuda")
    return device
