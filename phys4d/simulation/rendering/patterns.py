"""GLSL code of the surface patterns.

Each pattern changes `colour`, `gloss`, `sharpness` and `glow` (emitted light) at the rest coordinates `r`, in metres.
Details smaller than a pixel are faded out with `fwidth`, so that images of any size have no aliasing.
"""

from phys4d.simulation.mesh_sequence import Texture

FUNCTIONS = """
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

// Noise of about one period a metre, with its mean where a pixel holds more than a period.
float faded(vec3 x) {
    float pixel = length(fwidth(x));
    return mix(0.5, noise(x), 1.0 - smoothstep(0.5, 1.4, pixel));
}

// 1 within `width` of a whole number, as wide in pixels as it should be on average.
float seam(float x, float width) {
    float pixel = max(fwidth(x), 1e-6), off = abs(x - floor(x + 0.5));
    return clamp((width - off) / pixel + 0.5, 0.0, 1.0) * min(1.0, 2.0 * width / pixel);
}

// In the coordinates of the two axes along which a flat face runs.
vec2 along_face(vec3 r) {
    vec3 n = abs(cross(dFdx(r), dFdy(r)));
    return n.z >= max(n.x, n.y) ? r.xy : n.y >= n.x ? r.xz : r.zy;
}

// Brightness across one thread of a fabric: 1 in the middle; its mean where threads are finer than a pixel.
float thread(float x) {
    float pixel = max(fwidth(x), 1e-6);
    return mix(0.62, sqrt(max(1.0 - pow(2.0 * fract(x) - 1.0, 2.0), 0.0)), 1.0 - smoothstep(0.3, 0.9, pixel));
}

// A light board along the foot of a wall.
vec3 skirting(vec3 r, vec3 colour) {
    float pixel = max(fwidth(r.y), 1e-6);
    float board = clamp((0.085 - r.y) / pixel + 0.5, 0.0, 1.0);
    return mix(colour, vec3(0.86, 0.84, 0.8), board) * (1.0 - 0.35 * seam(r.y / 0.17 + 0.5, 0.025) * step(r.y, 0.12));
}
"""

