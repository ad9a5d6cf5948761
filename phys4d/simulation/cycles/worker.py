"""Renders a described clip with Cycles: python worker.py FOLDER, in a Python that has the module bpy.

FOLDER has scene.json and arrays.npz, as `process` writes them; the pictures go there as 000000.png, ... Nothing else of
this package is imported, so that this Python needs bpy and numpy only.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import bpy
import numpy as np

nodes = runpy.run_path(str(Path(__file__).with_name("shader_nodes.py")))
SENSOR = 36.0  # mm, width of the camera's sensor in Blender, without effect on the picture
BOUNCES, REFRACTIONS, LAYERS = 6, 24, 64  # of a path: reflections; refractions; surfaces that a shadow passes
EXPOSURE = 0.4  # stops
CLAMP = 4.0  # of indirect light, against single bright pixels


def flat(tree: Any, instance: int) -> None:
    """A material that shows the number of its instance, over 255, in any light."""
    tree.nodes.clear()
    emission, out = tree.nodes.new("ShaderNodeEmission"), tree.nodes.new("ShaderNodeOutputMaterial")
    emission.inputs["Color"].default_value = (instance / 255, instance / 255, instance / 255, 1.0)
    tree.links.new(emission.outputs[0], out.inputs["Surface"])


def add_mesh(part: dict[str, Any], arrays: dict[str, np.ndarray], instances: bool, sky: bool) -> Any:
    """Adds one part at t = 0; returns its mesh."""
    faces, rest = arrays["faces"], arrays["rest"].astype(np.float64)
    mesh = bpy.data.meshes.new(str(part["instance"]))
    mesh.from_pydata(arrays["vertices"][0].tolist(), [], faces.tolist())
    mesh.shade_smooth()
    mesh.attributes.new("rest", "FLOAT_VECTOR", "POINT").data.foreach_set("vector", arrays["rest"].ravel())
    mesh.attributes.new("colour", "FLOAT_COLOR", "POINT")
    corners = rest[faces]
    normal = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    # The axes along which a flat face runs, as the raster path's along_face.
    level = normal[:, 2] >= np.maximum(normal[:, 0], normal[:, 1])
    axes = np.where(level, 0, np.where(normal[:, 1] >= normal[:, 0], 1, 2))
    pairs = np.array([[0, 1], [0, 2], [2, 1]])[axes]
    along = np.zeros((len(faces), 3, 3), np.float32)
    along[..., :2] = np.take_along_axis(corners, pairs[:, None, :].repeat(3, axis=1), axis=2)
    mesh.attributes.new("along", "FLOAT_VECTOR", "CORNER").data.foreach_set("vector", along.ravel())
    material = bpy.data.materials.new(mesh.name)
    material.use_nodes = True
    if instances:
        flat(material.node_tree, part["instance"])
    else:
        nodes["build"](material.node_tree, part["surface"])
    mesh.materials.append(material)
    thing = bpy.data.objects.new(mesh.name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    if part["ceiling"] and sky:  # seen by the camera only: the sky lights the room through it
        thing.visible_diffuse = thing.visible_glossy = thing.visible_transmission = False
    thing.visible_shadow = part["casts"] or not sky
    set_frame(mesh, arrays, 0, first=True)
    return mesh


def set_frame(mesh: Any, arrays: dict[str, np.ndarray], t: int, *, first: bool = False) -> None:
    """Moves a mesh to frame t, and gives it that frame's colours."""
    colour, moving = arrays["colour"], len(arrays["vertices"]) > 1
    if first or colour.ndim == 3:
        values = colour[t] if colour.ndim == 3 else colour
        rgba = np.concatenate([values, np.ones((len(values), 1), np.float32)], axis=1)
        mesh.attributes["colour"].data.foreach_set("color", np.ascontiguousarray(rgba, np.float32).ravel())
    if moving:
        mesh.attributes["position"].data.foreach_set("vector", np.ascontiguousarray(arrays["vertices"][t]).ravel())
    if first or moving or colour.ndim == 3:
        mesh.update()


def add_light(light: dict[str, Any]) -> None:
    """Adds a sun or an area lamp that faces along its direction."""
    lamp = bpy.data.lights.new(light["kind"], light["kind"].upper())
    lamp.energy, lamp.color = light["power"], light["colour"]
    thing = bpy.data.objects.new(light["kind"], lamp)
    pose = np.eye(4)
    back = -np.array(light["direction"]) / np.linalg.norm(light["direction"])
    right = np.cross([0.0, 1.0, 0.0] if abs(back[1]) < 0.9 else [1.0, 0.0, 0.0], back)
    right /= np.linalg.norm(right)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = light.get("position", (0.0, 0.0, 0.0))
    thing.matrix_world = pose.T.tolist()  # in columns
    if light["kind"] == "area":
        lamp.shape, lamp.size = "SQUARE", light["side"]
        thing.visible_camera = False
    else:
        lamp.angle = light["angle"]
    bpy.context.scene.collection.objects.link(thing)


