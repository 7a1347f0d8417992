#!/usr/bin/env python3
"""Writes the bill of materials of the binary, CycloneDX 1.5: what is linked, from where, with which checksum and licence.

Usage: layer/sbom.py x86_64|arm64 JSON
"""

import json
import sys
import uuid
from pathlib import Path

import crates


def main(arch: str, target: str) -> None:
    packages, edges = crates.linked(arch)
    checksums = crates.checksums()
    refs = {package["id"]: purl(package) for package in packages}
    product = next(package for package in packages if package["name"] == crates.PACKAGE)
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(product, checksums) | {"type": "application"}},
        "components": [component(package, checksums) for package in packages if package is not product],
        "dependencies": [{"ref": refs[one], "dependsOn": sorted(refs[dep] for dep in edges[one])} for one in sorted(refs, key=refs.get)],
    }
    content = json.dumps(document, indent=1, sort_keys=True)
    # Derived from the content, so that the same sources give the same document.
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    Path(target).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    print(f"sbom: {target} names {len(packages)} packages")


def component(package: dict, checksums: dict[tuple[str, str], str]) -> dict:
    checksum = checksums.get((package["name"], package["version"]))
    return {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
        "licenses": [{"expression": package["license"].replace("/", " OR ")}] if package["license"] else [],
        **({"hashes": [{"alg": "SHA-256", "content": checksum}]} if checksum else {}),
        **({"externalReferences": [{"type": "vcs", "url": package["repository"]}]} if package["repository"] else {}),
    }


def purl(package: dict) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
