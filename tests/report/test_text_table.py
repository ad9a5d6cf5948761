"""The table that a terminal gets."""

from phys4d.report.text import text_table


def test_a_line_per_metric_and_a_column_per_row() -> None:
    table = {
        "means": {"absrel": 0.05, "absrel_se": 0.002, "reward": -0.25, "reward_se": 0.01, "psnr_moving": float("nan")},
        "baselines": {"static_video": {"reward": -1.5}, "truth": {"absrel": 0.0}},
        "scenes": {"absrel": [0.04, 0.06]},
        "reader": "0123",
        "left_out": [],
    }
    lines = text_table(table).splitlines()
    assert lines[0].split() == ["metric", "unit", "better", "model", "static", "video", "truth"]
    found = {line.split()[0]: line for line in lines if line and line.split()[0] in ("absrel", "reward", "psnr_moving")}
    assert found["absrel"].split() == ["absrel", "ratio", "lower", "0.0500", "±", "0.0020", "0.0000"]
    assert found["reward"].split() == ["reward", "m", "higher", "−0.2500", "±", "0.0100", "−1.5000"]
    assert found["psnr_moving"].split()[3] == "–"
    columns = [line.index("−1.5000") for line in lines if "−1.5000" in line]
    assert columns == [lines[0].index("static video")]
    assert lines[-1] == "means over 2 scenes ± standard errors"
    table |= {"scenes": {"absrel": [0.04, None, 0.06]}, "left_out": ["shard-000000.tar: clip clip000001: mp4 ..."]}
    last = "means over 2 scenes ± standard errors; 1 that cannot be read are left out"
    assert text_table(table).splitlines()[-1] == last
