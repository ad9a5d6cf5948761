"""Shader nodes of Blender for the patterns that the raster path draws, evaluated at the same rest coordinates.

Run by `worker.py` in a Python that has bpy, without the rest of this package; `rendering.patterns` defines them.
"""

from typing import Any

DISPLAYED = 2.2 / 1.2  # power of the raster path's colours, which it displays with a gamma of 1.2, as linear light
CLEAR = 0.7  # share of white in the colour of what light passes through
WHITEST = 0.9  # albedo of a white surface


class Value:
    """A number or vector at each point of a surface, as the output of a node."""

    def __init__(self, tree: Any, socket: Any) -> None:
        self.tree, self.socket = tree, socket

    def _node(self, kind: str, operation: str, *inputs: Any) -> "Value":
        node = self.tree.nodes.new(kind)
        node.operation = operation
        for number, value in enumerate(inputs):
            connect(self.tree, value, node.inputs[number])
        return Value(self.tree, node.outputs[0])

    def math(self, operation: str, *others: Any) -> "Value":
        """A scalar operation of Blender's node Math."""
        return self._node("ShaderNodeMath", operation, self, *others)

    def __add__(self, other: Any) -> "Value":
        return self.math("ADD", other)

    def __sub__(self, other: Any) -> "Value":
        return self.math("SUBTRACT", other)

    def __mul__(self, other: Any) -> "Value":
        return self.math("MULTIPLY", other)

    def __truediv__(self, other: Any) -> "Value":
        return self.math("DIVIDE", other)

    def below(self, other: Any) -> "Value":
        """1 where it is less than the other, else 0."""
        return self.math("LESS_THAN", other)

    def floor(self) -> "Value":
        """The largest whole number that is not larger."""
        return self.math("FLOOR")

    def fract(self) -> "Value":
        """What is left of it above its floor."""
        return self.math("FRACT")

    def abs(self) -> "Value":
        """Its absolute value."""
        return self.math("ABSOLUTE")

    def step(self, low: float, high: float) -> "Value":
        """Smooth step from 0 at `low` to 1 at `high`, which may be less."""
        share = (self - low) * (1 / (high - low))
        share = share.math("MAXIMUM", 0.0).math("MINIMUM", 1.0)
        return share * share * (share * -2.0 + 3.0)

    def seam(self, width: float) -> "Value":
        """1 within `width` of a whole number, else 0."""
        return (self - (self + 0.5).floor()).abs().below(width)

    def scaled(self, factor: Any) -> "Value":
        """A colour times a number."""
        node = self.tree.nodes.new("ShaderNodeVectorMath")
        node.operation = "SCALE"
        connect(self.tree, self, node.inputs[0])
        connect(self.tree, factor, node.inputs["Scale"])
        return Value(self.tree, node.outputs[0])

    def toward(self, other: Any, share: Any) -> "Value":
        """A colour mixed with another one, of which it takes `share`."""
        change = Value._vector(self.tree, "SUBTRACT", other, self).scaled(share)
        return Value._vector(self.tree, "ADD", self, change)

    @staticmethod
    def _vector(tree: Any, operation: str, *inputs: Any) -> "Value":
        node = tree.nodes.new("ShaderNodeVectorMath")
        node.operation = operation
        for number, value in enumerate(inputs):
            connect(tree, value, node.inputs[number])
        return Value(tree, node.outputs[0])

    def xyz(self) -> "tuple[Value, Value, Value]":
        """The components of a vector."""
        node = self.tree.nodes.new("ShaderNodeSeparateXYZ")
        connect(self.tree, self, node.inputs[0])
        return tuple(Value(self.tree, output) for output in node.outputs)  # type: ignore[return-value]


def connect(tree: Any, value: Any, socket: Any) -> None:
    """Links an output to an input, or sets the input to a constant."""
    if isinstance(value, Value):
        tree.links.new(value.socket, socket)
    else:
        socket.default_value = value


def attribute(tree: Any, name: str, output: str) -> Value:
    """An attribute of the mesh by name, as its output "Vector" or "Color"."""
    node = tree.nodes.new("ShaderNodeAttribute")
    node.attribute_name = name
    return Value(tree, node.outputs[output])


def noise(place: Value, scale: float) -> Value:
    """Smooth noise of about one period in 1 / scale metres, 0 to 1 with the mean 0.5."""
    node = place.tree.nodes.new("ShaderNodeTexNoise")
    node.inputs["Detail"].default_value = 0.0
    node.inputs["Scale"].default_value = scale
    connect(place.tree, place, node.inputs["Vector"])
    return (Value(place.tree, node.outputs[0]) - 0.5) * 1.5 + 0.5


def cell_tone(x: Value, y: Value, kind: float) -> Value:
    """A random number 0 to 1 for each pair of whole numbers."""
    node = x.tree.nodes.new("ShaderNodeCombineXYZ")
    for socket, value in zip(node.inputs, (x, y, kind), strict=True):
        connect(x.tree, value, socket)
    white = x.tree.nodes.new("ShaderNodeTexWhiteNoise")
    x.tree.links.new(node.outputs[0], white.inputs["Vector"])
    return Value(x.tree, white.outputs["Value"])


