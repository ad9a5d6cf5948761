"""Speed and memory of stages: the figures, and what is refused."""

import pytest

from phys4d.benchmarks.train import _figures, table
from phys4d.cli import main


def test_throughput_is_samples_over_the_median_step() -> None:
    figures = _figures([0.5, 0.5, 0.4, 0.6, 5.0], samples=8)
    assert figures["seconds"] == 0.5 and figures["samples_per_second"] == 16
    assert figures["seconds_p20"] < 0.5 < figures["seconds_p80"]


def test_the_table_names_the_machine() -> None:
    row = {"seconds": 0.5, "seconds_p20": 0.45, "seconds_p80": 0.61, "samples_per_second": 16.0, "peak_rss_mb": 1234.4}
    where = {
        "cores": 2, "cpu": "a machine", "gpus": [], "torch": "2", "git_revision": "0" * 40, "date": "2026-01-02T03:04",
    }  # fmt: skip
    text = table({"stages": {"finetune": row, "reinforce": row | {"peak_cuda_mb": 99.6}}, "provenance": where})
    assert "| finetune | 0.500 (0.450, 0.610) | 16.0 | 1234 |" in text and "1234, 100 GPU" in text
    assert text.endswith("2 cores of a machine, torch 2, revision 000000000000, 2026-01-02.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["no/demo"], "no/demo: expected the folder of a finished demo"), (["x", "--steps", "4"], "expected at least 8")],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys) -> None:
    assert main(["bench", "train", *arguments]) == 2
    assert message in capsys.readouterr().err
