"""A Warp kernel that separates particles that are too close; import it only after calling `newton.newton()`.

The material point method keeps the flow on its grid free of divergence, but not the particles evenly spaced: without
    this, a splashing pool loses half of its height in two seconds.
"""

import warp as wp


@wp.kernel
def push_apart(
    grid: wp.uint64,
    places: wp.array(dtype=wp.vec3),  # type: ignore[valid-type]
    distance: float,
    share: float,
    limit: float,
    moved: wp.array(dtype=wp.vec3),  # type: ignore[valid-type]
):
    """Moves each particle away from neighbours nearer than `distance`.

    grid: id of a Warp hash grid of the particles.
    places: [N], metres.
    distance: metres, least distance.
    share: share of the missing distance that a pair corrects, half by each particle.
    limit: metres, largest displacement of a particle.
    moved: [N], metres, output.
    """
    i = wp.tid()
    place = places[i]
    push = wp.vec3(0.0)
    for j in wp.hash_grid_query(grid, place, distance):  # type: ignore[attr-defined]
        if j != i:
            apart = place - places[j]
            length = wp.length(apart)
            if length < distance and length > 1.0e-9:
                push += apart * ((distance - length) / length)
    whole = push * (0.5 * share)
    way = wp.length(whole)  # type: ignore[call-overload]
    moved[i] = place + whole * (wp.min(way, limit) / wp.max(way, 1.0e-9))
