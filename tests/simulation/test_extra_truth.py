"""Tracks, backward flow, normals, boxes, velocities and contacts of a clip against the simulator's own state."""

from dataclasses import replace
from functools import cache

import mujoco
import numpy as np
import pytest
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.clip import Truth, measure
from phys4d.simulation.generate import SimulateConfig, sample_scene
from phys4d.simulation.mesh_sequence import MeshSequence, Track
from phys4d.simulation.mujoco_scenes.recording import Recorder
from phys4d.simulation.mujoco_scenes.scene import MujocoScene
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.rigid.scene import RigidScene
from phys4d.simulation.scene import FLOOR, Scene
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.truth.extras import NAMES, extra_truth
from phys4d.simulation.truth.normals import normals

SIZE, FRAMES, FPS = 64, 13, 24
CASES = [("fall", "moving"), ("topple", "static"), ("cover", "moving"), ("overhang", "static"), ("shower", "static")]
Clip = tuple[Scene, MeshSequence, Camera, Truth, dict[str, np.ndarray]]


@cache
def clip(family: str, motion: str) -> Clip:
    config = SimulateConfig(families=(family,), seed=5, frames=FRAMES, fps=FPS, camera=motion, size=(SIZE, SIZE))
    found = sample_scene(config, 0)
    camera = found.scene.view.camera(FRAMES, SIZE, SIZE, FPS)
    truth = measure(found.meshes, camera)
    return found.scene, found.meshes, camera, truth, extra_truth(NAMES, found.scene, found.meshes, camera, truth, FPS)


