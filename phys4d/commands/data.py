"""`phys4d data`: commands that check, count, copy or import datasets."""

import argparse
import os
from pathlib import Path

from phys4d.commands import Commands
from phys4d.commands.datasets import add_pixel_format
from phys4d.engine.errors import UserError, printable
from phys4d.engine.paths import given_location
from phys4d.engine.signals import keeps


def add_data(commands: Commands) -> None:
    """Adds `data` with its actions."""
    data = commands.add_parser("data", help="check datasets, look at them, import clips").add_subparsers(
        required=True, metavar="action"
    )
    cores = len(os.sched_getaffinity(0))
    verify = data.add_parser("verify", help="check every byte of a dataset, or of its cache")
    verify.add_argument("folder", help="a folder, or its URL (s3, gs, https)")
    verify.add_argument("--workers", type=int, default=cores, help="threads, one clip each (default: one per core)")
    verify.set_defaults(command=_verify)
    stats = data.add_parser("stats", help="count clips, sizes, lengths, categories, captions and bytes of a dataset")
    stats.add_argument("folder", help="a folder, or its URL (s3, gs, https)")
    stats.add_argument("--out", type=Path, metavar="PICTURE", help="histograms, too: a .png or .jpg")
    stats.set_defaults(command=_stats)
    motion = data.add_parser("motion", help="count simulated clips that move until their end, and rejected samples")
    motion.add_argument("folder", help="a folder, or its URL (s3, gs, https)")
    motion.set_defaults(command=_motion)
    card = data.add_parser("card", help="write README.md of a dataset: counts, sizes, licence, seeds, definitions")
    card.add_argument("folder", type=Path, help="the dataset folder")
    card.add_argument("--licence", required=True, metavar="NAME", help="under which you publish it, such as cc-by-4.0")
    card.set_defaults(command=_card)
    again = data.add_parser("repack", help="copy a dataset with another size, rate, codec or shards; labels follow")
    again.add_argument("folder", help="a folder, or its URL (s3, gs, https)")
    again.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    again.add_argument("--size", metavar="HxW", help="pixels, or one number; the centre is kept, resized")
    again.add_argument("--fps", type=float, help="fewer than the clips have; not for clips with motion")
    again.add_argument("--codec", choices=("h264", "vp9"), help="of the mp4, which is encoded anew")
    again.add_argument("--fov", type=float, metavar="DEGREES", help="assumed across the width, where no camera is")
    again.add_argument("--shard-bytes", type=int, help="of a shard (default: 1 GiB)")
    again.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=A,B",
        help="only clips with one of these values, such as category=fluid,rigid; repeat for several columns",
    )  # fmt: skip
    again.add_argument("--workers", type=int, default=cores, help="threads, one clip each (default: one per core)")
    again.set_defaults(command=_repack)
    index = data.add_parser("index", help="make the index of WebDataset tars of mp4, json and txt files")
    index.add_argument("folder", type=Path, help="with the tars; index.parquet is written there")
    index.add_argument("--workers", type=int, default=cores, help="threads, one clip each (default: one per core)")
    index.set_defaults(command=_index)
    encode = data.add_parser("encode", help="compute latents and text embeddings of all clips once, for training")
    encode.add_argument("folder", help="a folder, or its URL (s3, gs, https)")
    encode.add_argument(
        "--model", required=True, metavar="FOLDER",
        help="whose codec and text encoder: a model folder, a released folder, or tiny",
    )  # fmt: skip
    encode.add_argument("--out", type=Path, metavar="CACHE", help="the folder to write (default: cache in the dataset)")
    encode.add_argument(
        "--dtype", default="fp32", choices=("fp32", "bf16"),
        help="fp32 (default): training is the same to the bit; bf16: rounded, half the bytes",
    )  # fmt: skip
    encode.add_argument(
        "--on-bad", default="stop", choices=("stop", "skip"),
        help="stop (default) at a clip that cannot be encoded, or leave it out, for stages with on_bad = skip",
    )  # fmt: skip
    encode.set_defaults(command=_encode)
    sheet = data.add_parser("sheet", help="one picture of a dataset's clips, with the truth beside them")
    sheet.add_argument("folder", help="a folder, or its URL (s3, gs, https)")
    sheet.add_argument("--out", type=Path, required=True, metavar="PICTURE", help="a .png or .jpg")
    sheet.add_argument("--clips", type=int, default=36, help="the first so many (default: 36)")
    sheet.set_defaults(command=_sheet)
    videos = data.add_parser("import", help="video files (mp4, mov, webm, mkv): docs/your-own-clips.md")
    videos.add_argument("folder", type=Path, help="searched with all folders in it")
    videos.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    videos.add_argument("--frames", type=int, required=True, help="of each clip")
    videos.add_argument("--size", required=True, metavar="HxW", help="pixels, or one number; the centre is kept")
    videos.add_argument("--fps", type=float, help="of the clips: frames are picked by their time (default: 24)")
    videos.add_argument("--every", type=float, metavar="SECONDS", help="a clip each so many seconds (default: one)")
    videos.add_argument("--fov", type=float, metavar="DEGREES", help="assumed across the width (default: 60)")
    videos.add_argument("--caption", metavar="TEXT", help="of videos without one (default: empty)")
    videos.add_argument(
        "--captions", type=Path, metavar="FILE",
        help="a csv, jsonl or json with a row for each video, or prompts.txt beside videos.txt (default: found)",
    )  # fmt: skip
    videos.add_argument("--video-column", metavar="NAME", help="of that table (default: file_name, video, path, ...)")
    videos.add_argument("--caption-column", metavar="NAME", help="of that table (default: caption, text or prompt)")
    add_pixel_format(videos)
    videos.add_argument("--workers", type=int, default=cores, help="threads, one video each (default: one per core)")
    videos.set_defaults(command=_import_videos)
    replicator = data.add_parser(
        "import-replicator", help="clips that writers of NVIDIA Omniverse Replicator (Isaac Sim) left"
    )
    replicator.add_argument("folder", type=Path, help="what a writer wrote, or a folder of such folders")
    replicator.add_argument("--out", type=Path, required=True, help="the dataset folder to write")
    replicator.add_argument(
        "--fps", type=float, default=24.0, help="of the recordings, which do not say it (default: 24)"
    )
    replicator.add_argument(
        "--caption", action="append", default=[], metavar="TEXT", help="one for all clips, or repeated for each"
    )
    replicator.add_argument(
        "--depth-unit", choices=("metres", "centimetres", "millimetres"),
        help="of the recorded distances (default: metres, refused where camera or range speak against it)",
    )  # fmt: skip
    replicator.set_defaults(command=_import_replicator)


