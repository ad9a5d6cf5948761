"""Batches that a thread copies to the GPU beside what runs there: whole when they are used, and not waited for."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from phys4d.engine.data.transfer import Transfer

pytestmark = pytest.mark.gpu


def test_a_batch_is_whole_when_it_is_used_and_its_memory_is_not_used_anew() -> None:
    transfer, draw = Transfer("cuda:0"), torch.Generator().manual_seed(0)
    busy = torch.randn(4096, 4096, device="cuda:0")
    for _ in range(20):
        host = {name: torch.randint(0, 255, (64 << 20,), dtype=torch.uint8, generator=draw) for name in "ab"}
        with ThreadPoolExecutor(1) as pool:
            copied = pool.submit(transfer.start, host)
            for _ in range(8):
                busy = busy @ busy
                busy /= busy.norm()
            tensors = copied.result().ready()
        sums = {name: tensor.long().sum() for name, tensor in tensors.items()}
        del tensors, copied  # the next copies may take their memory before these sums are computed
        for name, total in sums.items():
            assert int(total) == int(host[name].long().sum())


def test_copies_do_not_wait_for_what_runs_on_the_current_stream() -> None:
    transfer = Transfer("cuda:0")
    transfer.start({"x": torch.ones(1 << 20)}).ready()
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    copied = transfer.start({"x": torch.ones(16 << 20)})
    assert copied.done is not None
    copied.done.synchronize()
    assert not torch.cuda.current_stream().query()  # which still sleeps
    assert copied.ready()["x"].sum().item() == 16 << 20
