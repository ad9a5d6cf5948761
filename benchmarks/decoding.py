"""`phys4d bench data`: how fast each video decoder that is installed decodes clips of 49 frames of 480 x 720.

Every decoder decodes the same clips in every round, in turn: frames per second by the clock, and processor seconds of
the process per clip with all threads. `alone` is PyAV without our checks: its own loop over `container.decode`, each
frame to an array, and the arrays put together. The clips are generated: waves that move under noise, 4:2:0, BT.601.
"""

import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from phys4d.benchmarks import results
from phys4d.engine.data.decoders import choice
from phys4d.engine.data.decoders.interface import Request, VideoDecoder, decode
from phys4d.engine.data.decoders.probe import limit_frames, probe
from phys4d.engine.data.decoders.pyav import PyAVDecoder
from phys4d.engine.errors import UserError
from phys4d.engine.output import check_folder
from phys4d.engine.run_folder.provenance import provenance

Row = dict[str, Any]
_BT601 = 6


@dataclass(frozen=True)
class Case:
    """Clips of one kind.

    name: shown. encoder: FFmpeg's name. group: frames from one key frame to the next. start: first frame that is
    decoded; 0: the file has no other frames. options: of the encoder.
    """

    name: str
    encoder: str
    group: int
    start: int
    options: tuple[tuple[str, str], ...] = ()


FAST = (("preset", "veryfast"), ("crf", "23"))
CASES = (
    Case("h264", "libx264", 24, 0, FAST),
    Case("h264, from frame 30", "libx264", 24, 30, FAST),
    Case("h264, one key frame, from frame 30", "libx264", 1000, 30, FAST),
    Case("hevc", "libx265", 24, 0, (*FAST, ("x265-params", "log-level=none"))),
    Case("vp9", "libvpx-vp9", 24, 0, (("crf", "31"), ("b", "0"), ("cpu-used", "8"), ("deadline", "realtime"))),
    Case("av1", "libsvtav1", 24, 0, (("preset", "12"), ("crf", "35"))),
)


@dataclass(frozen=True)
class Effort:
    """Clips of a case, frames of a clip, their (height, width), and rounds."""

    clips: int = 8
    frames: int = 49
    size: tuple[int, int] = (480, 720)
    rounds: int = 7


QUICK = Effort(clips=2, rounds=3)


def scene(effort: Effort, frames: int, seed: int) -> np.ndarray:
    """uint8 [frames, H, W, 3]: waves that move over each other, with a little noise."""
    draw = np.random.default_rng(seed)
    height, width = effort.size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    noise = draw.normal(0, 6, (height, 2 * width, 1)).astype(np.float32)
    shown = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        waves = [np.sin((x + (3 + k) * t) / (23 + 9 * k) + seed) + np.cos((y - 2 * t) / (17 + 5 * k)) for k in range(3)]
        picture = 128 + 40 * np.stack(waves, axis=-1) + np.roll(noise, -4 * t, axis=1)[:, :width]
        shown[t] = picture.clip(0, 255)
    return shown


def encode(case: Case, frames: np.ndarray) -> bytes:
    """The frames as an mp4 of the case."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as out:
        stream: Any = out.add_stream(case.encoder, rate=24)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        context = stream.codec_context
        context.gop_size, context.options, context.colorspace, context.color_range = (
            case.group, dict(case.options), _BT601, 1,
        )  # fmt: skip
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            out.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=_BT601, dst_color_range=1)))
        out.mux(stream.encode(None))
    return target.getvalue()


def alone(request: Request) -> np.ndarray:
    """PyAV's own loop, with one thread; it decodes from the start of the file on."""
    with av.open(io.BytesIO(request.data), mode="r") as container:
        stream = container.streams.video[0]
        limit_frames(stream)
        shown: list[np.ndarray] = []
        for number, frame in enumerate(container.decode(stream)):
            if number >= request.start:
                shown.append(frame.to_ndarray(format="rgb24", threads=1))
            if len(shown) == request.count:
                break
    return np.stack(shown)


def measure(case: Case, decoders: Sequence[VideoDecoder], effort: Effort) -> list[Row]:
    """One row for each decoder and number of threads, or with the reason why it does not take part."""
    length = effort.frames + 2 * case.start
    files = [encode(case, scene(effort, length, seed)) for seed in range(effort.clips)]
    requests = [Request(data, effort.frames, case.start, stored=effort.size) for data in files]
    video = probe(files[0])
    base = {"case": case.name, "group": case.group, "start": case.start, "video": str(video)}
    base |= {"kilobytes": round(sum(map(len, files)) / len(files) / 1000)}
    rows: list[Row] = []
    rivals: dict[tuple[str, int], Callable[[], object]] = {}
    for decoder in decoders:
        if (reason := decoder.refusal(video)) is not None:
            rows.append({**base, "decoder": decoder.name, "refused": reason})
        else:
            rivals |= {(decoder.name, threads): call for threads, call in calls(decoder, requests)}
    rivals["alone", 1] = lambda: [alone(request) for request in requests]
    expected = decode(PyAVDecoder(), requests[0])
    errors = {d.name: _error(d, requests[0], expected) for d in decoders if d.refusal(video) is None}
    for (name, threads), (wall, processor) in _timed(rivals, effort.rounds).items():
        frames = effort.clips * effort.frames
        rates, each = [frames / seconds for seconds in wall], [seconds / effort.clips for seconds in processor]
        row = {"decoder": name, "threads": threads, "frames_per_s": statistics.median(rates)}
        row |= {"frames_per_s_least": min(rates), "frames_per_s_most": max(rates)}
        row |= {"cpu_s_per_clip": statistics.median(each), "error": errors.get(name, 0.0)}
        rows.append({**base, **row})
    return rows


