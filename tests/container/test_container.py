#!/usr/bin/env python3
"""The example's image as Lambda runs it, under AWS's emulator: all files read-only but /tmp, and a user without rights.

Usage: make image-run
"""

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rie"))
import sandbox  # noqa: E402
from sandbox import Langfuse, Rie  # noqa: E402
from web_app import environment, url_event  # noqa: E402

USER = "993:990"  # Lambda's own.
QUESTION = "does it run in an image"
SHUTDOWN_LIMIT_SECONDS = 2.6
IN_IMAGE = Path("/mnt")  # Empty in every image. AWS's emulator is put there, as Lambda's own programs are put somewhere.


class Image(Rie):
    """AWS's emulator inside of the image, started by the image's command."""

    address = "127.0.0.1:8081"  # The app has 8080.

    def lay_out(self, extra: Path | None) -> None:
        """Nothing: all of it is in the image."""

    def command(self, bootstrap: Path, env: dict[str, str]) -> list[str]:
        rie = [str(IN_IMAGE / "rie"), "--log-level", "debug", "--runtime-interface-emulator-address", self.address]
        return [*entered(), *rie, *config["Cmd"]]


def entered() -> list[str]:
    return ["chroot", f"--userspec={USER}", str(root), "env", f"--chdir={config['WorkingDir']}"]


class Container(unittest.TestCase):
    def test_nothing_but_tmp_is_writable(self) -> None:
        for path, is_writable in (("/tmp", True), ("/var/task", False), ("/opt/extensions", False), ("/usr/local", False)):
            done = subprocess.run([*entered(), "touch", f"{path}/file"], capture_output=True, text=True)
            self.assertEqual(done.returncode == 0, is_writable, done.stderr)
            self.assertIn("" if is_writable else "Read-only file system", done.stderr)

    def test_the_apps_answers_arrive_and_so_do_its_traces(self) -> None:
        langfuse = Langfuse()
        self.addCleanup(langfuse.close)
        env = dict(setting.split("=", 1) for setting in config["Env"])
        own = {"HOME": "/tmp", "LANGFUSE_EXTENSION_SPOOL_DIR": "/tmp/langfuse-extension"}
        platform = Image(sandbox.BOOTSTRAP, env | environment(langfuse) | own)
        self.addCleanup(platform.close)
        try:
            status, answer = platform.invoke(url_event("POST", "/chat", {"message": QUESTION}))
            self.assertEqual(status, 200, answer)
            self.assertEqual(str(answer).count("data: "), len(QUESTION.split()) + 3, answer)  # "You said:", and the trace's id.
            status, answer = platform.invoke(url_event("GET", "/team"))
            self.assertEqual(status, 200, answer)
            self.assertIn("Ada", str(answer))
            took = platform.shut_down()
            (report,) = platform.of_extension("langfuse-extension report")
        except BaseException:
            print(*platform.lines[-80:], sep="\n")
            raise
        self.assertEqual(sorted(span["name"] for span in langfuse.spans()), ["answer", "chat", "remember", "team"])
        self.assertEqual(sorted(score["body"]["name"] for score in langfuse.scores()), ["members", "words"])
        self.assertEqual((report["accepted"], report["delivered"], report["dropped"]), (6, 6, 0), report)
        self.assertLess(took, SHUTDOWN_LIMIT_SECONDS)


def mount_as_lambda_does(image: Path, where: Path) -> None:
    """The image's files, which nobody can change, with what Lambda adds to them."""
    sandbox.run("mount", "--bind", str(image), str(where))
    sandbox.run("mount", "-o", "remount,bind,ro", str(where))
    sandbox.run("mount", "-t", "proc", "proc", str(where / "proc"))
    sandbox.run("mount", "--bind", "/dev", str(where / "dev"))
    sandbox.run("mount", "--bind", "/etc/hosts", str(where / "etc/hosts"))
    for folder, mode in ((where / "tmp", "1777"), (where / IN_IMAGE.relative_to("/"), "0755")):
        sandbox.run("mount", "-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", str(folder))
    sandbox.run("install", "-m", "755", os.environ["AWS_LAMBDA_RIE"], str(where / IN_IMAGE.relative_to("/") / "rie"))


if __name__ == "__main__":
    built = Path(os.environ["APP_IMAGE"])
    if not built.exists():
        sys.exit(print("container: skipped, there is no image"))
    sandbox.enter()
    told = json.loads(built.read_text())
    config, root = told["config"], Path("/opt/image")  # In memory, and gone with the namespace.
    root.mkdir()
    mount_as_lambda_does(Path(told["root"]), root)
    unittest.main(verbosity=2)
