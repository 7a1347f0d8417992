"""Runs a deployed function, as it was taken back out of moto, in lambda-emulator, with one real request.

The extension reads its keys from moto with the function's role, and ships to a fake Langfuse that accepts no others.
"""

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCH = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
LAYER = ROOT / "dist" / f"langfuse-extension-layer-{ARCH}.zip"
IMAGE = ROOT / "terraform" / "examples" / "container-fastapi"
ADAPTER = ROOT / "target" / "tools" / "bin" / "lambda-adapter"
TIMEOUT_SECONDS = 120
MESSAGE = "Does it run?"
# The app streams a word each 50 ms, and there are five; what is buffered comes all at once.
STREAMED_SECONDS = 0.1


def build() -> None:
    command = ["cargo", "build", "--quiet", "--locked", "--package", "lambda-emulator", "--bins"]
    subprocess.run(command, cwd=ROOT, check=True)
    subprocess.run(["make", "--silent", str(ADAPTER.relative_to(ROOT))], cwd=ROOT, check=True)


def run(folder: Path, aws: dict[str, str], keys: tuple[str, str], ask: Callable[[Path, dict, dict[str, str]], None]) -> dict:
    """Returns what the fake Langfuse counted after `ask`, which is `invoke` or `stream`: a request, and a shutdown."""
    function = json.loads((folder / "function.json").read_text())
    # The fake ends when its standard input does.
    with subprocess.Popen(
        [binary("fake-langfuse"), "--project", f"deployed:{keys[0]}:{keys[1]}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as langfuse:
        try:
            addresses = json.loads(langfuse.stdout.readline())
            ask(folder, function, aws | local_settings(folder, addresses["url"]))
            with urllib.request.urlopen(f"{addresses['control']}/summary", timeout=10) as answer:
                return json.load(answer)
        finally:
            langfuse.stdin.close()


def invoke(folder: Path, function: dict, local: dict[str, str]) -> None:
    """A zip function: its handler in AWS's runtime for Python."""
    options = ["--payload", json.dumps({"question": MESSAGE})]
    command = emulated(folder, function, local, options, [sys.executable, "-m", "awslambdaric", function["Handler"]])
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if done.returncode != 0 or MESSAGE not in done.stdout:
        sys.exit(f"deploy: the deployed function does not run:\n{done.stdout}\n{done.stderr}")


def stream(folder: Path, function: dict, local: dict[str, str]) -> None:
    """An image's function: the app that its command starts, behind the Web Adapter, asked through its URL."""
    port = str(free_port())
    app = lay_out_image(folder, port)
    command = emulated(folder, function, local | {"AWS_LWA_PORT": port}, ["--listen", "127.0.0.1:0"], app)
    log: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as emulator:
        try:
            url = next(line.split()[2] for line in emulator.stderr if line.startswith("function URL "))
            threading.Thread(target=lambda: log.extend(emulator.stderr)).start()
            fault = chat(url)
        finally:
            emulator.send_signal(signal.SIGINT)
            emulator.wait(TIMEOUT_SECONDS)
    if fault:
        sys.exit(f"deploy: the deployed image {fault}:\n{''.join(log)}")


def chat(url: str) -> str:
    """What is wrong with the answer, if anything is."""
    request = urllib.request.Request(f"{url}chat", json.dumps({"message": MESSAGE}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        arrived = [time.monotonic() for line in answer if line.startswith(b"data: ")]
    words = len(f"You said: {MESSAGE}".split())
    if len(arrived) != words + 1:
        return f"answers {len(arrived)} events, not {words + 1}"
    return "" if arrived[-1] - arrived[0] > STREAMED_SECONDS else "answers all at once"


def lay_out_image(folder: Path, port: str) -> list[str]:
    """Does by hand what the Dockerfile does, for this machine, and returns its command."""
    with zipfile.ZipFile(LAYER) as files:
        files.extract("extensions/langfuse-extension", folder / "opt")
    shutil.copy(ADAPTER, folder / "opt" / "extensions")
    (folder / "opt" / "extensions" / "langfuse-extension").chmod(0o755)
    shutil.copytree(IMAGE / "app", folder / "task")
    python = subprocess.run([ROOT / "tests" / "venv.sh", "fastapi", IMAGE / "app" / "requirements.txt"], check=True, stdout=subprocess.PIPE, text=True)
    (command,) = re.findall(r"^CMD (.*)$", (IMAGE / "Dockerfile").read_text(), re.MULTILINE)
    return [{"python": python.stdout.strip(), "8080": port}.get(word, word) for word in json.loads(command)]


def emulated(folder: Path, function: dict, local: dict[str, str], options: list[str], bootstrap: list[str]) -> list[str]:
    """The command that plays Lambda with what was deployed, and what differs here put over it."""
    command = [binary("lambda-emulator"), "--opt", str(folder / "opt"), "--task-root", str(folder / "task")]
    command += ["--timeout", str(function["Timeout"]), "--memory", str(function["MemorySize"])]
    command += [f"--env={name}={value}" for name, value in (function["Environment"] | local).items()]
    return [*command, *options, "--", *bootstrap]


def local_settings(folder: Path, langfuse_url: str) -> dict[str, str]:
    """What differs from the service: where Langfuse is, and a port and a folder that nothing else uses."""
    port = free_port()
    return {
        "LANGFUSE_BASE_URL": f"http://127.0.0.1:{port}",
        "LANGFUSE_EXTENSION_BASE_URL": langfuse_url,
        "LANGFUSE_EXTENSION_LISTEN": f"127.0.0.1:{port}",
        "LANGFUSE_EXTENSION_SPOOL_DIR": str(folder / "spool"),
        "PATH": os.environ["PATH"],
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def binary(name: str) -> str:
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / name)
