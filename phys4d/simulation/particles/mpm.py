"""Newton's implicit material point method on the CPU, for liquids and for solids that yield or melt."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from phys4d.simulation.mesh_sequence import rotation
from phys4d.simulation.particles.initial_particles import InitialParticles
from phys4d.simulation.particles.newton import DEVICE, newton
from phys4d.simulation.particles.obstacles import Obstacle, Solid
from phys4d.simulation.scene import GRAVITY, Unstable

STEPS_PER_SECOND = 96
VOXEL = 2.5  # grid cell size over the particles' spacing: about 16 particles in a cell
TOLERANCE, ITERATIONS = 1e-3, 50
GAP = 0.35  # distance of particle centres from surfaces, over the spacing
NEAREST = 1.05  # least distance of particles over the spacing: a random packing as dense as the initial lattice
PUSHES, SHARE, STRIDE = 2, 0.5, 0.1  # iterations, share and limit (over the spacing) of `push_apart`
PENETRATION_LIMIT = 1.0  # depth of a particle inside an obstacle, over the spacing, above which the run is Unstable
SPEED_LIMIT = 12.0  # m/s, of a particle, above which the run is Unstable
DISTANCE_LIMIT = 6.0  # metres from the origin, above which the run is Unstable


class Mpm:
    """Particles of one substance that flow among obstacles.

    Results are bit-identical in any process on one machine.

    initial_particles: positions and volumes at t = 0.
    obstacles: static and kinematic solids.
    density: kg/m3.
    velocity: float64 [N, 3], m/s at t = 0.
    viscosity: Pa s, of all particles; `set_material` sets it for each.
    yield_stress: Pa, of all particles; `set_material` sets it for each.
    nearest: least distance of particles, over the spacing.

    Raises UserError if Newton is not installed.
    """

    def __init__(
        self,
        initial_particles: InitialParticles,
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

        from phys4d.simulation.particles.separation_kernel import push_apart

        self._warp, self._push_apart = warp, push_apart
        self.obstacles, self.spacing, self.time = tuple(obstacles), initial_particles.spacing, 0.0
        self._nearest = nearest * self.spacing
        self._model = _model(module, initial_particles, density, velocity)
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
        self._moved = warp.zeros(len(initial_particles.points), dtype=warp.vec3, device=DEVICE)

    @property
    def positions(self) -> np.ndarray:
        """Centres of the particles, float64 [N, 3], metres."""
        return self._state.particle_q.numpy().astype(np.float64)

    @property
    def places(self) -> Any:
        """Centres of the particles as a Warp array of N float32 vectors, metres."""
        return self._state.particle_q

    @property
    def velocities(self) -> np.ndarray:
        """float64 [N, 3] m/s."""
        return self._state.particle_qd.numpy().astype(np.float64)

    def set_material(self, viscosity: np.ndarray, yield_stress: np.ndarray) -> None:
        """Sets viscosity [N] in Pa s and yield stress [N] in Pa of each particle."""
        self._model.mpm.viscosity.assign(viscosity.astype(np.float32))
        self._model.mpm.yield_stress.assign(yield_stress.astype(np.float32))
        self._solver.notify_model_changed(newton().ModelFlags.MODEL_PROPERTIES)

    def advance(self, seconds: float) -> None:
        """Advances by `seconds` in equal steps. Raises Unstable if particles diverge or enter a solid."""
        steps = -int(-STEPS_PER_SECOND * seconds // 1)
        for _ in range(steps):
            self._step(seconds / steps)
        self._check_state()

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
        # Twice: the first projection may push a particle out of one solid into another.
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
        """Moves the meshes of kinematic bodies to their current pose, with the velocity that leads to their next pose.
        """
        for (obstacle, solid), mesh in zip(self._solids(), self._meshes, strict=True):
            if obstacle.path is None:
                continue
            vertices, _ = solid.mesh()
            now, then = (_placed(vertices, obstacle, time) for time in (self.time, self.time + dt))
            mesh.points.assign(now.astype(np.float32))
            mesh.velocities.assign(((then - now) / dt).astype(np.float32))
            mesh.refit()

    def _check_state(self) -> None:
        points, velocities = self.positions, self.velocities
        if not (np.isfinite(points).all() and np.isfinite(velocities).all()):
            raise Unstable("state is not finite")
        if np.linalg.norm(velocities, axis=1).max() > SPEED_LIMIT or np.abs(points).max() > DISTANCE_LIMIT:
            raise Unstable("particles fly apart")
        if any(
            obstacle.depth(points, self.time).max() > PENETRATION_LIMIT * self.spacing for obstacle in self.obstacles
        ):
            raise Unstable("particles pass into a solid")


def _placed(vertices: np.ndarray, obstacle: Obstacle, time: float) -> np.ndarray:
    position, quaternion = obstacle.pose(time)
    return vertices @ rotation(quaternion).T + position


def _model(module: Any, initial_particles: InitialParticles, density: float, velocity: np.ndarray) -> Any:
    """The particles as a Newton model."""
    builder = module.ModelBuilder()
    module.solvers.SolverImplicitMPM.register_custom_attributes(builder)
    builder.add_particles(
        pos=initial_particles.points.tolist(),
        vel=velocity.tolist(),
        mass=(density * initial_particles.cubic_metres).tolist(),
        # Newton treats a particle as a cube of this half edge.
        radius=(initial_particles.cubic_metres ** (1 / 3) / 2).tolist(),
    )
    model = builder.finalize(device=DEVICE)
    model.set_gravity((0.0, 0.0, -GRAVITY))
    return model


def _config(module: Any, spacing: float) -> Any:
    config = module.solvers.SolverImplicitMPM.Config()
    config.voxel_size = VOXEL * spacing
    config.tolerance, config.max_iterations = TOLERANCE, ITERATIONS
    # Contacts at grid nodes would stop a solid up to one cell above the floor; contacts at particles do not.
    config.collider_basis, config.warmstart_mode = "pic", "particles"
    return config
