#!/usr/bin/env python3
"""Writes an image for `COPY --from`, without a container engine: an OCI layout in one tar file, the same byte for byte
each time. One manifest for each layer zip given, so two zips make a multi-architecture image.

Usage: layer/image.py TAR TREE ZIP…    (ZIPs as built by `make layer`; TREE gets the files by architecture, for layer/Dockerfile)
"""

import gzip
import hashlib
import io
import json
import stat
import sys
import tarfile
import zipfile
from pathlib import Path

import crates
import elf

BINARY = "extensions/langfuse-extension"
PLATFORMS = {"x86_64": "amd64", "arm64": "arm64"}
SOURCE = {"org.opencontainers.image.title": "langfuse-lambda-extension", "org.opencontainers.image.licenses": "Apache-2.0"}
INDEX, MANIFEST, CONFIG, LAYER = (
    f"application/vnd.oci.image.{kind}" for kind in ("index.v1+json", "manifest.v1+json", "config.v1+json", "layer.v1.tar+gzip")
)


class Blobs(dict[str, bytes]):
    """The layout's content, by digest."""

    def add(self, media_type: str, content: bytes) -> dict:
        """Keeps `content` and answers with its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def add_json(self, media_type: str, document: dict) -> dict:
        return self.add(media_type, json.dumps(document, sort_keys=True).encode())


def main(target: str, tree: str, *zips: str) -> None:
    blobs = Blobs()
    manifests = []
    for path in sorted(zips):
        files = files_of(path)
        platform = PLATFORMS[elf.read(files["opt/" + BINARY][1]).arch]
        write_tree(Path(tree, platform), files)
        manifests.append(manifest(blobs, platform, files))
    version = crates.version()
    index = blobs.add_json(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    index["annotations"] = {"org.opencontainers.image.ref.name": version}
    layout = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]}, sort_keys=True).encode(),
        **{f"blobs/sha256/{digest}": content for digest, content in blobs.items()},
    }
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_bytes(tar_of({name: (0o644, content) for name, content in layout.items()}))
    print(f"image: {target} {version} for {', '.join(one['platform']['architecture'] for one in manifests)}")


def files_of(path: str) -> dict[str, tuple[int, bytes]]:
    """The layer's files where Lambda would unpack them; the licences beside /opt, so that copying it copies programs only."""
    with zipfile.ZipFile(path) as layer:
        return {
            ("" if entry.filename.startswith("licenses/") else "opt/") + entry.filename: (
                entry.external_attr >> 16,
                layer.read(entry),
            )
            for entry in layer.infolist()
        }


def manifest(blobs: Blobs, platform: str, files: dict[str, tuple[int, bytes]]) -> dict:
    unpacked = tar_of(files)
    layer = blobs.add(LAYER, gzip.compress(unpacked, mtime=0))
    diff_id = f"sha256:{hashlib.sha256(unpacked).hexdigest()}"
    config = blobs.add_json(CONFIG, {
        "architecture": platform,
        "os": "linux",
        "config": {"Labels": {**SOURCE, "org.opencontainers.image.version": crates.version()}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
    body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    return {**blobs.add_json(MANIFEST, body), "platform": {"architecture": platform, "os": "linux"}}


def tar_of(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A tar with fixed order, times and owner, folders included."""
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(folders | set(files)):
            entry = tarfile.TarInfo(name)
            if name in files:
                mode, content = files[name]
                entry.mode = stat.S_IMODE(mode)
                if stat.S_ISLNK(mode):
                    entry.type, entry.linkname = tarfile.SYMTYPE, content.decode()
                    tar.addfile(entry)
                    continue
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.mode, entry.type = 0o755, tarfile.DIRTYPE
                tar.addfile(entry)
    return out.getvalue()


def write_tree(folder: Path, files: dict[str, tuple[int, bytes]]) -> None:
    for name, (mode, content) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(mode):
            path.unlink(missing_ok=True)
            path.symlink_to(content.decode())
            continue
        path.write_bytes(content)
        path.chmod(stat.S_IMODE(mode))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
