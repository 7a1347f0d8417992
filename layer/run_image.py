#!/usr/bin/env python3
"""Unpacks the image as a container engine would, checking every digest, and runs the binary in it.

Usage: layer/run_image.py TAR     (as root, in a root directory that holds nothing but the image; else from outside it)
"""

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
BINARY = "opt/extensions/langfuse-extension"
WRAPPER = "opt/langfuse"


def main(path: str) -> None:
    with tarfile.open(path) as tar:
        layout = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
    assert json.loads(layout["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    top = json.loads(layout["index.json"])["manifests"][0]
    for manifest in json.loads(blob(layout, top))["manifests"]:
        architecture = manifest["platform"]["architecture"]
        with tempfile.TemporaryDirectory() as root:
            unpack(layout, json.loads(blob(layout, manifest)), architecture, Path(root))
            names = sorted(str(found.relative_to(root)) for found in Path(root).rglob("*") if found.is_file())
            assert names == ["licenses/LICENSE", "licenses/THIRD-PARTY.txt", BINARY, WRAPPER], names
            print(f"image: {architecture} unpacks to /{BINARY}; {run(Path(root), architecture)}")


def blob(layout: dict[str, bytes], descriptor: dict) -> bytes:
    content = layout[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert descriptor["size"] == len(content) and descriptor["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return content


def unpack(layout: dict[str, bytes], manifest: dict, architecture: str, root: Path) -> None:
    config = json.loads(blob(layout, manifest["config"]))
    assert (config["os"], config["architecture"]) == ("linux", architecture)
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        unpacked = gzip.decompress(blob(layout, layer))
        assert diff_id == f"sha256:{hashlib.sha256(unpacked).hexdigest()}"
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
            tar.extractall(root)
    assert (root / BINARY).stat().st_mode & 0o777 == 0o755
    assert (root / WRAPPER).resolve() == (root / BINARY).resolve()


def run(root: Path, architecture: str) -> str:
    """Runs `--version`, in the bare root where that is permitted, under qemu where it is another machine's."""
    machine = MACHINES[architecture]
    qemu = shutil.which(f"qemu-{machine}-static") if platform.machine() != machine else None
    if platform.machine() != machine and not qemu:
        return f"not run: no qemu-{machine}-static (Debian: qemu-user-static)"
    command, options = [str(root / BINARY), "--version"], {}
    if os.geteuid() == 0:
        command[0], options = f"/{BINARY}", {"preexec_fn": lambda: enter(root)}
        if qemu:
            shutil.copy(qemu, root / "qemu")
            command.insert(0, "/qemu")
    elif qemu:
        command.insert(0, qemu)
    done = subprocess.run(command, check=True, timeout=30, stdout=subprocess.PIPE, text=True, env={}, **options)
    return f"it runs{' under qemu' if qemu else ''}{' in a root of its own' if options else ''}: {done.stdout.strip()}"


def enter(root: Path) -> None:
    """Leaves this machine behind: another root, another user, as any base image may have it."""
    root.chmod(0o755)
    os.chroot(root)
    os.chdir("/")
    os.setgid(65534)
    os.setuid(65534)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