def _verify(options: argparse.Namespace) -> int:
    from phys4d.caches.card import CARD
    from phys4d.caches.verify import verify_cache
    from phys4d.engine.data.tools.verify import verify

    folder = given_location(options.folder)
    is_cache = isinstance(folder, Path) and (folder / CARD).is_file()
    if isinstance(folder, Path) and is_cache:
        problems = verify_cache(folder, workers=options.workers)
    else:
        problems = verify(folder, workers=options.workers)
    for problem in problems:
        print(printable(problem))
    if problems:
        what = "cache" if is_cache else "dataset"
        raise UserError(f"{folder}: {len(problems)} problems: write this {what} again")
    print(printable(f"{folder}: all clips are whole"))
    return 0


def _stats(options: argparse.Namespace) -> int:
    from phys4d.engine.data.files.clip_index import ClipIndex
    from phys4d.engine.data.tools.statistics import statistics
    from phys4d.report.histograms import check_picture, histograms

    if options.out is not None:
        check_picture(options.out)
    folder = given_location(options.folder)
    found = statistics(ClipIndex(folder))
    for line in (f"{folder}", *found.lines()):
        print(printable(line))
    if options.out is not None:
        histograms(found.counts, f"{folder}: {found.clips} clips, {found.seconds / 3600:.2f} h", options.out)
    return 0


def _motion(options: argparse.Namespace) -> int:
    from phys4d.simulation.activity import activity, lines

    folder = given_location(options.folder)
    for line in (f"{folder}", *lines(activity(folder))):
        print(printable(line))
    return 0


def _card(options: argparse.Namespace) -> int:
    from phys4d.engine.data.tools.card import write_card

    print(printable(f"{write_card(options.folder, licence=options.licence)}: the card of this dataset"))
    return 0


