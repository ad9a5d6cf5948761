"""GLSL programs of the rasteriser."""

import math

from phys4d.simulation.mesh_sequence import Texture
from phys4d.simulation.rendering.patterns import FUNCTIONS, PATTERNS

POSITION_VERTEX = """#version 330
in vec3 position;
uniform mat4 to_clip;
void main() { gl_Position = to_clip * vec4(position, 1); }
"""

NOTHING_FRAGMENT = """#version 330
void main() {}
"""

SURFACE_VERTEX = """#version 330
in vec3 position;
in vec3 normal;
in vec3 rest;
in vec3 colour;
uniform mat4 to_clip;
uniform mat4 to_shadow;
uniform vec3 sun;
uniform float shadow_offset; // metres off the surface, against a surface that shades itself
out vec3 surface_position;
out vec3 surface_normal;
out vec3 surface_rest;
out vec3 surface_colour;
out vec3 shadow_position;
void main() {
    gl_Position = to_clip * vec4(position, 1);
    surface_position = position;
    surface_normal = normal;
    surface_rest = rest;
    surface_colour = colour;
    vec3 lifted = position + normal * sign(dot(normal, sun)) * shadow_offset;
    shadow_position = (to_shadow * vec4(lifted, 1)).xyz * 0.5 + 0.5;
}
"""

_HEAD = """#version 330
in vec3 surface_position;
in vec3 surface_normal;
in vec3 surface_rest;
in vec3 surface_colour;
in vec3 shadow_position;
uniform sampler2DShadow shadow_map;
uniform float shadow_texel;
uniform vec3 sun;       // unit, towards the light
uniform vec2 strengths; // sun, ambient
uniform vec3 sun_colour;
uniform vec3 sky_colour;
uniform vec3 fill;      // unit, towards a second light that casts no shadow
uniform vec3 fill_colour;
uniform vec3 ground_colour; // light that the floor throws back up
uniform vec3 eye;
out vec4 pixel;

bool unshaded(vec3 p) {
    vec3 from_centre = abs(p - 0.5);
    return max(from_centre.x, from_centre.y) > 0.5 - 2.0 * shadow_texel || from_centre.z > 0.5;
}
"""



def _turns(name: str, angle: float) -> str:
    """GLSL constants name_0 to name_3: cosine and sine of the multiples of an angle, radians."""
    ends = [(math.cos(angle * number), math.sin(angle * number)) for number in range(4)]
    return "".join(f"const vec2 {name}_{i} = vec2({x:.9f}, {y:.9f});\n" for i, (x, y) in enumerate(ends))


_SHARP_SHADOW = """
float lit() {
    if (unshaded(shadow_position)) return 1.0;
    float sum = 0.0;
    for (int i = 0; i < 4; i++) {
        vec2 offset = (vec2(i & 1, i >> 1) - 0.5) * 1.5 * shadow_texel;
        sum += texture(shadow_map, shadow_position + vec3(offset, -0.003));
    }
    return sum / 4.0;
}
"""