def set_sky(sky: dict[str, Any] | None) -> None:
    """The world's light: a gradient from horizon to zenith with clouds, or nothing."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    tree.nodes.clear()
    ground, out = tree.nodes.new("ShaderNodeBackground"), tree.nodes.new("ShaderNodeOutputWorld")
    tree.links.new(ground.outputs[0], out.inputs["Surface"])
    if sky is None:
        ground.inputs["Strength"].default_value = 0.0
        return
    value, connect = nodes["Value"], nodes["connect"]
    direction = value(tree, tree.nodes.new("ShaderNodeTexCoord").outputs["Generated"])
    x, y, height = direction.xyz()
    up = height.math("MAXIMUM", 0.0)
    flat_height = up + 0.25
    place = nodes["stretched"](tree, x / flat_height, y / flat_height, up * 0.0 + sky["turn"])
    cover = nodes["noise"](place, 1.6) + nodes["noise"](place, 5.0) * 0.4 - 0.2
    cover = cover.step(1.0 - sky["clouds"], 1.25 - sky["clouds"]) * up.step(0.02, 0.2)
    colour = nodes["attribute"](tree, "none", "Color").scaled(0.0).toward(tuple(sky["horizon"]), 1.0)
    colour = colour.toward(tuple(sky["zenith"]), up.math("POWER", 0.6))
    colour = colour.toward(tuple(1.3 * each for each in sky["horizon"]), cover * 0.8)
    colour = colour.toward(tuple(sky["ground"]), height.step(0.0, -0.03))
    connect(tree, colour, ground.inputs["Color"])


def set_up(scene: Any, job: dict[str, Any]) -> None:
    """Settings of Cycles and of the file that a frame is written to."""
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    render.resolution_x, render.resolution_y, render.resolution_percentage = job["width"], job["height"], 100
    render.threads_mode, render.threads = "FIXED", 1
    render.use_persistent_data = True
    render.dither_intensity = 0.0
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
    render.image_settings.color_depth = "8"
    cycles.device, cycles.use_adaptive_sampling = "CPU", False
    cycles.samples = 1 if job["instances"] else job["samples"]
    cycles.max_bounces, cycles.transmission_bounces, cycles.transparent_max_bounces = REFRACTIONS, REFRACTIONS, LAYERS
    cycles.diffuse_bounces = cycles.glossy_bounces = BOUNCES
    cycles.sample_clamp_indirect = CLAMP
    cycles.use_denoising = not job["instances"]
    scene.view_settings.view_transform = "Raw" if job["instances"] else "Standard"
    scene.view_settings.exposure = 0.0 if job["instances"] else EXPOSURE
    if job["instances"]:  # one ray through the middle of each pixel
        cycles.pixel_filter_type, cycles.filter_width = "BOX", 0.01
        render.filter_size = 0.01


def main(folder: Path) -> None:
    """Renders all frames of the clip in a folder."""
    job = json.loads((folder / "scene.json").read_text())
    arrays = np.load(folder / "arrays.npz")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    set_up(scene, job)
    meshes = []
    for number, part in enumerate(job["parts"]):
        own = {name: arrays[f"{name}{number}"] for name in ("vertices", "faces", "rest", "colour")}
        meshes.append((add_mesh(part, own, job["instances"], job["sky"] is not None), own))
    if not job["instances"]:
        for light in job["lights"]:
            add_light(light)
    set_sky(None if job["instances"] else job["sky"])
    lens = bpy.data.cameras.new("camera")
    lens.sensor_fit, lens.sensor_width, lens.clip_start, lens.clip_end = "HORIZONTAL", SENSOR, 0.05, 100.0
    camera = bpy.data.objects.new("camera", lens)
    scene.collection.objects.link(camera)
    scene.camera = camera
    for t, (pose, (focal, right, up)) in enumerate(zip(arrays["pose"], arrays["lens"], strict=True)):
        if t:
            for mesh, own in meshes:
                set_frame(mesh, own, t)
        camera.matrix_world = pose.T.tolist()  # in columns
        lens.lens, lens.shift_x, lens.shift_y = focal * SENSOR, right, up
        scene.cycles.seed = (job["seed"] + t) % 2**31
        scene.render.filepath = str(folder / f"{t:06d}.png")
        bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
