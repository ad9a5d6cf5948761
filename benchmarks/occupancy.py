"""How many programs of a kernel one SM holds at once, computed from the resources that each program uses.

Limits of an SM: CUDA Programming Guide, "Compute Capabilities", table "Technical Specifications per Compute
Capability". Allocation units of registers and shared memory: NVIDIA's cuda_occupancy.h, and the Hopper Tuning Guide,
which states that the system reserves 1 KiB of shared memory per block. An SM of sm_100 also has 512 columns of tensor
memory (PTX ISA, "Tensor Memory"); a program that finds too few free columns waits, so they limit in the same way.
"""

from dataclasses import dataclass

REGISTERS = 65_536  # of 32 bits, per SM on every architecture in LIMITS
PARTITIONS = 4  # each with a quarter of the registers; a warp stays in one
REGISTER_UNIT = 256  # registers are allocated to a warp in multiples of this
RESERVED = 1024  # bytes of shared memory that the system reserves per program
SHARED_UNIT = 128  # bytes; shared memory is allocated in multiples of this
TENSOR_COLUMNS = 512


@dataclass(frozen=True)
class Limits:
    """The maximum of resident programs and warps of one SM, and its shared memory in bytes."""

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
    """Programs and warps that one SM holds at once, and the resource that limits them."""

    programs: int
    warps: int
    limit: str


def occupancy(arch: int, registers: int, shared_memory: int, warps: int, tensor_memory: int = 0) -> Occupancy:
    """The occupancy of a kernel.

    Args:
        arch: compute capability, 90 for 9.0.
        registers: per thread.
        shared_memory: bytes per program.
        warps: per program.
        tensor_memory: columns per program.

    Returns:
        Where several resources limit equally, `limit` names the first of warps, registers, shared memory, tensor
        memory, programs.
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
