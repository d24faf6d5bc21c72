"""What stands beside the lab machine reads QEMU's monitor rightly."""

from __future__ import annotations

import io
import struct

import pytest

from tests.lab.mender import ORDER, find, halted

#: As QEMU 7.2 prints it, shortened.
SAID = """
CPU#0\r
RAX=ffffffff81a178a0 RBX=0000000000000003 RCX=0000000000000000 RDX=4000000000000000\r
RSI=0000000000000000 RDI=0000000000267324 RBP=ffffffff82a1aa40 RSP=ffffffff82a03e98\r
R8 =ffffffffffd49692 R9 =00000000314de5eb R10=00000000fffffffb R11=0000000000000000\r
R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=000000000000000f\r
RIP=ffffffff81a17a0b RFL=00000202 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1\r
GS =0000 ffff88817ac00000 00000000 00000000\r
"""


def test_a_processor_that_waits_for_an_interrupt_is_known_by_its_registers() -> None:
    (found,) = halted(SAID)
    values = dict(zip(ORDER, struct.unpack("<17Q", found), strict=True))
    assert (values["RBX"], values["R15"], values["RIP"], values["RSP"]) == (3, 15, 0xFFFFFFFF81A17A0B, 0xFFFFFFFF82A03E98)


@pytest.mark.parametrize("other", [SAID.replace("HLT=1", "HLT=0"), SAID.replace("RFL=00000202", "RFL=00000002"), SAID.replace("R", "E"), ""])
def test_one_that_runs_or_wants_no_interrupt_is_left_alone(other: str) -> None:
    assert halted(other) == []


def test_a_state_is_found_where_its_registers_are() -> None:
    (registers,) = halted(SAID)
    memory = io.BytesIO(bytes(4096) + registers + bytes(4096))
    assert find(memory, 1024, 8192, registers) == 4096
    assert find(memory, 4097, 8192, registers) is None
