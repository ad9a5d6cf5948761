"""A Warp kernel that keeps particles at their distance; import it only after `newton.newton()`.

The material point method keeps the flow free of divergence on its grid, not the particles evenly spaced: a pool whose
water has been thrown about would lose half of its height in two seconds.
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
    """Moves each particle away from those nearer than `distance`, by half of `share` of what is missing.

    places, moved: [N] metres; limit: metres that a particle moves at most.
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
