"""Reads from an ELF file what decides where it runs: the architecture and what it needs from the system."""

import re
import struct
from typing import NamedTuple

MACHINES = {62: "x86_64", 183: "arm64"}
PT_DYNAMIC, PT_INTERP, PT_LOAD = 2, 3, 1
DT_NEEDED, DT_STRTAB = 1, 5


class Elf(NamedTuple):
    """`interpreter` and `needed` are empty in a static file; `glibc` is the newest symbol version that a dynamic one names."""

    arch: str
    interpreter: str
    needed: list[str]
    glibc: tuple[int, int] | None


def read(data: bytes) -> Elf:
    """Raises ValueError where `data` is not a 64-bit little-endian ELF file."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        return parse(data)
    except struct.error as error:
        raise ValueError("cut short") from error


def parse(data: bytes) -> Elf:
    machine = struct.unpack_from("<H", data, 18)[0]
    table = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, table + size * index) for index in range(count)]
    interpreter, needed = "", []
    for kind, _, offset, _, _, length, _, _ in headers:
        if kind == PT_INTERP:
            interpreter = string_at(data, offset)
        elif kind == PT_DYNAMIC:
            needed = needed_libraries(data, offset, length, headers)
    versions = [tuple(map(int, found)) for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", data)]
    dynamic = bool(interpreter or needed)
    return Elf(MACHINES.get(machine, f"machine {machine}"), interpreter, needed, max(versions) if dynamic and versions else None)


def needed_libraries(data: bytes, offset: int, length: int, headers: list[tuple]) -> list[str]:
    entries = [struct.unpack_from("<QQ", data, at) for at in range(offset, offset + length, 16)]
    strings = next((file_offset(value, headers) for tag, value in entries if tag == DT_STRTAB), 0)
    return [string_at(data, strings + value) for tag, value in entries if tag == DT_NEEDED]


def file_offset(address: int, headers: list[tuple]) -> int:
    for kind, _, offset, start, _, length, _, _ in headers:
        if kind == PT_LOAD and start <= address < start + length:
            return address - start + offset
    raise ValueError(f"address {address:#x} is in no segment")


def string_at(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
