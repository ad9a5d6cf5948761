"""Particle simulation of liquids and melting solids with the material point method (MPM).

`initial_particles` fills volumes with particles, `mpm` moves them among `obstacles` and `kinematic_bodies`, `beads`
draws them. `conduction_kernel` and `separation_kernel` are Warp kernels.
"""
