#!/usr/bin/env -S python3 -B
"""Builds the image of terraform/examples/container-fastapi from its own Dockerfile, without a container engine.

The extension's image is pushed with `make image-push` to a registry on this machine, and comes from there. What the
Dockerfile takes from public registries is made here under the same names: a Python image on a Debian root, once, and the Web
Adapter's image of the adapter that cargo built. Leaves FOLDER/app.json: where the image's files are, and its configuration.

Usage: tests/container/build.py TAR FOLDER     (root, buildah, skopeo, debootstrap, docker-registry; else it says so)
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "terraform" / "examples" / "container-fastapi"
ADAPTER = ROOT / "target" / "tools" / "bin" / "lambda-adapter"
TOOLS = ("buildah", "skopeo", "debootstrap", "docker-registry")
RELEASE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
# This machine's own way to PyPI, where it has one: pip's settings and the certificates that they name.
OF_THIS_MACHINE = ("/etc/pip.conf", "/etc/ssl/certs")


class Builder:
    """buildah, with its storage in a folder of ours."""

    def __init__(self, folder: Path) -> None:
        storage = ["--storage-driver", "vfs", "--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        self.command = ["buildah", *storage]

    def __call__(self, *arguments: str) -> str:
        return subprocess.run([*self.command, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def has(self, image: str) -> bool:
        return image in self("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()

    @contextmanager
    def empty_image(self, name: str) -> Iterator[Path]:
        """The root of a new image, which is kept under that name once it is filled."""
        container = self("from", "scratch")
        try:
            yield Path(self("mount", container))
            self("commit", "--quiet", container, name)
        finally:
            self("rm", container)


def main(archive: str, target: str) -> None:
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    folder = (ROOT / target).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.json").unlink(missing_ok=True)
    if missing or os.geteuid() != 0:
        print(f"container: skipped, it needs root and {', '.join(missing) or 'nothing else'} (layer/toolchain.sh installs it)")
        return
    builder = Builder(folder)
    builder("rm", "--all")
    builder("rmi", "--prune", "--force")  # What an earlier run left behind.
    dockerfile = (EXAMPLE / "Dockerfile").read_text()
    python = re.search(r"^FROM (\S*python\S*)$", dockerfile, re.MULTILINE)[1]
    adapter = re.search(r"--from=(\S*adapter\S*)", dockerfile)[1]
    if not builder.has(python):
        with builder.empty_image(python) as root:
            lay_out_debian(root)
    with builder.empty_image(adapter) as root:
        shutil.copy(ADAPTER, root)
    with registry(folder / "registry") as address:
        extension = f"{address}/langfuse-lambda-extension:pushed"
        push(archive, extension)
        started = time.monotonic()
        volumes = [f"--volume={path}:{path}:ro" for path in OF_THIS_MACHINE if Path(path).exists()]
        builder(
            "bud", "--quiet", "--isolation=chroot", "--tls-verify=false", f"--build-arg=EXTENSION={extension}", "--tag=app", *volumes, str(EXAMPLE)
        )
        print(f"container: built {EXAMPLE.relative_to(ROOT)}/Dockerfile on {extension} ({time.monotonic() - started:.0f} s)", flush=True)
    builder("rm", "--all")  # buildah keeps the containers of stages that change nothing.
    builder("rmi", extension)
    image = json.loads(builder("inspect", "--type", "image", "app"))
    mounted = builder("mount", builder("from", "app"))
    (folder / "app.json").write_text(json.dumps({"root": mounted, "config": image["OCIv1"]["config"]}, indent=1) + "\n")


def lay_out_debian(root: Path) -> None:
    """What the Dockerfile expects of its base: a Python with pip that may install into it."""
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["chroot", str(root), "python3", "-m", "venv", "/usr/local"], check=True)
    # Debian keeps its own packages' archives and lists, which an image has no use for.
    shutil.rmtree(root / "var/cache/apt")
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "etc/hosts").touch()  # Whoever runs an image mounts its own over it.


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """A registry that starts empty, on a free port of this machine's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = folder / "config.yml"
    config.write_text(f"version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {folder}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n")
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stderr=subprocess.PIPE, text=True)
    try:
        found = (re.search(r"listening on (127\.0\.0\.1:\d+)", line) for line in process.stderr)
        address = next(match[1] for match in found if match)
        threading.Thread(target=process.stderr.read, daemon=True).start()  # Or its log would fill the pipe, and stop it.
        yield address
    finally:
        process.terminate()
        process.wait()


def push(archive: str, image: str) -> None:
    """As a release does it, but over plain HTTP, which only this machine's own registry may speak."""
    settings = [f"IMAGE={image}", f"IMAGE_TAR={archive}", "PUSH_OPTIONS=--dest-tls-verify=false"]
    subprocess.run(["make", "--silent", "image-push", *settings], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