def projected(camera: Camera, t: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 2] and depths [N] by the inverse of the whole pose, which shares no code with the camera."""
    local = (np.linalg.inv(camera.camera_to_world[t]) @ np.c_[points, np.ones(len(points))].T)[:3]
    pixel = camera.intrinsics[t] @ (local / local[2])
    return pixel[:2].T, local[2]


def seen(meshes: MeshSequence, camera: Camera, t: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether Embree meets nothing before each point [N, 3], and whether that is beyond doubt in float32."""
    mesh = trimesh.Trimesh(meshes.vertices[t], meshes.faces, process=False)
    eye = camera.camera_to_world[t, :3, 3]
    way = points - eye
    face, ray = RayMeshIntersector(mesh).intersects_id(np.tile(eye, (len(way), 1)), way, multiple_hits=False)
    a, b, c = np.moveaxis(mesh.triangles[face], 1, 0)
    normal = np.cross(b - a, c - a)
    first = np.full(len(way), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        first[ray] = (normal * (a - eye)).sum(axis=1) / (normal * way[ray]).sum(axis=1)
    pixel, depth = projected(camera, t, points)
    inside = (depth > 0) & (pixel >= 0).all(axis=1) & (pixel <= SIZE).all(axis=1)
    return inside & (first > 1 - 1e-6), (np.abs(first - 1) < 1e-7) | (first < 1 - 1e-4)


def followed(meshes: MeshSequence, camera: Camera, t: int, point: np.ndarray) -> int:
    """Number of tracks [T, N, 3] that the face that Embree meets at their place in frame t carries through all frames.
    """
    mesh, eye = trimesh.Trimesh(meshes.vertices[t], meshes.faces, process=False), camera.camera_to_world[t, :3, 3]
    way = point[t].astype(float) - eye
    caster = RayMeshIntersector(mesh)
    face, ray = caster.intersects_id(np.tile(eye, (len(way), 1)), way, multiple_hits=False)
    corners = mesh.triangles[face]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = (normal * (corners[:, 0] - eye)).sum(axis=1) / (normal * way[ray]).sum(axis=1)
    weights = trimesh.triangles.points_to_barycentric(corners, eye + length[:, None] * way[ray])
    carried = np.einsum("nk,tnkd->tnd", weights, meshes.vertices[:, meshes.faces[face]])
    return int((np.abs(carried - point[:, ray]).max(axis=(0, 2), initial=0) < 1e-5).sum())


@pytest.mark.parametrize(("family", "motion"), CASES)
def test_tracked_points_are_material_points_that_are_seen_where_no_face_is_before_them(
    family: str, motion: str
) -> None:
    _, meshes, camera, truth, arrays = clip(family, motion)
    point, start = arrays["track_point"], arrays["track_start"]
    assert 256 <= (start == 0).sum() <= 512 and 0 < (start > 0).sum() <= 256
    assert len(np.unique(arrays["track_instance"])) > 2
    column, row = np.floor(arrays["track_pixel"][start, np.arange(len(start))]).astype(int).T
    assert (truth.instance[start, row, column] == arrays["track_instance"]).all()
    assert np.abs(arrays["track_pixel"][start, np.arange(len(start))] % 1 - 0.5).max() < 1e-4
    clear = carried = 0
    for t in range(FRAMES):
        pixel, _ = projected(camera, t, point[t].astype(float))
        assert np.abs(pixel - arrays["track_pixel"][t])[arrays["track_visible"][t]].max() < 1e-3
        own = np.nonzero(start == t)[0]
        carried += followed(meshes, camera, t, point[:, own])
        free, sure = seen(meshes, camera, t, point[t].astype(float))
        assert (free == arrays["track_visible"][t])[sure].all()
        clear += sure.sum()
    assert carried > 0.99 * len(start)  # Embree, in float32, takes a neighbouring face for some
    assert clear > 0.97 * FRAMES * len(start)
    first = arrays["track_visible"].argmax(axis=0)
    assert (first == start).all() and not arrays["track_visible"].all()


def test_tracked_points_of_rigid_bodies_move_with_their_poses() -> None:
    _, meshes, _, _, arrays = clip("fall", "moving")
    for name, track in meshes.tracks.items():
        own = np.nonzero(arrays["track_instance"] == name)[0]
        assert len(own) > 20
        for number in own:
            at = arrays["track_start"][number]
            rest = track.rotation()[at].T @ (arrays["track_point"][at, number] - track.position[at])
            assert np.abs(track.apply(rest[None])[:, 0] - arrays["track_point"][:, number]).max() < 2e-6


@pytest.mark.parametrize(("family", "motion"), [("fall", "moving"), ("topple", "static")])
def test_backward_flow_goes_where_the_pose_of_the_frame_before_has_the_point(family: str, motion: str) -> None:
    _, meshes, camera, truth, arrays = clip(family, motion)
    tracks = meshes.tracks
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(SIZE), np.arange(SIZE)))
    doubtful = 0
    for t in range(1, FRAMES):
        depth = truth.depth[t, row, column]
        ray = np.linalg.inv(camera.intrinsics[t]) @ np.stack([column + 0.5, row + 0.5, np.ones(len(row))])
        here = (camera.camera_to_world[t] @ np.vstack([ray * depth, np.ones(len(row))]))[:3].T
        before = here.copy()
        for name, track in tracks.items():
            own = truth.instance[t, row, column] == name
            rest = (here[own] - track.position[t]) @ track.rotation()[t]
            before[own] = rest @ track.rotation()[t - 1].T + track.position[t - 1]
        pixel, earlier = projected(camera, t - 1, before)
        wanted = np.c_[pixel - np.stack([column, row], axis=1) - 0.5, earlier - depth]
        motion_to = arrays["backward_motion"][:, t - 1, row, column].T
        assert arrays["backward_valid"][t - 1].all() and np.abs(motion_to - wanted).max() < 1e-4
        free, sure = seen(meshes, camera, t - 1, before)
        doubtful += (~sure).sum()
        assert (arrays["backward_visible"][t - 1, row, column] == free)[sure].all()
    assert doubtful < 0.01 * len(row) * (FRAMES - 1)
    assert (~arrays["backward_visible"]).sum() > 0


