"""How many pixels of simulated truth an independent check finds wrong, for every category and camera.

    python -m tests.simulation.count_wrong_pixels --category fluid --camera static --out benchmarks/results/simulation

One clip of each family, 128 x 128 pixels and 25 frames: depth and instance of every pixel are compared with the nearest
face along its ray, and visibility with what is in front of the landing point, see `nearest_face`. Smoke hides without
being a surface, so that visibility is not checked in its clip. Rows of the same category and camera in DIR/truth.json
are replaced.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phys4d.benchmarks import results
from phys4d.benchmarks.simulation_truth import CAMERAS
from phys4d.engine.run_folder.provenance import provenance
from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.clip import measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.rejection_sampling import CameraMotion
from tests.simulation.nearest_face import wrong_surfaces, wrong_visibilities

SIZE, FRAMES, FPS, SEED = 128, 25, 24, 4242


def checked(category: str, camera: CameraMotion, families: Sequence[str] = ()) -> dict[str, Any]:
    """Counts of the pixels and landing points that were checked, and of wrong ones, over one clip of each family.

    families: default: all of the category.
    """
    counts = {"pixels": 0, "wrong_surfaces": 0, "landing_points": 0, "wrong_visibilities": 0}
    for number, family in enumerate(families or CATEGORIES[category]):
        config = SimulateConfig(
            families=(family,), size=(SIZE, SIZE), frames=FRAMES, fps=FPS, seed=SEED + number, camera=camera
        )
        found = sample_scene(config, 0)
        seen = found.scene.view.camera(FRAMES, SIZE, SIZE, FPS)
        truth = measure(found.meshes, seen)
        counts["pixels"] += truth.depth.size
        counts["wrong_surfaces"] += len(wrong_surfaces(found.meshes, seen, truth))
        if truth.opacity is None:
            counts["landing_points"] += int(truth.flow_valid.sum())
            counts["wrong_visibilities"] += len(wrong_visibilities(found.meshes, seen, truth))
    return {"category": category, "camera": camera, **counts}


def main() -> None:
    """Checks, prints the rows, and with --out merges them into truth.json there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--category", nargs="+", choices=list(CATEGORIES), default=list(CATEGORIES))
    parser.add_argument("--camera", nargs="+", choices=CAMERAS, default=list(CAMERAS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for category in options.category:
        for camera in options.camera:
            row = checked(category, camera)
            print(row, flush=True)
            if options.out is not None:
                file = options.out / "truth.json"
                kept = json.loads(file.read_text())["rows"] if file.exists() else []
                others = [old for old in kept if (old["category"], old["camera"]) != (category, camera)]
                results.write(file, {"kind": "truth", "rows": [*others, row | {"provenance": provenance()}]})


if __name__ == "__main__":
    main()
