"""What is linked into the binary: the normal dependencies of the extension, as cargo resolves them."""

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "langfuse-lambda-extension"
TARGET = {"x86_64": "x86_64-unknown-linux-musl", "arm64": "aarch64-unknown-linux-musl"}


def version() -> str:
    """The one version of the product, kept in Cargo.toml."""
    return next(package["version"] for package in metadata("--no-deps")["packages"] if package["name"] == PACKAGE)


def linked(arch: str) -> tuple[list[dict], dict[str, list[str]]]:
    """Packages linked for `arch`, sorted, the extension included; and each package id's own dependencies."""
    resolved = metadata(f"--filter-platform={TARGET[arch]}")
    packages = {package["id"]: package for package in resolved["packages"]}
    edges = {
        node["id"]: [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        for node in resolved["resolve"]["nodes"]
    }
    reached: set[str] = set()
    waiting = [package["id"] for package in packages.values() if package["name"] == PACKAGE]
    while waiting:
        one = waiting.pop()
        if one not in reached and not is_proc_macro(packages[one]):
            reached.add(one)
            waiting.extend(edges[one])
    found = sorted((packages[one] for one in reached), key=lambda package: (package["name"], package["version"]))
    return found, {one: [dep for dep in edges[one] if dep in reached] for one in reached}


def metadata(*options: str) -> dict:
    command = ["cargo", "metadata", "--format-version=1", "--locked", *options]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def is_proc_macro(package: dict) -> bool:
    """Runs in the compiler only; nothing of it is linked."""
    return any("proc-macro" in target["kind"] for target in package["targets"])


def checksums() -> dict[tuple[str, str], str]:
    """SHA-256 of each crate's archive by name and version, as Cargo.lock pins it."""
    pattern = r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"'
    return {(name, version): found for name, version, found in re.findall(pattern, (ROOT / "Cargo.lock").read_text())}


if __name__ == "__main__":
    print(version())
