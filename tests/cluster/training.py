"""A run of `backbone` as its user starts it: on one process, under torchrun on one node or two, resumed."""

import json
import subprocess
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.cluster.nodes import ROOT, Nodes, c10d, environment, python

STEPS, EVERY = 30, 5  # of the whole run, and between checkpoints
LOOP = f"backbone.loop={{steps={STEPS}, log_every=1, checkpoint_every={EVERY}, save_in_background=false}}"
SILENCE = 8.0  # seconds
LATE = 8.0  # seconds beyond it, for the ranks that read rank 0's verdict and for the end of a process on a busy machine
AGAIN = "torchrun has started its processes again: goes on as with --resume"
KEPT = "finished stages and checkpoints are kept: --resume goes on from there"
START = 120.0  # seconds for two nodes to start and reach a step, on a busy machine
WEIGHTS = "model-backbone/transformer/diffusion_pytorch_model.safetensors"


class Training:
    """One run; what its processes print goes to files of its own.

    Attributes: folder, of the run; record, what `worker` writes down.
    """

    def __init__(self, folder: Path, write_run: Callable[..., Path], clips: Path) -> None:
        self.folder, self.record = folder / "out", folder / "record"
        self.record.mkdir(parents=True)
        self._file = write_run(folder / "run.toml", self.folder, clips, ["backbone"])
        self._file.write_text(self._file.read_text().partition("[evaluate]")[0])
        self._output = [folder / f"node-{node}" for node in (0, 1)]

    def words(self, *more: str, **plan: Any) -> list[str]:
        """The command behind `-m`."""
        settings = [LOOP, f"timeouts={{silence={SILENCE}, step=15}}"]
        sets = [word for setting in settings for word in ("--set", setting)]
        plan["record"] = str(self.record)
        return ["tests.cluster.worker", json.dumps(plan), "train", str(self._file), *sets, *more]

    def alone(self, *more: str) -> None:
        """On one process, without torchrun."""
        words = [*python(), *self.words(*more)]
        done = subprocess.run(words, cwd=ROOT, env=environment(None), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start(
        self, nodes: Nodes, *options: str, meeting: Callable[[int], list[str]] = c10d, few: str = "2", **plan: Any
    ) -> list[subprocess.Popen[bytes]]:
        """The agents of both nodes; options, meeting, few: as of `Nodes.torchrun`."""
        words, how = self.words(**plan), {"meeting": meeting, "few": few}
        return [nodes.torchrun(node, self._output[node], words, *options, **how) for node in (0, 1)]

    def torchrun(self, *options: str, more: tuple[str, ...] = (), **plan: Any) -> subprocess.Popen[bytes]:
        """Two ranks on one node; more: behind the command."""
        agent = [*python(), "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options, "-m"]
        with self._output[0].open("ab") as file:
            words = [*agent, *self.words(*more, **plan)]
            return subprocess.Popen(words, cwd=ROOT, env=environment(None), stdout=file, stderr=file)

    def said(self, node: int) -> str:
        """What a node has printed."""
        return self._output[node].read_text()

    def lines(self, node: int) -> list[str]:
        """The lines of phys4d among it."""
        return [line for line in self.said(node).splitlines() if line.startswith("phys4d: ")]

    def logged(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        file = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]] if file.exists() else []

    def losses(self) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.logged()}

    def begun_at(self) -> list[int]:
        """The first step (from 0) of each start of rank 0."""
        lines = map(json.loads, (self.record / "samples-0.jsonl").read_text().splitlines())
        first: dict[int, int] = {}
        for line in lines:
            first.setdefault(line["start"], line["step"])
        return [first[start] for start in sorted(first)]

    def samples(self) -> dict[int, list[str]]:
        """Step (from 0) -> its samples in the order of the ranks, in the last start that took the step."""
        files = sorted(self.record.glob("samples-*.jsonl"))
        lines = [json.loads(line) for line in chain.from_iterable(file.read_text().splitlines() for file in files)]
        last = {line["step"]: line["start"] for line in sorted(lines, key=lambda line: line["start"])}
        steps: dict[int, list[str]] = {}
        for line in sorted(lines, key=lambda line: (line["step"], line["rank"])):
            if line["start"] == last[line["step"]]:
                steps.setdefault(line["step"], []).extend(line["samples"])
        return steps

    def weights(self) -> dict[str, torch.Tensor]:
        """Those that the stage wrote."""
        return load_file(self.folder / WEIGHTS)


def wait(agents: list[Any], until: Callable[[], bool], seconds: float) -> float:
    """Waits until something is so, and returns the seconds; all agents must run, and the time not pass, until then."""
    begun = time.monotonic()
    while not until():
        assert time.monotonic() - begun < seconds, f"not within {seconds:.0f} s"
        assert all(agent.poll() is None for agent in agents), "an agent of torchrun has ended"
        time.sleep(0.05)
    return time.monotonic() - begun
