"""A Warp kernel for heat conduction between neighbouring particles; import it only after calling `newton.newton()`."""

import warp as wp


@wp.kernel
def conduct(
    grid: wp.uint64,
    places: wp.array(dtype=wp.vec3),  # type: ignore[valid-type]
    temperature: wp.array(dtype=float),  # type: ignore[valid-type]
    reach: float,
    rate: wp.array(dtype=float),  # type: ignore[valid-type]
):
    """Writes the conduction rate of each particle: sum over neighbours of (1 - (r / reach)^2) (T_j - T_i).

    The sum over all particles is zero: heat is conserved.

    grid: id of a Warp hash grid of the particles.
    places: [N], metres.
    temperature: [N], kelvin.
    reach: metres, radius of the neighbourhood.
    rate: [N], kelvin, output.
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
