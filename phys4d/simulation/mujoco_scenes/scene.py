"""A scene in MuJoCo: a model, its visible objects, and a check that the event of the caption happens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mujoco
import numpy as np

from phys4d.simulation import later
from phys4d.simulation.assembly import InstanceMesh, assemble
from phys4d.simulation.body import Body, Prop
from phys4d.simulation.caption import WORDS, caption, words
from phys4d.simulation.mesh_sequence import MeshSequence
from phys4d.simulation.mujoco_scenes.holding import Holding
from phys4d.simulation.mujoco_scenes.mjcf import later_name, with_held_body, with_props
from phys4d.simulation.mujoco_scenes.recording import Recorder, Recording
from phys4d.simulation.mujoco_scenes.rollout import Rollout, StepCallback, check_energy, run_model
from phys4d.simulation.mujoco_scenes.scene_object import (
    SceneObject,
    Surface,
    object_from_body,
    occupied,
    surface_of_flex,
    surface_of_geoms,
)  # fmt: skip
from phys4d.simulation.scene import FIRST_BODY, FLOOR, WALL, Scene, Unstable, Unusable
from phys4d.simulation.screening import check_visible_motion, is_cut_off

COARSE = 1  # mesh detail for the check of the first frame
MANY = 100  # geoms: with more of them, or with a flex, the event is too slow to be simulated twice


@dataclass(frozen=True, kw_only=True)
class MujocoScene(Scene):
    """A scene of objects moved by MuJoCo.

    category_name: the category of physics.
    scene_objects: visible objects; their instances are FIRST_BODY, FIRST_BODY + 1, ... in this order.
    model: MJCF text, see `mjcf.Mjcf`.
    caption: the event with every initial velocity.
    steps_per_second, start, before_step: see `rollout.run_model`.
    rejection_reason: returns why the event is not visible in a rollout, or None if it is.
    physics: parameters for the clip's json.
    penetration: metres, largest allowed penetration of a contact.
    closed: the energy that MuJoCo accounts for cannot grow, which is then checked.
    endless: the event goes on for as long as a clip, which then has no later events.
    """

    category_name: str
    scene_objects: tuple[SceneObject, ...]
    model: str
    caption: str
    steps_per_second: int
    rejection_reason: Callable[[Rollout], str | None]
    start: StepCallback | None = None
    before_step: StepCallback | None = None
    physics: Mapping[str, Any] = field(default_factory=dict)
    penetration: float = 0.02
    closed: bool = True
    endless: bool = False

    @property
    def category(self) -> str:
        return self.category_name

    def sentence(self) -> str:
        """The caption without the camera's motion."""
        return self.caption

    def badly_framed(self) -> bool:
        """Whether the first frame cuts off an object that can move."""
        first = self._run(1, 24.0)
        return any(
            is_cut_off(self, surface.vertices[0])
            for scene_object, surface in zip(self.scene_objects, self._surfaces(first, COARSE), strict=True)
            if scene_object.dynamic
        )

    def simulate(self, frames: int, fps: float, detail: int) -> MeshSequence:
        """See `Scene.simulate`."""
        rollout = self._run(frames, fps)
        if rollout.deepest.max() > self.penetration:
            raise Unstable("things pass into each other")
        if self.closed:
            check_energy(rollout.energy)
        reason = self.rejection_reason(rollout.until(self.event_frames(frames, fps)))
        if reason is not None:
            raise Unusable(reason)
        parts = [
            InstanceMesh(
                surface.vertices, surface.faces, surface.rest, instance,
                surface.shade[:, None] * np.array(scene_object.rgb), scene_object.texture, surface.track,
            )
            for instance, (scene_object, surface) in enumerate(
                zip(self.scene_objects, self._surfaces(rollout, detail), strict=True), start=FIRST_BODY
            )
        ]  # fmt: skip
        meshes = assemble(self, parts, frames, detail)
        dynamic = [
            FIRST_BODY + number for number, scene_object in enumerate(self.scene_objects) if scene_object.dynamic
        ]
        check_visible_motion(self, meshes, dynamic, fps)
        return meshes

    def lasting(self, seconds: float, rng: np.random.Generator) -> "MujocoScene":
        """See `Scene.lasting`."""
        scene = before = self
        times = () if self.endless else later.release_times(seconds, rng)
        # The last one first: it has the most room, and it is the one that the end of the clip needs.
        for time in reversed(times):
            try:
                rollout, followed = scene._looked_ahead(times[-1])
            except Unusable:
                scene = before  # it would hit a body that is still held
                rollout, followed = scene._looked_ahead(times[-1])
            middle = self.surface(self.scene_objects[0], rollout, COARSE).vertices.mean(axis=1)
            subject = middle[min(int(time * later.LOOK_AHEAD), len(middle) - 1)]
            found = later.sample(rng, time, self.view, caption(scene), subject, occupied(rollout, followed))
            before = scene
            if found is not None and words(caption(more := scene._with_later(*found))) <= WORDS:
                scene = more
        return scene

    def _looked_ahead(self, seconds: float) -> tuple[Rollout, bool]:
        """The first frame, or these seconds if they are simulated fast, and whether they are."""
        rollout = self._run(1, later.LOOK_AHEAD)
        followed = not rollout.flexes and len(rollout.geoms) < MANY
        return (self._run(int(seconds * later.LOOK_AHEAD) + 1, later.LOOK_AHEAD) if followed else rollout), followed

    def _with_later(self, body: Body, holder: Prop) -> "MujocoScene":
        """The scene with one more later event."""
        # Names are counted from the last one on, which is added first.
        name = later_name(len(self.later))
        event = len(self.scene_objects) - len(self.later)
        return replace(
            self,
            later=(body, *self.later),
            props=(*self.props, holder),
            scene_objects=(
                *self.scene_objects[:event], object_from_body(body, name), *self.scene_objects[event:]
            ),
            model=with_held_body(self.model, body, name, holder),
        )  # fmt: skip

    def with_props(self, props: Sequence[Prop]) -> "MujocoScene":
        """See `Scene.with_props`."""
        return replace(self, props=(*self.props, *props), model=with_props(self.model, props))

    def surface(self, scene_object: SceneObject, rollout: Rollout, detail: int) -> Surface:
        """The triangles of an object over time; subclasses override it for objects with their own mesh."""
        if scene_object.flex:
            return surface_of_flex(rollout.model, scene_object, rollout.flexes[scene_object.flex], detail)
        return surface_of_geoms(rollout.model, scene_object, rollout.geoms, detail)

    def objects(self) -> list[dict[str, Any]]:
        """The json entries of the objects in their order."""
        return [
            {
                "instance": instance,
                "name": scene_object.name,
                "colour": list(scene_object.rgb),
                "dynamic": scene_object.dynamic,
                **scene_object.about,
            }
            for instance, scene_object in enumerate(self.scene_objects, start=FIRST_BODY)
        ]

    def parameters(self) -> dict[str, Any]:
        """Parameters of the whole scene; SI units."""
        return super().parameters() | dict(self.physics)

    def record(self, frames: int, fps: float) -> Recording:
        """See `Scene.record`."""
        numbered = list(enumerate(self.scene_objects, start=FIRST_BODY))
        geoms = {name: instance for instance, each in numbered for name in each.geoms}
        flexes = {each.flex: instance for instance, each in numbered if each.flex}
        rigid = {instance: each.geoms[0] for instance, each in numbered if len(each.geoms) == 1}
        recorder = Recorder(geoms | self._still_geoms(set(geoms)), flexes, rigid)
        self._run(frames, fps, recorder)
        return recorder.recording()

    def _still_geoms(self, known: set[str]) -> dict[str, int]:
        """Name -> instance of floor, walls and props, which lie in the world in this order, but for `known` geoms; some
        props are drawn only.
        """
        model = mujoco.MjModel.from_xml_string(self.model)
        room = {"floor": FLOOR} | dict.fromkeys(self.room.walls(), WALL)
        still = [model.geom(number) for number in range(model.ngeom) if model.geom_bodyid[number] == 0]
        left = [geom for geom in still if geom.name not in room and geom.name not in known]
        for number, prop in enumerate(self.props, start=FIRST_BODY + len(self.scene_objects)):
            if left and (prop.asset is not None or np.allclose(left[0].pos, prop.position)):
                room[left.pop(0).name] = number
        assert not left, f"geoms that are no prop: {[geom.name for geom in left]}"
        return room

    def _run(self, frames: int, fps: float, recorder: Recorder | None = None) -> Rollout:
        return run_model(
            self.model,
            frames,
            fps,
            steps_per_second=self.steps_per_second,
            start=self.start,
            before_step=self._before_step(),
            recorder=recorder,
        )

    def _before_step(self) -> StepCallback | None:
        """The scene's callback, then that of the holders."""
        if not self.later:
            return self.before_step
        own = self.before_step
        hold = Holding({later_name(n): body.held_until for n, body in enumerate(self.later[::-1])})

        def both(model: mujoco.MjModel, data: mujoco.MjData) -> None:
            if own is not None:
                own(model, data)
            hold(model, data)

        return both

    def _surfaces(self, rollout: Rollout, detail: int) -> list[Surface]:
        return [self.surface(scene_object, rollout, detail) for scene_object in self.scene_objects]