def pattern(tree: Any, name: str, colour: Value) -> Value:
    """The colour of a pattern at a point, as the raster path has it.

    tree: node tree of the material. name: of the texture. colour: of the surface.
    """
    rest = attribute(tree, "rest", "Vector")
    x, y, z = rest.xyz()
    u, v, _ = attribute(tree, "along", "Vector").xyz()
    white = (1.0, 1.0, 1.0)
    match name:
        case "CHECKER":
            odd = ((x / 0.3).floor() + (y / 0.3).floor()).math("FLOORED_MODULO", 2.0)
            return colour.scaled(odd * -0.14 + 1.0)
        case "BANDS":
            return colour.toward(white, (x / 0.17 + 0.25).fract().math("GREATER_THAN", 0.5) * 0.62)
        case "GRAIN":
            bend = noise(rest, 15.0) * 0.02
            a, b = x + bend + 0.03, z + bend + 0.05
            ring = ((a * a + b * b).math("SQRT") / 0.07).fract()
            return colour.toward((0.45, 0.27, 0.12), ring.step(0.35, 0.9) * 0.45 + 0.2)
        case "METAL":
            return colour.scaled(z.abs().below(0.025) * -0.6 + 1.0)
        case "SPECKLE":
            return colour.scaled(noise(rest, 15.0).math("GREATER_THAN", 0.6) * -0.37 + 0.92)
        case "MARBLE":
            bend = noise(rest, 6.0) + noise(rest, 15.0) * 0.5 + noise(rest, 40.0) * 0.25
            broad = (x * 7.0 + y * 10.0 + z * 8.0 + bend * 5.0).math("SINE").abs()
            fine = (x * -11.0 + y * 6.0 + z * 13.0 + bend * 6.0 + 2.0).math("SINE").abs()
            veined = colour.toward(white, 0.42).toward(colour.scaled(0.8), broad.step(0.4, 0.0) * 0.8)
            return veined.scaled((broad.step(0.16, 0.0) * 0.7 + fine.step(0.1, 0.0) * 0.45) * -0.45 + 1.0)
        case "DOTS":
            offs = [(each / 0.12 + 0.5).fract() - 0.5 for each in (x, y, z)]
            distance = (offs[0] * offs[0] + offs[1] * offs[1] + offs[2] * offs[2]).math("SQRT")
            return colour.toward(white, distance.below(0.34) * 0.7)
        case "PLANKS":
            row = (v / 0.13).floor()
            shifted = u / 0.95 + cell_tone(row, row, 7.0)
            tone = cell_tone(row, shifted.floor(), 1.0)
            grain = noise(stretched(rest.tree, u * 5.0, v * 55.0, tone * 20.0), 1.0)
            gap = (v / 0.13).seam(0.022).math("MAXIMUM", shifted.seam(0.004))
            return colour.scaled(tone * 0.3 + 0.72 + (grain - 0.5) * 0.3).scaled(gap * -0.6 + 1.0)
        case "TILES":
            a, b = x / 0.24, y / 0.24
            tone = cell_tone((a + 0.5).floor(), (b + 0.5).floor(), 2.0)
            grout = (a + 0.5).seam(0.018).math("MAXIMUM", (b + 0.5).seam(0.018))
            return colour.scaled(tone * 0.2 + 0.86).toward((0.6, 0.59, 0.57), grout)
        case "CONCRETE":
            cloud = noise(rest, 2.3) + noise(rest, 7.0) * 0.5 + noise(rest, 31.0) * 0.35
            return colour.scaled(cloud * 0.27 + 0.76)
        case "CARPET":
            away = [((each / 0.36).fract() - 0.5).abs() for each in (x, y)]
            return colour.scaled((away[0] + away[1]).below(0.36) * -0.26 + 1.0).scaled(noise(rest, 150.0) * 0.36 + 0.82)
        case "BRICK":
            a, b = (x / 0.24), (y / 0.085)
            row = b.floor()
            a = a + row.math("FLOORED_MODULO", 2.0) * 0.5
            mortar = a.seam(0.024).math("MAXIMUM", b.seam(0.075))
            return colour.scaled(cell_tone(a.floor(), row, 5.0) * 0.36 + 0.74).toward((0.76, 0.73, 0.69), mortar)
        case "PLASTER":
            return colour.scaled(noise(rest, 3.0) * 0.1 + noise(rest, 13.0) * 0.08 + 0.9)
        case "STRIPES":
            return colour.scaled(((x / 0.22).fract() - 0.5).abs().below(0.25) * 0.17 + 0.87)
        case "WEAVE":
            stripe = (u / 0.2 + 0.5).seam(0.16).math("MAXIMUM", (v / 0.2 + 0.5).seam(0.16))
            over = ((u / 0.05).floor() + (v / 0.05).floor()).math("FLOORED_MODULO", 2.0)
            return colour.scaled(over * 0.12 + 0.9).scaled(stripe * -0.28 + 1.0)
        case "KNIT":
            rib = (u / 0.032).fract() - 0.5
            rows = (v / 0.22).fract().math("GREATER_THAN", 0.72)
            return colour.scaled(rib * rib * -0.9 + 1.0).toward((0.9, 0.9, 0.9), rows * 0.6)
        case "FOAM":
            return colour.scaled(noise(rest, 70.0) * 0.3 + noise(rest, 150.0) * 0.15 + 0.72)
        case "TWIST":
            turn = y.math("ARCTAN2", x) / 6.2831853
            edge = ((turn * 3.0 + z / 0.07).fract() - 0.5).abs() * 2.0
            marked = (turn + z / 0.21).fract().below(0.3333)
            return colour.scaled(edge.step(0.55, 1.0) * -0.5 + 1.08).toward((0.95, 0.93, 0.88), marked * 0.7)
        case "JELLY":
            far = ((x / 0.11).fract() - 0.5).abs().math("MAXIMUM", ((y / 0.11).fract() - 0.5).abs())
            far = far.math("MAXIMUM", ((z / 0.11).fract() - 0.5).abs())
            pale = colour.toward(white, noise(rest, 9.0).step(0.35, 0.8) * 0.16)
            return pale.scaled(far.step(0.44, 0.47) * -0.14 + 1.0)
        case "LATEX":
            return colour.toward((0.95, 0.95, 0.95), ((z / 0.16 + 0.25).fract() - 0.5).abs().below(0.1) * 0.6)
        case "GRIT":
            return colour.scaled(noise(rest, 55.0) * 0.36 + 0.8)
    return colour


