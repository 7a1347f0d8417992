#!/usr/bin/env python3
"""Publishes the layers in dist/ with layer/publish.sh and the AWS CLI to a local AWS (moto), and looks at what is there.

Usage: make publish-test
"""

import base64
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import boto3
from moto.awslambda.models import lambda_backends
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
ZIPS = {zip.stem.removeprefix("langfuse-extension-layer-"): zip for zip in sorted((ROOT / "dist").glob("langfuse-extension-layer-*.zip"))}
REGIONS = ("eu-west-1", "us-east-1")


class Publish(unittest.TestCase):
    def setUp(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        self.addCleanup(server.stop)
        self.addCleanup(lambda_backends.reset)
        self.url = "http://{}:{}".format(*server.get_host_and_port())
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        # A dist/ of the test's own: the ARNs of a real release must not be overwritten.
        self.folder = Path(folder.name)
        (self.folder / "layer").symlink_to(ROOT / "layer")
        (self.folder / "dist").mkdir()
        for path in ZIPS.values():
            shutil.copy(path, self.folder / "dist")

    def publish(self, **settings: str) -> subprocess.CompletedProcess:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "publisher",
            "AWS_SECRET_ACCESS_KEY": "publisher",
            "REGIONS": " ".join(REGIONS),
            **settings,
        }
        return subprocess.run([self.folder / "layer" / "publish.sh"], env=env, capture_output=True, text=True)

    def published(self) -> list[tuple[str, str]]:
        """Region and name of each layer that has a version."""
        return [(region, layer["LayerName"]) for region in REGIONS for layer in self.aws(region).list_layers()["Layers"]]

    def aws(self, region: str):
        return boto3.client("lambda", endpoint_url=self.url, region_name=region, aws_access_key_id="test", aws_secret_access_key="test")

    def test_each_layer_is_in_each_region_for_everyone(self) -> None:
        done = self.publish(CONFIRM="1")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        wanted = [(region, f"langfuse-extension-{arch}") for region in REGIONS for arch in ZIPS]
        self.assertEqual(sorted(self.published()), sorted(wanted))
        arns = (self.folder / "dist" / "layer-arns.txt").read_text().splitlines()
        for (region, name), arn in zip(wanted, arns, strict=True):
            arch = name.removeprefix("langfuse-extension-")
            version = self.aws(region).get_layer_version(LayerName=name, VersionNumber=1)
            self.assertEqual(version["LayerVersionArn"], arn)
            self.assertEqual(version["Content"]["CodeSha256"], base64.b64encode(hashlib.sha256(ZIPS[arch].read_bytes()).digest()).decode())
            self.assertEqual((version["CompatibleArchitectures"], version["LicenseInfo"]), ([arch], "Apache-2.0"))
            policy = self.aws(region).get_layer_version_policy(LayerName=name, VersionNumber=1)["Policy"]
            (statement,) = json.loads(policy)["Statement"]
            self.assertEqual((statement["Principal"], statement["Action"]), ("*", "lambda:GetLayerVersion"))

    def test_nothing_is_published_without_being_confirmed(self) -> None:
        self.assertEqual(self.publish().returncode, 2)
        self.assertEqual(self.published(), [])

    def test_one_layer_that_lambda_could_not_use_stops_all(self) -> None:
        (self.folder / "dist" / "langfuse-extension-layer-x86_64.zip").write_bytes(b"no zip")
        done = self.publish(CONFIRM="1")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("is no zip file", done.stderr)
        self.assertEqual(self.published(), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
