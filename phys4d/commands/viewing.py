"""`phys4d view`: clips in a browser of this machine, or as a video and point clouds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from phys4d.commands import Commands
from phys4d.engine.errors import UserError, printable

if TYPE_CHECKING:
    from phys4d.view.sources import DatasetSource, FolderSource, Source

_MOST_PORT = 65535


def add_view(commands: Commands) -> None:
    """Adds `view`."""
    view = commands.add_parser("view", help="look at clips, a dataset or a run: in a browser, or as video and points")
    view.add_argument("what", type=Path, help="a dataset, a generated clip or a folder of them, or a run")
    view.add_argument("--data", type=Path, help="generated clips: the dataset with their truth, shown beside them")
    view.add_argument(
        "--results", type=Path, metavar="RESULT.json",
        help="a dataset: figures of its clips to sort by, ROW.json of `evaluate --suite 4d`",
    )  # fmt: skip
    view.add_argument("--port", type=int, help="of the page on this machine (default: a free one)")
    files = view.add_argument_group("as files instead of a page")
    files.add_argument("--out", type=Path, metavar="DIR", help="write a clip's side-by-side.mp4, points/0000.ply ...")
    files.add_argument("--clip", metavar="KEY", help="of a dataset or a folder of clips")
    files.add_argument("--points", type=int, metavar="N", help="most points of a frame, 0: none (default: 1e5)")
    files.add_argument("--rerun", action="store_true", help="also clip.rrd, a recording for the rerun viewer")
    view.set_defaults(command=_view)


def _view(options: argparse.Namespace) -> int:
    from phys4d.evaluate.compare import read_results
    from phys4d.view.sources import RunSource, open_source

    if options.out is None:
        for name in ("clip", "points", "rerun"):
            if getattr(options, name) not in (None, False):
                raise UserError(f"--{name}: belongs to --out")
    elif options.port is not None:
        raise UserError("--port: belongs to a page, which --out does not serve")
    if options.port is not None and not 0 < options.port <= _MOST_PORT:
        raise UserError(f"--port {options.port}: expected 1 to {_MOST_PORT}")
    if options.points is not None and options.points < 0:
        raise UserError(f"--points {options.points}: expected 0 or more")
    results = None if options.results is None else read_results(options.results)
    if results is not None and results.kind != "4d":
        raise UserError(f"{options.results}: names no clips: expected ROW.json of `evaluate --suite 4d`")
    source = open_source(options.what, options.data, results)
    if options.out is not None:
        if isinstance(source, RunSource):
            raise UserError(f"{options.what}: is a run: --out writes one clip of a dataset or a folder of clips")
        return _write(options, source)
    return _serve(options, source)


def _write(options: argparse.Namespace, source: "DatasetSource | FolderSource") -> int:
    from phys4d.view.files import write_files
    from phys4d.view.recording import require_rerun, write_recording

    if options.rerun:
        require_rerun()

    titles = [entry["title"] for entry in source.entries()]
    if options.clip is None and len(titles) != 1:
        raise UserError(f"{options.what}: holds {len(titles)} clips: choose one by --clip, such as {titles[:1]}")
    if options.clip is not None and options.clip not in titles:
        raise UserError(f"{options.what}: no clip {options.clip!r}: its first is {titles[0] if titles else 'none'}")
    number = 0 if options.clip is None else titles.index(options.clip)
    points = 100_000 if options.points is None else options.points
    clip = source.viewed(number)
    clouds = write_files(clip, options.out, points)
    more = f", points/0000.ply to {clouds - 1:04d}.ply" if clouds else ""
    if options.rerun:
        write_recording(clip, options.out / "clip.rrd")
        more += ", clip.rrd"
    print(printable(f"{options.out}: side-by-side.mp4{more}"))
    return 0


def _serve(options: argparse.Namespace, source: "Source") -> int:
    from phys4d.view.server import ViewServer

    with ViewServer(source, options.port or 0) as server:
        print(printable(f"{len(source.entries())} clips at {server.address} (Ctrl-C ends)"), flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:  # how a person ends it
            print()
    return 0
