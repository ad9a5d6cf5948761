"""Newton's implicit material point method on the CPU: liquids, and what is solid until it yields or melts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.particles.filling import Filling
from phys4d.simulation.particles.newton import DEVICE, newton
from phys4d.simulation.particles.obstacles import Obstacle, Solid
from phys4d.simulation.scene import GRAVITY, Unstable

STEPS_PER_SECOND = 96
VOXEL = 2.5  # of the spacing: about 16 particles in a cell
TOLERANCE, ITERATIONS = 1e-3, 50
GAP = 0.35  # of the spacing, which particles' centres keep from surfaces
NEAREST = 1.05  # spacings: a random packing as dense as the lattice that particles start in
PUSHES, SHARE, STRIDE = 2, 0.5, 0.1  # see `push_apart`; limit in spacings
DEEP = 1.0  # spacings that a particle may be inside an obstacle or below the floor
FASTEST = 12.0  # m/s
FAR = 6.0  # metres


class Mpm:
    """Particles of one kind of matter that flows among obstacles.

    filling: where they start. density: kg/m3. velocity: float64 [N, 3] m/s. viscosity (Pa s) and yield_stress (Pa) are
    those of all particles; `set_material` sets those of each. nearest: spacings that particles keep from each other.
    Results are the same bits in any process on one machine.

    Raises UserError when Newton is missing.
    """

    def __init__(
        self,
        filling: Filling,
        obstacles: Sequence[Obstacle],
        *,
        density: float,
        velocity: np.ndarray,
        viscosity: float = 0.0,
        yield_stress: float = 0.0,
        nearest: float = NEAREST,
    ) -> None:
        module = newton()
        import warp

        from phys4d.simulation.particles.push_apart import push_apart

        self._warp, self._push_apart = warp, push_apart
        self.obstacles, self.spacing, self.time = tuple(obstacles), filling.spacing, 0.0
        self._nearest = nearest * self.spacing
        self._model = _model(module, filling, density, velocity)
        material = self._model.mpm
        material.friction.fill_(0.0)
        material.tensile_yield_ratio.fill_(1.0)
        material.viscosity.fill_(viscosity)
        material.yield_stress.fill_(yield_stress)
        self._solver = module.solvers.SolverImplicitMPM(self._model, config=_config(module, self.spacing))
        self._meshes: list[Any] = []
        self._add_colliders()
        self._state, self._next = self._model.state(), self._model.state()
        self._state.mpm.particle_Jp.fill_(1.0)
        self._neighbours = warp.HashGrid(64, 64, 64, device=DEVICE)
        self._moved = warp.zeros(len(filling.points), dtype=warp.vec3, device=DEVICE)

    @property
    def positions(self) -> np.ndarray:
        """Centres of the particles, float64 [N, 3] metres."""
        return self._state.particle_q.numpy().astype(np.float64)

    @property
    def places(self) -> Any:
        """The same as a Warp array of vectors [N], float32."""
        return self._state.particle_q

    @property
    def velocities(self) -> np.ndarray:
        """float64 [N, 3] m/s."""
        return self._state.particle_qd.numpy().astype(np.float64)

    def set_material(self, viscosity: np.ndarray, yield_stress: np.ndarray) -> None:
        """Viscosity [N] in Pa s and yield stress [N] in Pa of each particle from now on."""
        self._model.mpm.viscosity.assign(viscosity.astype(np.float32))
        self._model.mpm.yield_stress.assign(yield_stress.astype(np.float32))
        self._solver.notify_model_changed(newton().ModelFlags.MODEL_PROPERTIES)

    def advance(self, seconds: float) -> None:
        """Moves on in equal steps. Raises Unstable when particles diverge or pass through something."""
        steps = -int(-STEPS_PER_SECOND * seconds // 1)
        for _ in range(steps):
            self._step(seconds / steps)
        self._refuse_nonsense()

    def _step(self, dt: float) -> None:
        self._move_colliders(dt)
        self._solver.step(self._state, self._next, None, None, dt)
        self._state, self._next = self._next, self._state
        places = self._state.particle_q
        for _ in range(PUSHES):
            self._neighbours.build(places, self._nearest)
            arguments = [self._neighbours.id, places, self._nearest, SHARE, STRIDE * self.spacing]
            self._warp.launch(self._push_apart, dim=len(places), inputs=arguments, outputs=[self._moved], device=DEVICE)
            self._warp.copy(places, self._moved)
        # The second time for what the first pushed out of one solid into another.
        for _ in range(2):
            self._solver.project_outside(self._state, self._state, dt)
        self.time += dt

    def _add_colliders(self) -> None:
        friction = []
        for _, solid in self._solids():
            vertices, faces = solid.mesh()
            points: Any = self._warp.array(vertices.astype(np.float32), dtype=self._warp.vec3, device=DEVICE)
            indices: Any = self._warp.array(faces.ravel(), dtype=int, device=DEVICE)
            still = self._warp.zeros(len(vertices), dtype=self._warp.vec3, device=DEVICE)
            self._meshes.append(self._warp.Mesh(points, indices, still))
            friction.append(solid.friction)
        margins = [GAP * self.spacing] * len(friction)
        self._solver.setup_collider(collider_meshes=self._meshes, collider_friction=friction, collider_margins=margins)

    def _solids(self) -> list[tuple[Obstacle, Solid]]:
        return [(obstacle, solid) for obstacle in self.obstacles for solid in obstacle.solids]

    def _move_colliders(self, dt: float) -> None:
        """Puts moving obstacles where they are now, with the velocity that takes them to where they are next."""
        for (obstacle, solid), mesh in zip(self._solids(), self._meshes, strict=True):
            if obstacle.path is None:
                continue
            vertices, _ = solid.mesh()
            now, then = (_placed(vertices, obstacle, time) for time in (self.time, self.time + dt))
            mesh.points.assign(now.astype(np.float32))
            mesh.velocities.assign(((then - now) / dt).astype(np.float32))
            mesh.refit()

    def _refuse_nonsense(self) -> None:
        points, velocities = self.positions, self.velocities
        if not (np.isfinite(points).all() and np.isfinite(velocities).all()):
            raise Unstable("state is not finite")
        if np.linalg.norm(velocities, axis=1).max() > FASTEST or np.abs(points).max() > FAR:
            raise Unstable("particles fly apart")
        if any(obstacle.depth(points, self.time).max() > DEEP * self.spacing for obstacle in self.obstacles):
            raise Unstable("particles pass into a solid")


def _placed(vertices: np.ndarray, obstacle: Obstacle, time: float) -> np.ndarray:
    position, quaternion = obstacle.pose(time)
    return vertices @ rotation(quaternion).T + position


def _model(module: Any, filling: Filling, density: float, velocity: np.ndarray) -> Any:
    """The particles as a Newton model."""
    builder = module.ModelBuilder()
    module.solvers.SolverImplicitMPM.register_custom_attributes(builder)
    builder.add_particles(
        pos=filling.points.tolist(),
        vel=velocity.tolist(),
        mass=(density * filling.cubic_metres).tolist(),
        # Newton takes a particle for a cube of this half edge.
        radius=(filling.cubic_metres ** (1 / 3) / 2).tolist(),
    )
    model = builder.finalize(device=DEVICE)
    model.set_gravity((0.0, 0.0, -GRAVITY))
    return model


def _config(module: Any, spacing: float) -> Any:
    config = module.solvers.SolverImplicitMPM.Config()
    config.voxel_size = VOXEL * spacing
    config.tolerance, config.max_iterations = TOLERANCE, ITERATIONS
    # Contacts of the grid's nodes would stop a solid up to a cell above the floor; those of particles do not.
    config.collider_basis, config.warmstart_mode = "pic", "particles"
    return config
