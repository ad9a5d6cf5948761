"""GLSL programs of the rasteriser."""

POSITION_VERTEX = """#version 330
in vec3 position;
uniform mat4 to_clip;
void main() { gl_Position = to_clip * vec4(position, 1); }
"""

NOTHING_FRAGMENT = """#version 330
void main() {}
"""

FACE_FRAGMENT = """#version 330
out float face;
void main() { face = float(gl_PrimitiveID + 1); }
"""

SURFACE_VERTEX = """#version 330
in vec3 position;
in vec3 normal;
in vec3 rest;
in vec3 colour;
in float texture_kind;
uniform mat4 to_clip;
uniform mat4 to_shadow;
uniform vec3 sun;
uniform float shadow_offset; // metres off the surface, against a surface that shades itself
out vec3 surface_position;
out vec3 surface_normal;
out vec3 surface_rest;
out vec3 surface_colour;
out vec3 shadow_position;
flat out int kind;
void main() {
    gl_Position = to_clip * vec4(position, 1);
    surface_position = position;
    surface_normal = normal;
    surface_rest = rest;
    surface_colour = colour;
    vec3 lifted = position + normal * sign(dot(normal, sun)) * shadow_offset;
    shadow_position = (to_shadow * vec4(lifted, 1)).xyz * 0.5 + 0.5;
    kind = int(texture_kind + 0.5);
}
"""

# Pattern numbers are those of mesh_sequence.Texture; lengths in metres of rest coordinates.
SURFACE_FRAGMENT = """#version 330
in vec3 surface_position;
in vec3 surface_normal;
in vec3 surface_rest;
in vec3 surface_colour;
in vec3 shadow_position;
flat in int kind;
uniform sampler2DShadow shadow_map;
uniform float shadow_texel;
uniform vec3 sun;       // unit, towards the light
uniform vec2 strengths; // sun, ambient
uniform vec3 eye;
out vec4 pixel;

float hash(vec3 p) {
    p = fract(p * 0.3183099 + vec3(0.71, 0.113, 0.419));
    p *= 17.0;
    return fract(p.x * p.y * p.z * (p.x + p.y + p.z));
}

float noise(vec3 x) {
    vec3 i = floor(x), f = fract(x);
    f = f * f * (3.0 - 2.0 * f);
    return mix(mix(mix(hash(i), hash(i + vec3(1, 0, 0)), f.x),
                   mix(hash(i + vec3(0, 1, 0)), hash(i + vec3(1, 1, 0)), f.x), f.y),
               mix(mix(hash(i + vec3(0, 0, 1)), hash(i + vec3(1, 0, 1)), f.x),
                   mix(hash(i + vec3(0, 1, 1)), hash(i + vec3(1, 1, 1)), f.x), f.y), f.z);
}

float lit() {
    vec3 from_centre = abs(shadow_position - 0.5);
    if (max(from_centre.x, from_centre.y) > 0.5 - 2.0 * shadow_texel || from_centre.z > 0.5) return 1.0;
    float sum = 0.0;
    for (int i = 0; i < 4; i++) {
        vec2 offset = (vec2(i & 1, i >> 1) - 0.5) * 1.5 * shadow_texel;
        sum += texture(shadow_map, shadow_position + vec3(offset, -0.003));
    }
    return sum / 4.0;
}

void main() {
    vec3 n = normalize(surface_normal);
    vec3 view = normalize(eye - surface_position);
    if (dot(n, view) < 0.0) n = -n;
    vec3 colour = surface_colour;
    vec3 r = surface_rest;
    float gloss = 0.0, sharpness = 20.0;
    if (kind == 1) {
        colour *= mod(floor(r.x / 0.3) + floor(r.y / 0.3), 2.0) < 0.5 ? 1.0 : 0.86;
    } else if (kind == 2) {
        colour = fract(r.x / 0.17 + 0.25) < 0.5 ? colour : mix(colour, vec3(1), 0.62);
        gloss = 0.12;
    } else if (kind == 3) {
        float ring = fract(length(r.xz + 0.02 * noise(r * 15.0) + vec2(0.03, 0.05)) / 0.07);
        colour = mix(colour, vec3(0.45, 0.27, 0.12), 0.2 + 0.45 * smoothstep(0.35, 0.9, ring));
    } else if (kind == 4) {
        vec3 mirrored = reflect(-view, n);
        float sky = smoothstep(-0.4, 0.9, mirrored.z);
        colour = colour * (0.5 + 0.5 * sky) + 0.22 * smoothstep(0.55, 0.9, mirrored.z);
        colour *= abs(r.z) < 0.025 ? 0.4 : 1.0;
        gloss = 0.8; sharpness = 60.0;
    } else if (kind == 5) {
        colour *= noise(r * 15.0) > 0.6 ? 0.55 : 0.92;
    }
    float shadow = lit();
    float diffuse = max(dot(n, sun), 0.0) * shadow;
    vec3 shaded = colour * (strengths.y * (0.75 + 0.25 * n.z) + strengths.x * diffuse);
    shaded += gloss * shadow * pow(max(dot(n, normalize(view + sun)), 0.0), sharpness);
    pixel = vec4(pow(clamp(shaded, 0.0, 1.0), vec3(1.0 / 1.2)), 1);
}
"""
