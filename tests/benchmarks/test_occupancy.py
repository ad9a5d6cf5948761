"""Programs of an SM against cases worked out by hand, and what is counted in machine code."""

import pytest

from phys4d.benchmarks.occupancy import LIMITS, Occupancy, occupancy
from phys4d.benchmarks.sass import instruction_counts, mnemonics


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        # 94 registers: 3008 a warp, given as 3072; 16384 of a quarter hold 5 warps, 20 in all: 5 programs of 4.
        # 228 KiB of shared memory would hold 7 of 28 + 1 KiB.
        ((90, 94, 28 << 10, 4), Occupancy(5, 20, "registers")),
        # 126: 4032 a warp, given as 4096; 4 warps a quarter, 16 in all. 57 KiB a program: 228 / 57 = 4, which ties.
        ((90, 126, 56 << 10, 4), Occupancy(4, 16, "registers")),
        # 168: 5376 = 21 x 256; 3 warps a quarter, 12 in all: one program of 8, where 65536 / 5376 would say 12.2.
        ((90, 168, 0, 8), Occupancy(1, 8, "registers")),
        # 72: 2304 a warp; 7 a quarter, 28 in all: 7 programs of 4. 65536 / 2304 = 28.4.
        ((90, 72, 0, 4), Occupancy(7, 28, "registers")),
        # 128 registers: 4 warps a quarter: two programs of 8. 113 + 1 KiB: 228 / 114 = 2. One byte more: 1.
        ((90, 128, 113 << 10, 8), Occupancy(2, 16, "registers")),
        ((90, 128, (113 << 10) + 1, 8), Occupancy(1, 8, "shared memory")),
        # 24 registers: 768 a warp; 21 a quarter, 84 in all; 64 warps: 16 programs of 4. 1 KiB a program: 228.
        ((90, 24, 0, 4), Occupancy(16, 64, "warps")),
        # One warp a program: registers and warps would allow 64, an SM holds 32 programs.
        ((90, 32, 0, 1), Occupancy(32, 32, "programs")),
        # sm_80 has 164 KiB: 80 + 1 KiB twice; 229 registers, 7424 a warp, 2 a quarter: one program of 8.
        ((80, 128, 80 << 10, 4), Occupancy(2, 8, "shared memory")),
        ((80, 229, 80 << 10, 8), Occupancy(1, 8, "registers")),
        # 128 columns of tensor memory: 4 programs of 512; 70 registers, given as 72: 7.
        ((100, 70, 28 << 10, 4, 128), Occupancy(4, 16, "tensor memory")),
        ((100, 70, 28 << 10, 4), Occupancy(7, 28, "registers")),
        # sm_89 holds 48 warps and 100 KiB.
        ((89, 32, 0, 4), Occupancy(12, 48, "warps")),
        ((89, 32, 49 << 10, 4), Occupancy(2, 8, "shared memory")),
        # More shared memory than there is: none.
        ((80, 32, 164 << 10, 4), Occupancy(0, 0, "shared memory")),
    ],
)
def test_programs_of_an_sm(kernel, expected) -> None:
    assert occupancy(*kernel) == expected


@pytest.mark.parametrize("arch", LIMITS)
def test_what_a_program_takes_more_never_makes_room(arch) -> None:
    for warps in (1, 4, 8):
        programs = [occupancy(arch, registers, 8 << 10, warps).programs for registers in range(16, 256)]
        assert programs == sorted(programs, reverse=True)
        assert all(0 < count <= LIMITS[arch].programs and count * warps <= LIMITS[arch].warps for count in programs)
        most = LIMITS[arch].shared_memory - 1024
        programs = [occupancy(arch, 64, shared, warps).programs for shared in (*range(0, most, 512), most, most + 1)]
        assert programs == sorted(programs, reverse=True) and programs[-2:] == [1, 0]


CODE = """
.text.forward:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P1 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/               @P0 LDG.E.64.CONSTANT R8, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E R10, desc[UR4][R2.64] ;
        /*0040*/                   LDG.E.U16.CONSTANT R11, desc[UR4][R2.64] ;
        /*0050*/               @P2 LDGSTS.E.BYPASS.LTC128B.128 [R9], desc[UR4][R2.64] ;
        /*0060*/              @UP0 UTMALDG.4D [UR8], [UR4], desc[UR6] ;
        /*0070*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0080*/                   HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0090*/                   UTCHMMA gdesc[UR4], gdesc[UR6], tmem[UR8] ;
        /*00a0*/                   HFMA2.MMA R3, -RZ, RZ, 0, 0 ;
        /*00b0*/                   MUFU.EX2 R3, R3 ;
        /*00c0*/                   MUFU.RCP R3, R3 ;
        /*00d0*/              @!PT LDS RZ, [RZ] ;
        /*00e0*/               @P0 STG.E.128 desc[UR4][R2.64], R4 ;
        /*00f0*/                   UTMASTG.4D [UR8], [UR4] ;
        /*0100*/                   EXIT ;
.L_x_1:
"""


def test_instructions_are_counted_by_kind_and_width() -> None:
    assert instruction_counts(CODE) == {
        "tensor_core": 3, "global_loads": {"16": 1, "8": 1, "4": 1, "2": 1}, "global_stores": {"16": 1},
        "async_copies": {"16": 1}, "tma_loads": 1, "tma_stores": 1, "exp2": 1, "total": 17,
    }  # fmt: skip
    assert mnemonics(CODE)[:2] == ["LDC", "LDG.E.128"] and mnemonics("no code") == []
