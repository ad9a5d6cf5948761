"""Every measurement on a GPU as one run that can be interrupted: slices of at most eight minutes, first things first.

    python -m phys4d.benchmarks.gpu_run plan
    python -m phys4d.benchmarks.gpu_run run [SLICE ...] --out OUT [--minutes N]
    python -m phys4d.benchmarks.gpu_run adopt OUT
    python -m phys4d.benchmarks.gpu_run rehearse --out OUT

    plan.py         the slices, their cases, and the predicted seconds of each
    wall.py         those predictions, from floors, rounds and compile times
    supervisor.py   starts one process per slice, ends one that hangs, starts it again behind a case that crashed
    worker.py       that process: one case after the other, the file of the slice written after each
    record.py       the file of a slice
    checks.py       the slice `check`: results and gradients beside float64 and torch's own operators
    cases.py        one case in that process
    tiny.py         the cases in small, for the rehearsal
    step.py         the slice `step`: a training step of a video transformer through the engine
    environment.py  cache folders where there is no home; kernels compiled and kernels found in the cache
    stand_in.py     a rehearsal without a GPU: Triton's interpreter, small shapes, few packages, planted faults
    adopt.py        raw results of a GPU into benchmarks/results/ and the pages
    tables.py       the tables of the pages

It needs torch, triton and numpy only. docs/gpu-run.md describes its use.
"""