PATTERNS = {
    Texture.PLAIN: "",
    Texture.CHECKER: """
        colour *= mod(floor(r.x / 0.3) + floor(r.y / 0.3), 2.0) < 0.5 ? 1.0 : 0.86;
    """,
    Texture.BANDS: """
        colour = fract(r.x / 0.17 + 0.25) < 0.5 ? colour : mix(colour, vec3(1), 0.62);
        gloss = 0.12;
    """,
    Texture.GRAIN: """
        float ring = fract(length(r.xz + 0.02 * noise(r * 15.0) + vec2(0.03, 0.05)) / 0.07);
        colour = mix(colour, vec3(0.45, 0.27, 0.12), 0.2 + 0.45 * smoothstep(0.35, 0.9, ring));
    """,
    Texture.METAL: """
        vec3 mirrored = reflect(-view, n);
        float sky = smoothstep(-0.4, 0.9, mirrored.z);
        colour = colour * (0.5 + 0.5 * sky) + 0.22 * smoothstep(0.55, 0.9, mirrored.z);
        colour *= abs(r.z) < 0.025 ? 0.4 : 1.0;
        gloss = 0.8; sharpness = 60.0;
    """,
    Texture.SPECKLE: """
        colour *= noise(r * 15.0) > 0.6 ? 0.55 : 0.92;
    """,
    Texture.MARBLE: """
        float bend = noise(r * 6.0) + 0.5 * noise(r * 15.0) + 0.25 * faded(r * 40.0);
        float broad = abs(sin(dot(r, vec3(7.0, 10.0, 8.0)) + 5.0 * bend));
        float fine = abs(sin(dot(r, vec3(-11.0, 6.0, 13.0)) + 6.0 * bend + 2.0));
        vec3 pale = mix(colour, vec3(1), 0.42);
        colour = mix(pale, colour * 0.8, 0.8 * smoothstep(0.4, 0.0, broad));
        colour = mix(colour, colour * 0.55, 0.7 * smoothstep(0.16, 0.0, broad) + 0.45 * smoothstep(0.1, 0.0, fine));
        gloss = 0.45; sharpness = 45.0;
    """,
    Texture.DOTS: """
        vec3 cell = fract(r / 0.12 + 0.5) - 0.5;
        float dot_edge = length(cell) - 0.34, pixel_width = length(fwidth(r)) / 0.12;
        colour = mix(colour, vec3(1), 0.7 * clamp(0.5 - dot_edge / pixel_width, 0.0, 1.0));
        gloss = 0.4; sharpness = 35.0;
    """,
    Texture.PLANKS: """
        vec2 p = along_face(r);
        float row = floor(p.y / 0.13), column = floor(p.x / 0.95 + hash(vec3(row, 3.0, 7.0)));
        float tone = hash(vec3(row, column, 1.0));
        float grain = faded(vec3(p.x * 5.0, p.y * 55.0, 20.0 * tone)) + 0.6 * faded(vec3(p.x * 2.0, p.y * 16.0, tone));
        colour *= 0.72 + 0.3 * tone + 0.22 * (grain - 0.5);
        float gap = max(seam(p.y / 0.13, 0.022), seam(p.x / 0.95 + hash(vec3(row, 3.0, 7.0)), 0.004));
        colour *= 1.0 - 0.6 * gap;
        gloss = 0.1;
    """,
    Texture.TILES: """
        vec2 p = r.xy / 0.24;
        float tone = hash(vec3(floor(p + 0.5), 2.0));
        colour *= 0.86 + 0.2 * tone + 0.1 * (faded(r * 9.0 + 20.0 * tone) - 0.5);
        float grout = max(seam(p.x + 0.5, 0.018), seam(p.y + 0.5, 0.018));
        colour = mix(colour, vec3(0.8, 0.79, 0.76) * 0.75, grout);
        gloss = 0.22 * (1.0 - grout); sharpness = 40.0;
    """,
    Texture.CONCRETE: """
        float cloud = faded(r * 2.3) + 0.5 * faded(r * 7.0) + 0.35 * faded(r * 31.0);
        colour *= 0.76 + 0.27 * cloud;
        colour *= 1.0 - 0.22 * smoothstep(0.8, 0.9, faded(r * 62.0 + 9.0));
    """,
    Texture.CARPET: """
        vec2 p = r.xy / 0.36;
        float pixel_width = max(length(fwidth(p)), 1e-6);
        float diamond = abs(fract(p.x) - 0.5) + abs(fract(p.y) - 0.5) - 0.36;
        float inner = abs(fract(p.x) - 0.5) + abs(fract(p.y) - 0.5) - 0.16;
        colour *= mix(1.0, 0.74, clamp(0.5 - diamond / pixel_width, 0.0, 1.0));
        colour = mix(colour, colour.gbr * 1.12, clamp(0.5 - inner / pixel_width, 0.0, 1.0));
        colour *= 0.82 + 0.36 * faded(vec3(r.xy * 150.0, 1.0)) * (0.7 + 0.6 * faded(r * 40.0));
    """,
    Texture.BRICK: """
        vec2 p = r.xy / vec2(0.24, 0.085);
        float row = floor(p.y);
        p.x += 0.5 * mod(row, 2.0);
        float tone = hash(vec3(floor(p), 5.0));
        colour *= 0.74 + 0.36 * tone + 0.16 * (faded(r * 40.0) - 0.5);
        float mortar = max(seam(p.x, 0.024), seam(p.y, 0.075));
        colour = mix(colour, vec3(0.76, 0.73, 0.69), mortar);
    """,
    Texture.PLASTER: """
        colour *= 0.9 + 0.1 * faded(r * 3.0) + 0.08 * faded(r * 13.0) + 0.06 * faded(r * 60.0);
        colour = skirting(r, colour);
    """,
    Texture.STRIPES: """
        float band = r.x / 0.11, pixel_width = max(fwidth(band), 1e-6);
        float wave = abs(fract(0.5 * band) - 0.5) - 0.25;
        colour *= mix(0.87, 1.04, clamp(0.5 + 2.0 * wave / pixel_width, 0.0, 1.0));
        colour *= 1.0 - 0.14 * seam(band + 0.5, 0.05);
        colour = skirting(r, colour);
    """,
    Texture.WEAVE: """
        vec2 p = along_face(r) / 0.05;
        float warp = thread(p.x), weft = thread(p.y);
        float over = mod(floor(p.x) + floor(p.y), 2.0);
        colour *= 0.84 + 0.2 * mix(warp, weft, over) + 0.1 * (faded(r * 14.0) - 0.5);
        float stripe = max(seam(along_face(r).x / 0.2 + 0.5, 0.16), seam(along_face(r).y / 0.2 + 0.5, 0.16));
        colour = mix(colour, colour * 0.62 + 0.06, 0.75 * stripe);
    """,
    Texture.KNIT: """
        vec2 p = along_face(r) / vec2(0.032, 0.024);
        p.y += abs(fract(p.x) - 0.5);
        float rib = thread(p.x), row = thread(p.y);
        colour *= 0.72 + 0.24 * rib + 0.16 * row;
        colour = mix(colour, vec3(0.9), 0.6 * step(0.72, fract(along_face(r).y / 0.22)));
    """,
    Texture.FOAM: """
        float grain = faded(r * 70.0) + 0.6 * faded(r * 150.0);
        colour *= 0.72 + 0.26 * grain * (0.8 + 0.4 * faded(r * 6.0));
    """,
    Texture.TWIST: """
        float turn = atan(r.y, r.x) / 6.2831853, strand = fract(3.0 * turn + r.z / 0.07);
        float edge = abs(strand - 0.5) * 2.0;
        colour *= 1.08 - 0.5 * smoothstep(0.55, 1.0, edge);
        colour = mix(colour, vec3(0.95, 0.93, 0.88), 0.7 * step(fract(turn + r.z / 0.21), 0.3333));
    """,
    Texture.JELLY: """
        colour = mix(colour, vec3(1), 0.16 * smoothstep(0.35, 0.8, faded(r * 9.0)));
        float rim = 1.0 - abs(dot(n, view));
        colour = mix(colour, colour * 1.25 + 0.1, rim * rim);
        vec3 cell = abs(fract(r / 0.11) - 0.5);
        colour *= 0.86 + 0.14 * smoothstep(0.03, 0.06, 0.5 - max(cell.x, max(cell.y, cell.z)));
        gloss = 0.6; sharpness = 50.0;
    """,
    Texture.LATEX: """
        float band = abs(fract(r.z / 0.16 + 0.25) - 0.5), pixel_width = max(fwidth(r.z) / 0.16, 1e-6);
        colour = mix(colour, vec3(0.95), 0.6 * clamp(0.5 + (0.1 - band) / pixel_width, 0.0, 1.0));
        gloss = 0.7; sharpness = 60.0;
    """,
    Texture.GRIT: """
        colour *= 0.8 + 0.36 * faded(r * 55.0);
    """,
    Texture.WATER: """
        float rim = 1.0 - abs(dot(n, view));
        colour = mix(colour, vec3(0.85, 0.93, 1.0), 0.35 * rim * rim);
        gloss = 0.65; sharpness = 40.0;
    """,
    Texture.GLOW: """
        glow = 0.75 * colour * smoothstep(0.12, 0.6, colour.r - colour.b);
        colour *= 0.92 + 0.12 * faded(r * 40.0);
    """,
}
