"""4D geometry: lifting depth to points and trajectories, warps, losses that tie depth to motion, Chamfer distances.

On a CPU everything that takes time runs natively, on CUDA in Triton; nearest neighbours of large clouds natively there,
too, where that was built. `backend="reference"` asks for the definition in plain torch. The kernels give the same bits
in every run, whatever the number of threads.

Conventions (all functions): pixel centres at i + 0.5, u right and v down, OpenCV camera axes, depth in metres
along the optical axis, motion from t to t + 1 as (du px, dv px, dz m), depth 0 where there is no surface.
Depth between pixels is interpolated as inverse depth, which is affine in the image of a plane and hence exact
there.

    losses/    depth, flow, scene flow, and warp consistency, which ties depth to motion
    warps/     backward and forward warp, occlusion, trajectories
    clouds/    nearest neighbours, Chamfer distances in their forms, alignment

Each op has its public function, its definition (_reference), its torch operators (_ops) and its Triton kernels
(_kernels) beside each other; its C++ is in ../native/src under the same name.

What bites:
- A landing point counts as inside only where all four neighbouring pixel centres exist and carry a surface;
  the half-pixel rim of the image is outside.
- A mask never comes from the prediction that it judges: pass the visibility of the truth or of a teacher. Where there
  is neither, warp_consistency(..., None, report=True) tests detached depth and returns the share that it left out.
- `flow_warp` knows no depth and mixes surfaces at silhouettes; its `inside` too asks for four neighbours.
- `splat` takes depth after the motion, and leaves holes (0, index -1) where a surface grows in the picture.
- `occlusion_mask` sees no finer than a pixel: at silhouettes it errs by one, in either direction.
- `lift_4d` follows what is seen: what comes into sight later has no trajectory from `start`, and dz gets no gradient.
- A cloud that is empty on one side costs nothing in `chamfer` unless `cap` is given.
- No Chamfer distance aligns; `umeyama` does, by pixels that correspond.
"""

from phys4d.kernels.geometry.clouds.alignment import Alignment, umeyama
from phys4d.kernels.geometry.clouds.chamfer import chamfer, nearest, pack
from phys4d.kernels.geometry.clouds.chamfer_4d import chamfer_4d, chamfer_motion, chamfer_objects, chamfer_spacetime
from phys4d.kernels.geometry.losses.supervised import depth_loss, depth_losses, flow_loss, scene_flow_loss
from phys4d.kernels.geometry.losses.warp_consistency import sample_depth, warp_consistency, warp_residual
from phys4d.kernels.geometry.unproject import advect, unproject
from phys4d.kernels.geometry.warps.flow_warp import flow_warp
from phys4d.kernels.geometry.warps.occlusion import Occlusion, forward_backward_mask, occlusion_mask
from phys4d.kernels.geometry.warps.splat import Splat, splat
from phys4d.kernels.geometry.warps.trajectories import Trajectories, lift_4d

__all__ = [
    "Alignment",
    "Occlusion",
    "Splat",
    "Trajectories",
    "advect",
    "chamfer",
    "chamfer_4d",
    "chamfer_motion",
    "chamfer_objects",
    "chamfer_spacetime",
    "depth_loss",
    "depth_losses",
    "flow_loss",
    "flow_warp",
    "forward_backward_mask",
    "lift_4d",
    "nearest",
    "occlusion_mask",
    "pack",
    "sample_depth",
    "scene_flow_loss",
    "splat",
    "umeyama",
    "unproject",
    "warp_consistency",
    "warp_residual",
]
