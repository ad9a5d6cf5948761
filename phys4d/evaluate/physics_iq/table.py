"""The table of measures as the public program writes it: a row a scenario, lists in brackets, the same columns."""

import csv
import io
from collections.abc import Sequence

from phys4d.evaluate.physics_iq.layout import VIEWS
from phys4d.evaluate.physics_iq.scores import Row


def csv_table(rows: Sequence[Row]) -> str:
    """The CSV of all views, to the byte as pandas would write it."""
    scenarios = list(dict.fromkeys(row.view.scenario for row in rows))
    columns = {(row.view.scenario, row.view.view): _columns(row) for row in rows}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    first = [name for view in VIEWS for name in columns[scenarios[0], view]]
    writer.writerow(["scenario", *first])
    for scenario in scenarios:
        values = [value for view in VIEWS for value in columns[scenario, view].values()]
        writer.writerow([f"{scenario}.mp4", *map(repr, values)])
    return out.getvalue()


def _columns(row: Row) -> dict[str, float | list[float]]:
    m, view = row.measures, row.view.view
    return {
        f"spatiotemporal_iou_v1_{view}": m.spatiotemporal_iou["v1"],
        f"spatiotemporal_iou_v2_{view}": m.spatiotemporal_iou["v2"],
        f"spatial_iou_v1_{view}": m.spatial_iou["v1"],
        f"spatial_iou_v2_{view}": m.spatial_iou["v2"],
        f"weighted_spatial_iou_v1_{view}": m.weighted_spatial_iou["v1"],
        f"weighted_spatial_iou_v2_{view}": m.weighted_spatial_iou["v2"],
        f"v1_mse_{view}": m.mse["v1"],
        f"v2_mse_{view}": m.mse["v2"],
        f"variance_spatial_{view}": m.spatial_iou["variance"],
        f"variance_weighted_spatial_{view}": m.weighted_spatial_iou["variance"],
        f"variance_spatiotemporal_iou_{view}": m.spatiotemporal_iou["variance"],
        f"variance_mse_{view}": m.mse["variance"],
    }