def stretched(tree: Any, x: Value, y: Value, z: Value) -> Value:
    """A vector of three numbers."""
    node = tree.nodes.new("ShaderNodeCombineXYZ")
    for socket, value in zip(node.inputs, (x, y, z), strict=True):
        connect(tree, value, socket)
    return Value(tree, node.outputs[0])


def tint(shown: Value) -> Value:
    """The colour that light takes at each of the many surfaces of clear beads: the hue of `shown`, pale and bright."""
    red, green, blue = shown.xyz()
    most = red.math("MAXIMUM", green).math("MAXIMUM", blue).math("MAXIMUM", 1e-3)
    return shown.scaled(most.math("POWER", -1.0)).toward((1.0, 1.0, 1.0), CLEAR)


def build(tree: Any, surface: dict[str, Any]) -> None:
    """Fills the node tree of a material; surface: the fields of `materials.Surface`."""
    tree.nodes.clear()
    shader, out = tree.nodes.new("ShaderNodeBsdfPrincipled"), tree.nodes.new("ShaderNodeOutputMaterial")
    tree.links.new(shader.outputs[0], out.inputs["Surface"])
    colour = attribute(tree, "colour", "Color")
    gamma = tree.nodes.new("ShaderNodeGamma")
    connect(tree, pattern(tree, surface["pattern"], colour), gamma.inputs[0])
    gamma.inputs[1].default_value = DISPLAYED
    shown = Value(tree, gamma.outputs[0])
    shown = tint(shown) if surface["transmission"] else shown.scaled(WHITEST)
    connect(tree, shown, shader.inputs["Base Color"])
    for name, key in (
        ("Metallic", "metallic"), ("Roughness", "roughness"), ("IOR", "ior"), ("Sheen Weight", "sheen"),
        ("Transmission Weight", "transmission"), ("Subsurface Weight", "subsurface"),
    ):  # fmt: skip
        shader.inputs[name].default_value = surface[key]
    if surface["transmission"]:
        # Lamps are not found through a refracting surface, so that what is behind one would be black in their light.
        light, clear = tree.nodes.new("ShaderNodeLightPath"), tree.nodes.new("ShaderNodeBsdfTransparent")
        connect(tree, shown, clear.inputs["Color"])
        mixed = tree.nodes.new("ShaderNodeMixShader")
        lit = Value(tree, light.outputs["Is Shadow Ray"]).math("MAXIMUM", Value(tree, light.outputs["Is Diffuse Ray"]))
        connect(tree, lit, mixed.inputs[0])
        tree.links.new(shader.outputs[0], mixed.inputs[1])
        tree.links.new(clear.outputs[0], mixed.inputs[2])
        tree.links.new(mixed.outputs[0], out.inputs["Surface"])
    if surface["subsurface"]:
        shader.inputs["Subsurface Scale"].default_value = 0.05
    if surface["glow"]:
        red, _, blue = colour.xyz()
        camera = Value(tree, tree.nodes.new("ShaderNodeLightPath").outputs["Is Camera Ray"])
        strength = (red - blue).step(0.12, 0.6) * 0.75 * (camera * (1.0 - surface["glow"]) + surface["glow"])
        connect(tree, colour, shader.inputs["Emission Color"])
        connect(tree, strength, shader.inputs["Emission Strength"])