# Percentage-closer soft shadows (Fernando 2005): occluders are searched around the point; the farther they are, the
# wider the shadow's edge. Sixteen offsets on a spiral, four for each of the four samples averaged to one pixel.
# Offset k is at the angle 2.4 k: of k = which + 4 i, the turns by 2.4 which and by 9.6 i are constants, since sine and
# cosine would take as long as the rest.
_SOFT_SHADOW = _turns("TURN", 2.4) + _turns("STEP", 9.6) + """
uniform sampler2D shadow_depth;
uniform float softness; // width of the edge in the shadow map over depth difference in it

float lit() {
    if (unshaded(shadow_position)) return 1.0;
    vec3 dx = dFdx(shadow_position), dy = dFdy(shadow_position);
    float area = dx.x * dy.y - dx.y * dy.x;
    vec2 slope = vec2(dy.y * dx.z - dx.y * dy.z, dx.x * dy.z - dy.x * dx.z) / (area == 0.0 ? 1.0 : area);
    slope = clamp(slope, -1.0, 1.0);
    int which = (int(gl_FragCoord.x) & 1) + 2 * (int(gl_FragCoord.y) & 1);
    float reach = max(0.06 * softness, 2.0 * shadow_texel), above = 0.0, count = 0.0;
    vec2 place[4];
    vec2 turn = which < 2 ? (which == 0 ? TURN_0 : TURN_1) : (which == 2 ? TURN_2 : TURN_3);
    for (int i = 0; i < 4; i++) {
        vec2 at = i < 2 ? (i == 0 ? STEP_0 : STEP_1) : (i == 2 ? STEP_2 : STEP_3);
        at = vec2(at.x * turn.x - at.y * turn.y, at.y * turn.x + at.x * turn.y);
        place[i] = sqrt((float(which + 4 * i) + 0.5) / 16.0) * at;
        float depth = textureLod(shadow_depth, shadow_position.xy + reach * place[i], 0.0).r;
        float mine = shadow_position.z + dot(slope, reach * place[i]) - 0.003;
        if (depth < mine) { above += mine - depth; count += 1.0; }
    }
    if (count == 0.0) return 1.0;
    float radius = max(0.5 * softness * above / count, 1.2 * shadow_texel), sum = 0.0;
    for (int i = 0; i < 4; i++) {
        vec2 offset = radius * place[i];
        sum += texture(shadow_map, shadow_position + vec3(offset, dot(slope, offset) - 0.003));
    }
    return sum / 4.0;
}
"""

_MAIN = """
void main() {
    vec3 n = normalize(surface_normal);
    vec3 view = normalize(eye - surface_position);
    if (dot(n, view) < 0.0) n = -n;
    vec3 colour = surface_colour;
    vec3 r = surface_rest;
    float gloss = 0.0, sharpness = 20.0;
    vec3 glow = vec3(0);
    {PATTERN}
    float shadow = lit();
    float diffuse = max(dot(n, sun), 0.0) * shadow;
    vec3 around = strengths.y * (ground_colour * (0.25 - 0.25 * n.z) + sky_colour * (0.75 + 0.25 * n.z));
    float second = max(0.25 + 0.75 * dot(n, fill), 0.0);
    vec3 shaded = colour * (around + strengths.x * diffuse * sun_colour + second * fill_colour);
    shaded += gloss * shadow * pow(max(dot(n, normalize(view + sun)), 0.0), sharpness);
    shaded += 0.6 * gloss * fill_colour * pow(max(dot(n, normalize(view + fill)), 0.0), sharpness);
    {LAMPS}
    shaded += glow;
    {TONE}
    pixel = vec4(pow(clamp(shaded, 0.0, 1.0), vec3(1.0 / 1.2)), 1);
}
"""

_LAMPS = """
uniform vec3 lamp_place[LAMPS];
uniform vec3 lamp_power[LAMPS];
uniform float lamp_radius[LAMPS];

// Light of glowing things on a surface: of a ball, by inverse square beyond its radius.
vec3 of_lamps(vec3 n) {
    vec3 sum = vec3(0);
    for (int i = 0; i < LAMPS; i++) {
        vec3 way = lamp_place[i] - surface_position;
        float near = lamp_radius[i] * lamp_radius[i] / max(dot(way, way), lamp_radius[i] * lamp_radius[i]);
        sum += lamp_power[i] * near * max(dot(n, normalize(way)), 0.0);
    }
    return sum;
}
"""

# Values above 0.75 approach white asymptotically.
_SHOULDER = "shaded = mix(shaded, 1.0 - 0.0625 / (shaded - 0.5), step(0.75, shaded));"


def surface_fragment(texture: Texture, *, soft: bool, lamps: int) -> str:
    """The fragment shader of surfaces with this pattern.

    texture: the pattern.
    soft: soft shadows and soft clipping of highlights; else sharp shadows, and bright values are clipped.
    lamps: number of glowing parts that light the surfaces.
    """
    shadow = _SOFT_SHADOW if soft else _SHARP_SHADOW
    light = "shaded += colour * of_lamps(n);" if lamps else ""
    main = _MAIN.replace("{PATTERN}", PATTERNS[texture]).replace("{TONE}", _SHOULDER if soft else "")
    functions = _LAMPS.replace("LAMPS", str(lamps)) if lamps else ""
    return _HEAD + FUNCTIONS + shadow + functions + main.replace("{LAMPS}", light)
