"""How many programs of a kernel one SM holds at once, worked out from what each program takes.

Limits of an SM: CUDA Programming Guide, "Compute Capabilities", table "Technical Specifications per Compute
Capability". How registers and shared memory are handed out: NVIDIA's cuda_occupancy.h, and the Hopper Tuning Guide,
which tells of 1 KiB of shared memory per block for the system. An SM of sm_100 also has 512 columns of tensor memory
(PTX ISA, "Tensor Memory"); a program that finds too few left waits for them, so they limit in the same way.
"""

from dataclasses import dataclass

REGISTERS = 65_536  # 32 bits each, of every SM here
PARTITIONS = 4  # each with a quarter of the registers; a warp stays in one
REGISTER_UNIT = 256  # registers of a warp come in units of this
RESERVED = 1024  # bytes of shared memory of a program that the system takes
SHARED_UNIT = 128  # bytes
TENSOR_COLUMNS = 512


@dataclass(frozen=True)
class Limits:
    """What one SM holds at most."""

    programs: int
    warps: int
    shared_memory: int


LIMITS = {
    80: Limits(32, 64, 164 << 10),
    86: Limits(16, 48, 100 << 10),
    89: Limits(24, 48, 100 << 10),
    90: Limits(32, 64, 228 << 10),
    100: Limits(32, 64, 228 << 10),
    120: Limits(24, 48, 100 << 10),
}


@dataclass(frozen=True)
class Occupancy:
    """Programs and warps that one SM holds at once, and what does not allow more."""

    programs: int
    warps: int
    limit: str


def occupancy(arch: int, registers: int, shared_memory: int, warps: int, tensor_memory: int = 0) -> Occupancy:
    """For a program of `warps` warps on a machine of compute capability `arch` (90 for 9.0).

    registers: of a thread; shared_memory: bytes of a program; tensor_memory: columns of a program. Where several limits
    are equally tight the first of warps, registers, shared memory, tensor memory, programs is named.
    """
    held = LIMITS[arch]
    of_a_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    of_a_program = -(-(shared_memory + RESERVED) // SHARED_UNIT) * SHARED_UNIT
    room = {
        "warps": held.warps // warps,
        "registers": REGISTERS // PARTITIONS // of_a_warp * PARTITIONS // warps,
        "shared memory": held.shared_memory // of_a_program,
    }
    if tensor_memory:
        room["tensor memory"] = TENSOR_COLUMNS // tensor_memory
    room["programs"] = held.programs
    limit = min(room, key=lambda name: room[name])
    return Occupancy(room[limit], room[limit] * warps, limit)
