"""Two ranks of which the first works alone for longer than the time limit. Prints what each rank got, as JSON; then the
first one exceeds a limit that holds, and the watchdog ends both.

python waiting_ranks.py PORT
"""

import json
import os
import sys
import time

from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.distributed.watchdog import Timeouts
from phys4d.engine.errors import FaultElsewhere, UserError

LIMIT, LONGER = 2.0, 3.0  # seconds


def work() -> str:
    time.sleep(LONGER)
    return "worked"


def at_fault() -> None:
    time.sleep(LONGER)
    raise UserError("the disk is full")


def main(rank: int, port: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    parallel = Parallel.start(Timeouts(other=LIMIT))
    with parallel.at("the work of one rank"):
        got: dict[str, object] = {"alone": parallel.on_rank_zero(work)}
    if rank == 1:
        time.sleep(LONGER)
    got["gathered"] = parallel.gather({"rank": rank})
    try:
        parallel.on_rank_zero(at_fault)
    except (UserError, FaultElsewhere) as fault:
        got["fault"] = f"{type(fault).__name__}: {fault}"
    os.write(1, (json.dumps({"rank": rank} | got) + "\n").encode())
    with parallel.at("work under a limit"):
        on_all_ranks((lambda: time.sleep(100)) if rank == 0 else lambda: None)


if __name__ == "__main__":
    child = os.fork()
    main(1 if child == 0 else 0, sys.argv[1])