def test_backward_flow_of_what_rests_before_a_camera_at_rest_is_exactly_0() -> None:
    arrays = clip("topple", "static")[-1]
    still = (arrays["backward_motion"] == 0).all(axis=0)
    assert 0.5 < still.mean() < 1


def test_normals_are_those_of_floor_and_box_and_look_at_the_camera() -> None:
    scene, meshes, camera, truth, arrays = clip("topple", "static")
    normal = arrays["normal"]
    assert np.abs((normal**2).sum(axis=0) - 1).max() < 1e-6
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    ray = np.einsum("tij,jhw->ithw", np.linalg.inv(camera.intrinsics), np.stack([column, row, np.ones_like(row)]))
    assert ((normal * ray).sum(axis=0) < 0).all()
    behind = replace(meshes, faces=meshes.faces[:, ::-1].copy())
    assert np.array_equal(normals(behind, camera, truth)["normal"], normal)
    up = camera.camera_to_world[0, :3, :3].T @ [0, 0, 1]
    floor = truth.instance == FLOOR
    assert np.abs(normal[:, floor] - up[:, None]).max() < 1e-6
    assert isinstance(scene, RigidScene)
    boxes = [number for number, body in enumerate(scene.bodies, start=3) if body.shape == "box"]
    for name in boxes:
        for t in range(FRAMES):
            own = normal[:, t, truth.instance[t] == name]
            axes = camera.camera_to_world[t, :3, :3].T @ meshes.tracks[name].rotation()[t]
            assert np.abs(np.abs(axes.T @ own).max(axis=0) - 1).max(initial=0) < 1e-6


@pytest.mark.parametrize(("family", "motion"), [("topple", "static"), ("cover", "moving")])
def test_boxes_hold_their_things_without_room(family: str, motion: str) -> None:
    _, meshes, _, _, arrays = clip(family, motion)
    assert set(arrays["box_instance"]) == set(meshes.instance) - {1, 2}
    assert arrays["box_rigid"][[name in meshes.tracks for name in arrays["box_instance"]]].all()
    for number, name in enumerate(arrays["box_instance"]):
        corners = np.unique(meshes.faces[meshes.instance == name])
        axes = Track(arrays["box_centre"][:, number], arrays["box_quaternion"][:, number]).rotation()
        away = meshes.vertices[:, corners] - arrays["box_centre"][:, None, number]
        local = np.abs(np.einsum("tvi,tij->tvj", away, axes)) - arrays["box_size"][:, None, number] / 2
        assert np.abs(local.max(axis=1)).max() < 2e-6
        if arrays["box_rigid"][number]:
            assert np.ptp(arrays["box_size"][:, number], axis=0).max() == 0


def test_velocities_begin_as_the_caption_says_and_integrate_to_the_positions() -> None:
    scene, meshes, _, _, arrays = clip("fall", "moving")
    assert isinstance(scene, RigidScene)
    assert list(arrays["velocity_instance"]) == sorted(meshes.tracks)
    for number, body in enumerate(scene.bodies):
        linear, angular = scene.world_velocity(body)
        assert np.allclose(arrays["linear_velocity"][0, number], linear, atol=1e-6)
        assert np.allclose(arrays["angular_velocity"][0, number], angular, atol=1e-6)
    velocity, position = arrays["linear_velocity"].astype(float), meshes.tracks[3].position
    touched = arrays["contact_time"][(arrays["contact_instance"] == 3).any(axis=1)].min(initial=1)
    free = int(touched * FPS)
    assert free >= 3
    mean = (velocity[1:free, 0] + velocity[: free - 1, 0]) / 2
    # Of MuJoCo's semi-implicit steps the position is ahead by half a step's gravity.
    assert np.abs(np.diff(position[:free], axis=0) * FPS - mean).max() < 9.81 / 1200


