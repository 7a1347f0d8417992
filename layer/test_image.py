"""That layer and image are the same byte for byte, whenever and wherever they are packed, and hold what they should."""

import contextlib
import io
import json
import os
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

import image
import pack
from test_check import ARM64, X86_64, program


class Image(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        quiet = contextlib.redirect_stdout(io.StringIO())
        quiet.__enter__()
        self.addCleanup(quiet.__exit__, None, None, None)

    def layer(self, name: str, arch: str, machine: int, mode: int = 0o755) -> Path:
        binary = self.folder / name
        binary.write_bytes(program(machine))
        binary.chmod(mode)
        os.utime(binary, (time.time(), len(name)))
        pack.main(arch, str(binary), str(self.folder / f"{name}.zip"))
        return self.folder / f"{name}.zip"

    def image(self, name: str, *zips: Path) -> bytes:
        image.main(str(self.folder / name), str(self.folder / f"{name}-tree"), *map(str, zips))
        return (self.folder / name).read_bytes()

    def test_a_layer_does_not_depend_on_the_binarys_name_time_or_mode(self) -> None:
        first = self.layer("one", "x86_64", X86_64)
        second = self.layer("another", "x86_64", X86_64, mode=0o600)
        self.assertEqual(first.read_bytes(), second.read_bytes())

    def test_a_layers_checksum_stands_beside_it(self) -> None:
        path = self.layer("one", "x86_64", X86_64)
        digest, name = path.with_name("one.zip.sha256").read_text().split()
        self.assertEqual((digest, name), (pack.hashlib.sha256(path.read_bytes()).hexdigest(), "one.zip"))

    def test_an_image_is_the_same_in_whatever_order_its_layers_are_given(self) -> None:
        x86_64, arm64 = self.layer("one", "x86_64", X86_64), self.layer("two", "arm64", ARM64)
        self.assertEqual(self.image("a.tar", x86_64, arm64), self.image("b.tar", arm64, x86_64))

    def test_an_image_names_the_platform_of_each_binary(self) -> None:
        self.image("a.tar", self.layer("one", "x86_64", X86_64), self.layer("two", "arm64", ARM64))
        with tarfile.open(self.folder / "a.tar") as tar:
            read = lambda name: json.load(tar.extractfile(name))  # noqa: E731
            index = read("index.json")["manifests"][0]["digest"]
            manifests = read(f"blobs/{index.replace(':', '/')}")["manifests"]
        self.assertEqual(sorted(one["platform"]["architecture"] for one in manifests), ["amd64", "arm64"])

    def test_the_files_for_docker_lie_by_platform(self) -> None:
        self.image("a.tar", self.layer("two", "arm64", ARM64))
        binary = self.folder / "a.tar-tree/arm64/opt/extensions/langfuse-extension"
        self.assertEqual((binary.read_bytes(), binary.stat().st_mode & 0o777), (program(ARM64), 0o755))
        self.assertEqual((binary.parents[1] / "langfuse").resolve(), binary.resolve())


if __name__ == "__main__":
    unittest.main()
