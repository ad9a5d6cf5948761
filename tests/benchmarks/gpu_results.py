"""What results of a GPU say of their origin."""

PROVENANCE = {
    "gpus": ["NVIDIA H200"], "git_revision": "0123456789abcdef", "torch": "2.11.0", "triton": "3.6.0",
    "date": "2026-01-02T03:04:05+00:00", "cores": 16, "cpu": "a CPU",
}  # fmt: skip


def about(name: str, **changes) -> dict:
    base = {"slice": name, "kind": name, "device": "cuda", "dtype": "bfloat16", "stand_in": False}
    return base | {"provenance": PROVENANCE | changes.pop("provenance", {})} | changes