def calls(decoder: VideoDecoder, requests: Sequence[Request]) -> Iterator[tuple[int, Callable[[], object]]]:
    """(threads, call) for each way in which a decoder is timed: one batch, and several threads with one clip each."""
    cores = min(8, len(os.sched_getaffinity(0)))
    if decoder.name == "dali":  # it has threads of its own
        yield cores, lambda: _checked(decoder, requests)
        return
    yield 1, lambda: _checked(decoder, requests)
    if cores > 1:

        def by_threads() -> None:
            with ThreadPoolExecutor(cores) as pool:
                list(pool.map(lambda request: _checked(decoder, [request]), requests))

        yield cores, by_threads


def _checked(decoder: VideoDecoder, requests: Sequence[Request]) -> None:
    for result in decoder.decode_many(requests):
        if isinstance(result, ValueError):
            raise result


def _error(decoder: VideoDecoder, request: Request, expected: np.ndarray) -> float:
    """Mean levels by which a decoder's frames differ from PyAV's."""
    frames = torch.as_tensor(decode(decoder, request)).cpu().numpy()
    return float(np.abs(frames.astype(np.int16) - expected).mean())


def _timed(
    rivals: dict[tuple[str, int], Callable[[], object]], rounds: int
) -> dict[tuple[str, int], tuple[list[float], list[float]]]:
    """Seconds by the clock and of the processor, for every rival and round; one round before them is not counted."""
    found: dict[tuple[str, int], tuple[list[float], list[float]]] = {rival: ([], []) for rival in rivals}
    torch.set_num_threads(1)  # torch's own threads would use the processor while they wait
    for number in range(rounds + 1):
        for rival, call in rivals.items():
            clock, processor = time.perf_counter(), time.process_time()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                found[rival][0].append(time.perf_counter() - clock)
                found[rival][1].append(time.process_time() - processor)
    return found


def table(rows: Sequence[Row]) -> str:
    """Markdown: the rows of one case, the fastest first, and a line for each decoder that does not take part."""
    lines = [
        f"### {rows[0]['case']}", "", f"{rows[0]['video']}; a key frame every {rows[0]['group']} frames", "",
        "| decoder | threads | frames/s (least, most) | CPU s a clip | levels from PyAV |", "|---" * 5 + "|",
    ]  # fmt: skip
    for row in sorted((row for row in rows if "refused" not in row), key=lambda row: -row["frames_per_s"]):
        rate = f"{row['frames_per_s']:.0f} ({row['frames_per_s_least']:.0f}, {row['frames_per_s_most']:.0f})"
        numbers = f"{row['threads']} | {rate} | {row['cpu_s_per_clip']:.3f} | {row['error']:.2f}"
        lines.append(f"| {row['decoder']} | {numbers} |")
    return "\n".join([*lines, *(f"- not {row['decoder']}: {row['refused']}" for row in rows if "refused" in row)])


def bench(device: str | None, quick: bool, names: Sequence[str] | None, out: Path | None) -> list[Row]:
    """Measures every decoder that is installed, prints a table after each case, and writes data.json and data.md.

    device: where DALI decodes; default: a GPU where there is one. quick: few clips and rounds. names: of cases.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here: leave it out, or give --device cpu")
    known = {case.name: case for case in CASES}
    for name in names or ():
        if name not in known:
            raise UserError(f"--case {name}: expected one of {', '.join(known)}")
    if out is not None:
        check_folder(out)
    absent = {name: reason for name in choice.DECODERS if (reason := choice.absence(name)) is not None}
    decoders = [make(where) for name, make in choice.DECODERS.items() if name not in absent]
    effort, load = (QUICK if quick else Effort()), {"before": os.getloadavg()}
    rows: list[Row] = []
    for case in [known[name] for name in names] if names else CASES:
        if case.encoder not in av.codecs_available:
            rows.append({"case": case.name, "refused": f"FFmpeg here has no encoder {case.encoder}"})
            print(f"not {case.name}: {rows[-1]['refused']}")
            continue
        found = measure(case, decoders, effort)
        found += [{"case": case.name, "decoder": name, "refused": reason} for name, reason in absent.items()]
        rows += found
        print(table(found), flush=True)
        if out is not None:  # after every case: an interrupted run keeps its finished cases
            load["after"] = os.getloadavg()
            _write(out, where, effort, rows, load, {decoder.name: decoder.version for decoder in decoders})
    return rows


def _write(
    out: Path, where: torch.device, effort: Effort, rows: list[Row], load: dict[str, Any], versions: dict[str, str]
) -> None:
    result: dict[str, Any] = {"kind": "data", "device": where.type, "clips": effort.clips, "frames": effort.frames}
    result |= {"height": effort.size[0], "width": effort.size[1], "rounds": effort.rounds, "decoders": versions}
    result |= {"rows": rows, "load": load, "provenance": provenance()}
    results.write(out / "data.json", result)
    cases = [[row for row in rows if row["case"] == name] for name in dict.fromkeys(row["case"] for row in rows)]
    parts = [table(found) for found in cases if "decoder" in found[0]]
    parts.append(f"{results.origin(result['provenance'], where.type)}, {results.load_during(result)}.")
    (out / "data.md").write_text("\n\n".join(parts) + "\n")
