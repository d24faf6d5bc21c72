"""A tar and a vmlinuz are hostile: only regular files, only inside, only so much; a kernel is found however it is packed."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import lz4.block
import pytest

from banger.host.archive import LZ4_BLOCK, LZ4_LEGACY, RealArchive, unpacked_kernel
from banger.host.zstd import ZstdCompressor
from banger.model.errors import BadRequest, Corrupt

KERNEL = b"\x7fELF" + bytes(range(256)) * 512


def everything(name: PurePosixPath) -> PurePosixPath:
    return name


def tar_with(path: Path, *members: tuple[str, bytes, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def legacy_lz4(data: bytes) -> bytes:
    blocks = [lz4.block.compress(data[at : at + LZ4_BLOCK], store_size=False) for at in range(0, len(data), LZ4_BLOCK)]
    return LZ4_LEGACY + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


def bz_image(payload: bytes, *, size: int) -> bytes:
    """A boot sector, one set-up sector, some code, the payload and its unpacked size, which the kernel's build appends."""
    head = bytearray(1024 + 64)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    packed = payload + struct.pack("<I", size)
    struct.pack_into("<II", head, 0x248, 64, len(packed))
    return bytes(head) + packed + b"tail of the image"


async def test_takes_the_chosen_regular_files(tmp_path: Path) -> None:
    tar = tar_with(tmp_path / "a.tar", ("./boot/x", tarfile.REGTYPE, b"one"), ("./etc/y", tarfile.REGTYPE, b"two"))
    count = await RealArchive().take(tar, tmp_path / "out", lambda name: name if name.parts[0] == "boot" else None, limit=100)
    assert count == 1
    assert (tmp_path / "out/boot/x").read_bytes() == b"one"
    assert not (tmp_path / "out/etc").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
async def test_never_takes_anything_but_files(tmp_path: Path, kind: bytes) -> None:
    tar = tar_with(tmp_path / "a.tar", ("boot/x", kind, b""))
    assert await RealArchive().take(tar, tmp_path / "out", everything, limit=100) == 0


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x"])
async def test_refuses_names_that_lead_outside(tmp_path: Path, name: str) -> None:
    tar = tar_with(tmp_path / "a.tar", (name, tarfile.REGTYPE, b""))
    with pytest.raises(Corrupt, match="outside"):
        await RealArchive().take(tar, tmp_path / "out", everything, limit=100)
    assert not (tmp_path / "x").exists()


async def test_refuses_links_that_lead_outside(tmp_path: Path) -> None:
    tar = tar_with(tmp_path / "a.tar", ("x", tarfile.LNKTYPE, b""))
    with pytest.raises(Corrupt, match="outside"):
        await RealArchive().take(tar, tmp_path / "out", everything, limit=100)


@pytest.mark.parametrize(("form", "said"), [(tarfile.GNU_FORMAT, {}), (tarfile.PAX_FORMAT, {"size": "-1536"})])
async def test_refuses_files_of_less_than_nothing(tmp_path: Path, form: int, said: dict[str, str]) -> None:
    member = tarfile.TarInfo("a")
    member.size, member.pax_headers = 0 if said else -1536, said
    (tmp_path / "a.tar").write_bytes(member.tobuf(form) + bytes(1024))
    with pytest.raises(Corrupt, match="size is impossible"):  # whoever goes by it comes back to where it was
        await RealArchive().take(tmp_path / "a.tar", tmp_path / "out", everything, limit=100)


async def test_takes_what_is_between_the_holes_of_a_sparse_file(tmp_path: Path) -> None:
    member = tarfile.TarInfo("whatever")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "holes", "GNU.sparse.realsize": str(3 << 20)}
    content = f"1\n{1 << 20}\n3\n".encode().ljust(512, b"\0") + b"end"
    member.size = len(content)
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT) + content.ljust(1024, b"\0") + bytes(1024))
    with pytest.raises(Corrupt, match="more than is allowed"):
        await RealArchive().take(tmp_path / "a.tar", tmp_path / "less", everything, limit=1 << 20)
    assert await RealArchive().take(tmp_path / "a.tar", tmp_path / "out", everything, limit=4 << 20) == 1
    assert (tmp_path / "out/holes").read_bytes() == bytes(1 << 20) + b"end" + bytes((2 << 20) - 3)


async def test_refuses_more_than_the_limit(tmp_path: Path) -> None:
    tar = tar_with(tmp_path / "a.tar", ("a", tarfile.REGTYPE, b"x" * 60), ("b", tarfile.REGTYPE, b"x" * 60))
    with pytest.raises(Corrupt, match="more than is allowed"):
        await RealArchive().take(tar, tmp_path / "out", everything, limit=100)


