"""What is read once in a process, and what torch.compile makes of it."""

import torch

from phys4d.kernels.dispatch import constant_for_process, determinism


def test_what_cannot_be_traced_is_read_once_and_is_a_constant_of_the_graph():
    reads = []

    @constant_for_process
    def read(index):
        with open("/dev/null") as file:  # no compiler traces this
            reads.append(file.read())
        return index + 1, ("a", "b")

    def function(x):
        number, names = read(4)
        return x * number if "a" in names else x

    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 5.0))
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 5.0))
    assert read(4) == (5, ("a", "b")) and len(reads) == 1
    read.forget()
    assert read(4)[0] == 5 and len(reads) == 2


def test_a_graph_is_made_anew_where_determinism_changes(deterministic):
    factors = {"off": 1.0, "warn": 2.0, "required": 3.0}
    compiled = torch.compile(lambda x: x * factors[determinism()], backend="eager", fullgraph=True)
    for level in ("off", "warn", "required", "warn", "off"):
        deterministic(level)
        assert determinism() == level
        assert compiled(torch.ones(1)).item() == factors[level]