def _repack(options: argparse.Namespace) -> int:
    from phys4d.engine.config import build
    from phys4d.engine.data.files.columns import parse_where
    from phys4d.engine.data.tools.repack import RepackConfig, repack

    given = {name: getattr(options, name) for name in ("size", "fps", "codec", "fov", "shard_bytes")}
    values = {name: value for name, value in given.items() if value is not None}
    try:
        values["where"] = parse_where(options.where)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    folder = given_location(options.folder)
    count = repack(folder, options.out, build(RepackConfig, values, "data repack"), workers=options.workers)
    print(printable(f"{options.out}: {count} clips of {folder}"))
    return 0


def _index(options: argparse.Namespace) -> int:
    from phys4d.engine.data.tools.tar_index import index_tars

    done = index_tars(options.folder, workers=options.workers)
    for line in done.lines:
        print(printable(line))
    if done.ignored:
        print(printable(f"{done.ignored} files are no members of a clip, such as {done.first_ignored}"))
    left_out = f", {len(done.lines)} left out" if done.lines else ""
    print(printable(f"{options.folder}: index of {done.clips} clips in {done.shards} tars{left_out}"))
    return 0


def _encode(options: argparse.Namespace) -> int:
    from phys4d.caches.lookup import FOLDER
    from phys4d.caches.source import source_of
    from phys4d.caches.write import encode_dataset
    from phys4d.engine.distributed.collectives import on_all_ranks
    from phys4d.engine.distributed.parallel import Parallel

    folder = given_location(options.folder)
    if options.out is None and not isinstance(folder, Path):
        raise UserError(f"{folder}: name the folder of its cache: --out CACHE")
    out = options.out if options.out is not None else Path(str(folder)) / FOLDER
    keeps(f"{out}: finished shards are kept: the same command goes on from there")
    with Parallel.start() as parallel:
        model = on_all_ranks(lambda: source_of(options.model))
        parallel.on_rank_zero(model.compare_downloaded)
        card = encode_dataset(folder, out, model, parallel, dtype=options.dtype, on_bad=options.on_bad)
    if card is not None:
        left_out = f", {len(card.bad)} left out: {', '.join(sorted(card.bad))}" if card.bad else ""
        shape = ", ".join(map(str, card.sizes))
        print(printable(f"{out}: latents of {shape} and text of all clips of {folder}{left_out}"))
    return 0


def _sheet(options: argparse.Namespace) -> int:
    from phys4d.report.sheet import contact_sheet

    count = contact_sheet(given_location(options.folder), options.out, clips=options.clips)
    print(printable(f"{options.out}: {count} clips"))
    return 0


def _import_videos(options: argparse.Namespace) -> int:
    from phys4d.engine.config import build
    from phys4d.importers.videos.dataset import VideosConfig, import_videos

    given = {name: getattr(options, name) for name in VideosConfig.model_fields}
    config = build(VideosConfig, {name: value for name, value in given.items() if value is not None}, "data import")
    done = import_videos(options.folder, options.out, config, workers=options.workers)
    for line in done.lines:
        print(printable(line))
    if not done.clips:
        raise UserError(f"{options.folder}: not one clip could be made of its {len(done.lines)} files, see above")
    left_out = f", {len(done.lines)} files left out in whole or in part" if done.lines else ""
    captions = f", {done.without_caption} without a caption" if done.without_caption else ""
    print(printable(f"{options.out}: {done.clips} clips of {done.videos} videos{left_out}{captions}"))
    return 0


def _import_replicator(options: argparse.Namespace) -> int:
    from phys4d.importers.replicator.dataset import import_replicator

    done = import_replicator(
        options.folder, options.out, fps=options.fps, captions=options.caption, depth_unit=options.depth_unit
    )
    print(printable(f"{options.out}: {done.clips} clips, depth from {done.nearest:.4g} to {done.farthest:.4g} m"))
    for name, count in (("motion_vectors", done.without_vectors), ("segmentation", done.without_segmentation)):
        if count:
            what = f"{count} without {name}: see docs/import-replicator.md for what is then not known"
            print(printable(f"{options.out}: {what}"))
    return 0
