"""A Warp kernel that lets heat flow between neighbouring particles; import it only after `newton.newton()`."""

import warp as wp


@wp.kernel
def conduct(
    grid: wp.uint64,
    places: wp.array(dtype=wp.vec3),  # type: ignore[valid-type]
    temperature: wp.array(dtype=float),  # type: ignore[valid-type]
    reach: float,
    rate: wp.array(dtype=float),  # type: ignore[valid-type]
):
    """Sum over neighbours within `reach` of (1 - (r / reach)^2) times how much warmer they are.

    places: [N] metres. temperature: [N] kelvin. rate: [N], kelvin. What one particle gains another one loses.
    """
    i = wp.tid()
    place = places[i]
    gain = float(0.0)  # noqa: UP018 - Warp refuses to change a plain literal in a loop
    for j in wp.hash_grid_query(grid, place, reach):  # type: ignore[attr-defined]
        length = wp.length(place - places[j])
        if length < reach:
            share = length / reach
            gain += (1.0 - share * share) * (temperature[j] - temperature[i])
    rate[i] = gain
