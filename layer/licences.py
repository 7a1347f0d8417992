"""The licence texts of everything that is linked into the binary, each distinct text once."""

import sys
from pathlib import Path

import crates

TEXT_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE", "COPYRIGHT")


def third_party(arch: str) -> str:
    """One document: which crate is under which licence, and the texts."""
    packages = [package for package in crates.linked(arch)[0] if package["source"]]
    holders: dict[str, list[str]] = {}
    originals: dict[str, str] = {}
    for package in packages:
        for text in texts_of(package):
            key = " ".join(text.split())
            originals.setdefault(key, text.strip("\n"))
            holders.setdefault(key, []).append(f"{package['name']} {package['version']}")
    table = [f"{package['name']} {package['version']}: {package['license']}" for package in packages]
    parts = ["\n".join(["Linked into langfuse-extension:", *table])]
    parts += [f"{', '.join(sorted(set(names)))}\n\n{originals[key]}" for key, names in sorted(holders.items())]
    parts.append((Path(__file__).parent / "notices" / "runtime.txt").read_text().strip("\n"))
    return ("\n\n" + "=" * 100 + "\n\n").join(parts) + "\n"


def texts_of(package: dict) -> list[str]:
    """The crate's own files; where it ships none, the standard text that its licence names and we carry."""
    folder = Path(package["manifest_path"]).parent
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.name.upper().startswith(TEXT_NAMES))
    # Where its authors leave the choice, MIT is taken, as the shortest.
    if {"MIT OR Apache-2.0", "Apache-2.0 OR MIT"} & {package["license"]}:
        found = [path for path in found if "MIT" in path.name.upper()] or found
    if package.get("license_file"):
        found.append(folder / package["license_file"])
    if found:
        return [path.read_text(encoding="utf-8", errors="replace") for path in dict.fromkeys(found)]
    if "Apache-2.0" in (package["license"] or ""):
        return [(crates.ROOT / "LICENSE").read_text()]
    carried = Path(__file__).parent / "notices" / f"{package['name']}.txt"
    if carried.exists():
        return [carried.read_text()]
    sys.exit(f"layer/licences.py: {package['name']} {package['version']} ships no licence text; add it as layer/notices/{package['name']}.txt")