@pytest.mark.parametrize("family", ["fall", "collision", "topple", "seesaw", "figure", "plunge", "plough"])
def test_impulses_and_gravity_change_the_momentum_of_a_free_body(family: str) -> None:
    config = SimulateConfig(families=(family,), seed=5, frames=25, fps=FPS, size=(SIZE, SIZE))
    found = sample_scene(config, 0)
    recording = found.scene.record(25, FPS)
    assert recording is not None
    free = [o for o in found.scene.objects() if o.get("shape") in ("ball", "box", "cylinder") and o.get("mass")]
    touched = 0
    for thing in free:
        name = thing["instance"]
        momentum = thing["mass"] * recording.velocities[name][:, 3:]
        gained = np.zeros((24, 3))
        for time, pair, impulse in zip(recording.time, recording.instances, recording.impulse, strict=True):
            if name in pair:
                gained[int(time * FPS)] += impulse if pair[1] == name else -impulse
        assert np.abs(np.diff(momentum, axis=0) - gained - thing["mass"] * np.array([0, 0, -9.81]) / FPS).max() < (
            1e-9 + 1e-5 * np.abs(momentum).max()
        )
        touched += np.count_nonzero(gained.any(axis=1))
    assert free and touched > 5
    along = (recording.impulse * recording.normal).sum(axis=1)
    assert (along > 0).all() and (recording.instances[:, 0] < recording.instances[:, 1]).all()
    room = recording.instances[:, 0] == FLOOR
    assert np.abs(recording.normal[room] - [0, 0, 1]).max() < 1e-9 and np.abs(recording.point[room, 2]).max() < 0.02


def test_impulses_in_other_scenes_are_the_constraint_forces_that_mujoco_applies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = sample_scene(SimulateConfig(families=("seesaw",), seed=5, frames=25, fps=FPS, size=(SIZE, SIZE)), 0).scene
    assert isinstance(scene, MujocoScene)
    geom, total, step = scene.scene_objects[0].geoms[0], np.zeros(3), Recorder.step

    def also(recorder: Recorder, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        step(recorder, model, data)
        first = model.body_dofadr[model.geom_bodyid[model.geom(geom).id]]
        np.add(total, data.qfrc_constraint[first : first + 3] * model.opt.timestep, out=total)

    monkeypatch.setattr(Recorder, "step", also)
    recording = scene.record(25, FPS)
    sides = (recording.instances == 3).astype(int) @ [-1, 1]
    assert total[2] > 10 and np.abs(sides @ recording.impulse - total).max() < 1e-9


def test_a_recorded_run_is_the_run_of_the_clip() -> None:
    for family, motion in (("fall", "moving"), ("topple", "static")):
        scene, meshes, _, _, _ = clip(family, motion)
        recording = scene.record(FRAMES, FPS)
        assert recording is not None and recording.positions.keys() == meshes.tracks.keys()
        for name, track in meshes.tracks.items():
            assert np.abs(recording.positions[name] - track.position).max() < 1e-15


def test_every_prop_of_every_mujoco_scene_is_the_geom_of_its_instance() -> None:
    checked = 0
    for family, sample in FAMILIES.items():
        scene = sample(keyed_rng(3, family))
        if not isinstance(scene, MujocoScene):
            continue
        if family in ("double_pendulum", "seesaw"):  # with holders of later events
            scene = scene.lasting(5.0, keyed_rng(4, family))
        model = mujoco.MjModel.from_xml_string(scene.model)
        still = scene._still_geoms({name for each in scene.scene_objects for name in each.geoms})
        first = 3 + len(scene.scene_objects)
        props = {name: scene.props[instance - first] for name, instance in still.items() if instance >= first}
        assert len(props) == (0 if family == "release" else len(scene.props)), family
        for name, prop in props.items():
            assert np.allclose(model.geom(name).pos, prop.position), (family, name)
            assert np.allclose(model.geom(name).size[: len(prop.size)], prop.size), (family, name)
        checked += len(props)
    assert checked > 20
