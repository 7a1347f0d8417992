"""What `layer/check.sh` refuses, one fault at a time, and that it lets a good layer pass."""

import os
import struct
import subprocess
import tempfile
import unittest
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BINARY = "extensions/langfuse-extension"
X86_64, ARM64 = 62, 183


def program(machine: int = X86_64, interpreter: bytes = b"", needed: bytes = b"", symbols: bytes = b"") -> bytes:
    """A minimal ELF file: its program headers, then the strings that they point at."""
    strings = b"\0" + needed + b"\0" + symbols + b"\0"
    count = 1 + bool(interpreter) + bool(needed)
    body = 64 + 56 * count
    dynamic = struct.pack("<QQQQ", 5, body, 1, 1) if needed else b""  # DT_STRTAB, DT_NEEDED
    loader = body + len(strings) + len(dynamic)
    headers = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, loader, loader, 4096)
    if needed:
        headers += struct.pack("<IIQQQQQQ", 2, 6, body + len(strings), 0, 0, len(dynamic), 0, 8)
    if interpreter:
        headers += struct.pack("<IIQQQQQQ", 3, 4, loader, 0, 0, len(interpreter) + 1, 0, 1)
    start = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    return start + headers + strings + dynamic + interpreter + b"\0"


GLIBC_LOADER = b"/lib64/ld-linux-x86-64.so.2"
GOOD = {BINARY: (0o100755, program()), "langfuse": (0o120777, BINARY.encode()), "licenses/LICENSE": (0o100644, b"text"), "licenses/THIRD-PARTY.txt": (0o100644, b"text")}


class Check(unittest.TestCase):
    def check(self, entries: dict, arch: str = "x86_64", max_bytes: str = "") -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "layer.zip")
            with zipfile.ZipFile(path, "w") as layer:
                for name, (mode, content) in entries.items():
                    entry = zipfile.ZipInfo(name)
                    entry.create_system, entry.external_attr = 3, mode << 16
                    layer.writestr(entry, content)
            return self.check_file(path, arch, max_bytes)

    def check_file(self, path: Path, arch: str = "x86_64", max_bytes: str = "") -> tuple[int, str]:
        command = [HERE / "check.sh", path, arch]
        done = subprocess.run(command, env={**os.environ, "LAYER_MAX_BYTES": max_bytes}, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def refuses(self, reason: str, entries: dict, **options: str) -> None:
        status, said = self.check(entries, **options)
        self.assertEqual(status, 1, said)
        self.assertIn(reason, said)
        self.assertEqual(said.count("layer check:"), 1, f"one fault, one reason: {said}")

    def binary(self, content: bytes, mode: int = 0o100755) -> dict:
        return {**GOOD, BINARY: (mode, content)}

    def test_a_static_binary_with_its_licences_passes(self) -> None:
        self.assertEqual(self.check(GOOD)[0], 0)
        self.assertEqual(self.check(self.binary(program(ARM64)), arch="arm64")[0], 0)

    def test_a_dynamic_binary_for_an_old_glibc_passes(self) -> None:
        old = program(interpreter=GLIBC_LOADER, needed=b"libc.so.6", symbols=b"GLIBC_2.2.5\0GLIBC_2.17")
        self.assertEqual(self.check(self.binary(old))[0], 0)

    def test_a_binary_that_is_not_executable_is_refused(self) -> None:
        self.refuses("-rw-r--r--", self.binary(program(), 0o100644))

    def test_a_binary_that_others_may_write_is_refused(self) -> None:
        self.refuses("-rwxrwxrwx", self.binary(program(), 0o100777))

    def test_a_link_in_place_of_the_binary_is_refused(self) -> None:
        self.refuses("lrwxr-xr-x", self.binary(program(), 0o120755))

    def test_a_wrapper_that_is_missing_or_links_to_nothing_is_refused(self) -> None:
        self.refuses("lacks langfuse", {name: entry for name, entry in GOOD.items() if name != "langfuse"})
        self.refuses("not a link to", {**GOOD, "langfuse": (0o100755, BINARY.encode())})
        self.refuses("not a link to", {**GOOD, "langfuse": (0o120777, b"/opt/langfuse-extension")})

    def test_another_architecture_is_refused(self) -> None:
        self.refuses("for arm64, not x86_64", self.binary(program(ARM64)))
        self.refuses("for machine 40, not arm64", self.binary(program(40)), arch="arm64")

    def test_a_newer_glibc_is_refused(self) -> None:
        new = program(interpreter=GLIBC_LOADER, needed=b"libc.so.6", symbols=b"GLIBC_2.9\0GLIBC_2.18")
        self.refuses("needs glibc 2.18", self.binary(new))

    def test_a_dynamic_binary_for_another_c_library_is_refused(self) -> None:
        self.refuses("needs an unknown C library", self.binary(program(interpreter=b"/lib/ld-musl-x86_64.so.1")))

    def test_a_library_beside_the_c_library_is_refused(self) -> None:
        self.refuses("needs libssl.so.3", self.binary(program(interpreter=GLIBC_LOADER, needed=b"libssl.so.3", symbols=b"GLIBC_2.17")))

    def test_a_script_is_refused(self) -> None:
        self.refuses("no program", self.binary(b"#!/bin/sh\n"))

    def test_a_truncated_binary_is_refused(self) -> None:
        self.refuses("no program: cut short", self.binary(program()[:80]))

    def test_any_other_file_beside_the_binary_is_refused(self) -> None:
        self.refuses("holds extensions/LICENSE", {**GOOD, "extensions/LICENSE": (0o100644, b"text")})

    def test_a_missing_binary_is_refused(self) -> None:
        self.refuses(f"lacks {BINARY}", {name: entry for name, entry in GOOD.items() if name != BINARY})

    def test_missing_or_empty_licence_texts_are_refused(self) -> None:
        self.refuses("lacks the licence texts in licenses/LICENSE", {name: GOOD[name] for name in GOOD if name != "licenses/LICENSE"})
        self.refuses("licenses/THIRD-PARTY.txt", {**GOOD, "licenses/THIRD-PARTY.txt": (0o100644, b"")})

    def test_the_size_budget_holds_to_the_byte(self) -> None:
        self.refuses("over the budget of 2,250,000", self.binary(program() + bytes(2_250_000)))
        self.refuses("over the budget of 300", GOOD, max_bytes="300")
        self.assertEqual(self.check(GOOD, max_bytes="100000")[0], 0)

    def test_what_is_no_zip_is_refused(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"not a zip")
            file.flush()
            status, said = self.check_file(Path(file.name))
        self.assertEqual(status, 1)
        self.assertIn("is no zip file", said)


if __name__ == "__main__":
    unittest.main()
