"""Two nodes on one machine: network namespaces with addresses of their own, joined by a cable that can be cut.

Both see the same disk. A node that is killed is as a machine that loses its power, but that the kernel closes its
sockets; with the cable cut, each node is to the other as a machine that is silent.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
ADDRESSES = ("10.77.0.1", "10.77.0.2")
INTERFACE = "cable"
PORT = 29400


def c10d(node: int) -> list[str]:
    """Options of torchrun for a rendezvous at the first node, whose address its host name does not lead to here."""
    endpoint = f"{ADDRESSES[0]}:{PORT}"
    return ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-conf", f"is_host={int(node == 0)}"]


def static(node: int) -> list[str]:
    """Options of torchrun for fixed ranks of the nodes, which meet at a fixed address."""
    return ["--node-rank", str(node), "--master-addr", ADDRESSES[0], "--master-port", str(PORT)]


def python() -> list[str]:
    """Runs a module: the words before its name."""
    return [sys.executable, "-m"]


def environment(interface: str | None) -> dict[str, str]:
    """Variables of the processes; interface: of the network between the ranks, None for torch's choice."""
    named = {} if interface is None else {"GLOO_SOCKET_IFNAME": interface}
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | named


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def why_not() -> str | None:
    """Why this machine cannot have network namespaces; None where it can."""
    if shutil.which("ip") is None:
        return "`ip` is not installed (Debian: iproute2)"
    try:
        with Nodes():
            return None
    except subprocess.CalledProcessError as error:
        return f"this process may not make network namespaces ({error.stderr.strip()})"


class Nodes:
    """Two namespaces; a context manager, which ends what runs in them and removes them."""

    def __init__(self) -> None:
        self.names = [f"phys4d-{os.getpid()}-{node}" for node in (0, 1)]
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            for name in self.names:
                _ip("netns", "add", name)
                self._made.append(name)
            ends = [["name" if node else "add", INTERFACE, "netns", self.names[node]] for node in (0, 1)]
            _ip("link", *ends[0], "type", "veth", "peer", *ends[1])
            for name, address in zip(self.names, ADDRESSES, strict=True):
                _ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", INTERFACE, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for node, name in enumerate(self.names):
            if name in self._made:
                self.kill(node)
                _ip("netns", "delete", name)
        self._made.clear()

    def torchrun(
        self, node: int, output: Path, command: Sequence[str], *options: str,
        meeting: Callable[[int], list[str]] = c10d, few: str = "2",
    ) -> subprocess.Popen[bytes]:
        """Starts torchrun's agent of a node with one process of this command; what both print goes to `output`.

        meeting: how the agents meet, `c10d` or `static`. few: how many nodes torchrun needs, such as "1:2".
        """
        agent = [*python(), "torch.distributed.run", "--nnodes", few, "--nproc-per-node", "1"]
        words = [*agent, *meeting(node), *options, "--local-addr", ADDRESSES[node], "-m", *command]
        with output.open("ab") as file:
            there = ["ip", "netns", "exec", self.names[node]]
            return subprocess.Popen([*there, *words], cwd=ROOT, env=environment(INTERFACE), stdout=file, stderr=file)

    def processes(self, node: int) -> list[int]:
        """What runs on a node."""
        return [int(word) for word in _ip("netns", "pids", self.names[node]).split()]

    def kill(self, node: int) -> None:
        """Ends everything on a node without warning."""
        while running := self.processes(node):
            for process in running:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)

    def cut(self) -> None:
        """Takes the cable away."""
        _ip("-n", self.names[0], "link", "set", INTERFACE, "down")
