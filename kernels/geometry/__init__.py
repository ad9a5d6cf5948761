"""4D geometry: lifting depth to points, losses that tie depth to motion, Chamfer distances.

On a CPU losses and Chamfer run natively; on CUDA warp consistency and Chamfer run in Triton, nearest neighbours of
large clouds natively where that was built. `backend="reference"` asks for the definition in plain torch. The kernels
give the same bits in every run, whatever the number of threads.

Conventions (all functions): pixel centres at i + 0.5, u right and v down, OpenCV camera axes, depth in metres
along the optical axis, motion from t to t + 1 as (du px, dv px, dz m), depth 0 where there is no surface.
Depth between pixels is interpolated as inverse depth, which is affine in the image of a plane and hence exact
there.

What bites:
- A landing point counts as inside only where all four neighbouring pixel centres exist and carry a surface;
  the half-pixel rim of the image is outside.
- A mask never comes from the prediction that it judges: pass the visibility of the truth or of a teacher. Where there
  is neither, warp_consistency(..., None, report=True) tests detached depth and tells the share it left out.
- A cloud that is empty on one side costs nothing in `chamfer` unless `cap` is given.
- No Chamfer distance aligns; `umeyama` does, by pixels that correspond.
"""

from phys4d.kernels.geometry.alignment import Alignment, umeyama
from phys4d.kernels.geometry.chamfer import chamfer, nearest, pack
from phys4d.kernels.geometry.chamfer_4d import chamfer_4d, chamfer_motion, chamfer_objects, chamfer_spacetime
from phys4d.kernels.geometry.losses import depth_loss, depth_losses, flow_loss, scene_flow_loss
from phys4d.kernels.geometry.occlusion import forward_backward_mask
from phys4d.kernels.geometry.unproject import advect, unproject
from phys4d.kernels.geometry.warp_consistency import sample_depth, warp_consistency, warp_residual

__all__ = [
    "Alignment",
    "advect",
    "chamfer",
    "chamfer_4d",
    "chamfer_motion",
    "chamfer_objects",
    "chamfer_spacetime",
    "depth_loss",
    "depth_losses",
    "flow_loss",
    "forward_backward_mask",
    "nearest",
    "pack",
    "sample_depth",
    "scene_flow_loss",
    "umeyama",
    "unproject",
    "warp_consistency",
    "warp_residual",
]
