"""Two ranks of which the first works alone for longer than a collective may take. Prints what each rank got, as JSON.

python waiting_ranks.py PORT
"""

import json
import os
import sys
import time
from datetime import timedelta

from phys4d.engine.errors import FaultElsewhere, UserError
from phys4d.engine.parallel import Parallel, on_all_ranks

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
    parallel = Parallel.start(timedelta(seconds=LIMIT))
    got: dict[str, object] = {"alone": parallel.on_rank_zero(work)}
    if rank == 1:
        time.sleep(LONGER)
    got["gathered"] = parallel.gather({"rank": rank})
    try:
        parallel.on_rank_zero(at_fault)
    except (UserError, FaultElsewhere) as fault:
        got["fault"] = f"{type(fault).__name__}: {fault}"
    try:  # what the limit does to a rank that waits under it
        on_all_ranks(work if rank == 0 else lambda: None)
    except RuntimeError as error:
        got["limited"] = type(error).__name__
    os.write(1, (json.dumps({"rank": rank} | got) + "\n").encode())
    os._exit(0)  # the group is broken now


if __name__ == "__main__":
    child = os.fork()
    main(1 if child == 0 else 0, sys.argv[1])