async def test_refuses_what_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(Corrupt, match="not a sound tar"):
        await RealArchive().take(tmp_path / "a.tar", tmp_path / "out", everything, limit=100)


@pytest.mark.parametrize("pack", [legacy_lz4, gzip.compress, lzma.compress])
def test_finds_the_kernel_by_the_headers_word(pack: object) -> None:
    assert callable(pack)
    assert unpacked_kernel(bz_image(pack(KERNEL), size=len(KERNEL))) == KERNEL


@pytest.mark.parametrize("pack", [legacy_lz4, gzip.compress, lzma.compress])
def test_finds_the_kernel_by_its_magic(pack: object) -> None:
    assert callable(pack)
    assert unpacked_kernel(b"MZ" + bytes(5000) + pack(KERNEL) + struct.pack("<I", len(KERNEL))) == KERNEL


def test_unpacks_kernels_of_several_blocks() -> None:
    large = KERNEL + bytes(LZ4_BLOCK) + b"end"
    assert unpacked_kernel(bz_image(legacy_lz4(large), size=len(large))) == large


def test_takes_unpacked_kernels_as_they_are() -> None:
    image = bytes(56) + b"ARMd" + bytes(100)
    assert unpacked_kernel(image) is image
    assert unpacked_kernel(gzip.compress(image)) == image


@pytest.mark.parametrize("image", [b"", b"MZ" * 600, LZ4_LEGACY * 3, b"\x1f\x8b\x08" + bytes(64), gzip.compress(b"no kernel")])
def test_says_when_there_is_no_kernel(image: bytes) -> None:
    with pytest.raises(Corrupt, match="no kernel"):
        unpacked_kernel(image)


def zstd(data: bytes) -> bytes:
    packer = ZstdCompressor()
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("pack", [zstd, bz2.compress, lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE)])
def test_finds_a_kernel_packed_in_the_other_ways_of_its_build(pack: Callable[[bytes], bytes]) -> None:
    assert unpacked_kernel(bz_image(pack(KERNEL), size=len(KERNEL))) == KERNEL


def test_says_that_lzo_is_not_supported() -> None:
    with pytest.raises(BadRequest, match="lzo"):
        unpacked_kernel(bz_image(b"\x89LZO\0\r\n" + bytes(100), size=100))


def test_a_bomb_that_is_no_kernel_is_left_alone_after_its_first_bytes() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    begin = time.process_time()
    with pytest.raises(Corrupt):
        unpacked_kernel(bomb * 50)
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("pack", [zstd, bz2.compress, lzma.compress, gzip.compress, bytes])
async def test_unpacks_whatever_a_file_is_packed_with(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = b"some text" * 500_000
    (tmp_path / "p").write_bytes(pack(data))
    await RealArchive().unpack(tmp_path / "p", tmp_path / "plain", limit=len(data))
    assert (tmp_path / "plain").read_bytes() == data
    with pytest.raises(Corrupt, match="more than is allowed"):
        await RealArchive().unpack(tmp_path / "p", tmp_path / "again", limit=len(data) - 1)


@pytest.mark.parametrize("pack", [zstd, bz2.compress, lzma.compress, gzip.compress])
@pytest.mark.parametrize("harm", ["cut", "more", "broken"])
async def test_what_is_packed_must_be_whole_and_end_where_it_ends(tmp_path: Path, pack: Callable[[bytes], bytes], harm: str) -> None:
    packed = bytearray(pack(b"some text" * 1000))
    if harm == "broken":
        packed[len(packed) // 2 :] = bytes(byte ^ 0x55 for byte in packed[len(packed) // 2 :])
    (tmp_path / "p").write_bytes(packed[:-3] if harm == "cut" else packed + b"more" if harm == "more" else packed)
    with pytest.raises(Corrupt):
        await RealArchive().unpack(tmp_path / "p", tmp_path / "plain", limit=1 << 20)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
async def test_a_strict_look_refuses_what_it_would_leave_out(tmp_path: Path, kind: bytes) -> None:
    tar = tar_with(tmp_path / "a.tar", ("boot", tarfile.DIRTYPE, b""), ("boot/x", kind, b""))
    with pytest.raises(Corrupt, match="boot/x"):
        await RealArchive().take(tar, tmp_path / "out", everything, limit=100, strict=True)
    tar = tar_with(tmp_path / "a.tar", ("boot/x", tarfile.REGTYPE, b""), ("boot/y", tarfile.REGTYPE, b""))
    with pytest.raises(Corrupt, match="boot/y"):
        await RealArchive().take(tar, tmp_path / "out", lambda name: name if name.name == "x" else None, limit=100, strict=True)


async def test_digests_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert await RealArchive().sha256(tmp_path / "f") == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
