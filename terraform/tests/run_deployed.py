"""Runs a deployed zip function, as it was taken back out of moto, in lambda-emulator, with one real request.

The extension reads its keys from moto's Secrets Manager with the function's role, and ships to a fake Langfuse that accepts no others.
"""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 120


def build() -> None:
    command = ["cargo", "build", "--quiet", "--locked", "--package", "lambda-emulator", "--bins"]
    subprocess.run(command, cwd=ROOT, check=True)


def run(folder: Path, aws_url: str, region: str, role: dict, keys: tuple[str, str]) -> dict:
    """Returns what the fake Langfuse counted after an invocation and a shutdown."""
    function = json.loads((folder / "function.json").read_text())
    # The fake ends when its standard input does.
    with subprocess.Popen(
        [binary("fake-langfuse"), "--project", f"deployed:{keys[0]}:{keys[1]}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as langfuse:
        try:
            addresses = json.loads(langfuse.stdout.readline())
            invoke(folder, function, local_settings(folder, aws_url, region, role, addresses["url"]))
            with urllib.request.urlopen(f"{addresses['control']}/summary", timeout=10) as answer:
                return json.load(answer)
        finally:
            langfuse.stdin.close()


def invoke(folder: Path, function: dict, local: dict[str, str]) -> None:
    environment = {**function["Environment"], **local}
    command = [binary("lambda-emulator"), "--opt", folder / "opt", "--task-root", folder / "task"]
    command += ["--timeout", str(function["Timeout"]), "--memory", str(function["MemorySize"])]
    command += [f"--env={name}={value}" for name, value in environment.items()]
    command += ["--payload", '{"question": "Does it run?"}', "--", sys.executable, "-m", "awslambdaric", function["Handler"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if done.returncode != 0 or "Does it run?" not in done.stdout:
        sys.exit(f"deploy: the deployed function does not run:\n{done.stdout}\n{done.stderr}")


def local_settings(folder: Path, aws_url: str, region: str, role: dict, langfuse_url: str) -> dict[str, str]:
    """What differs from the service: where AWS and Langfuse are, and a port and a folder that nothing else uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_REGION": region,
        "AWS_ACCESS_KEY_ID": role["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
        "AWS_SESSION_TOKEN": role["SessionToken"],
        "LANGFUSE_BASE_URL": f"http://127.0.0.1:{port}",
        "LANGFUSE_EXTENSION_BASE_URL": langfuse_url,
        "LANGFUSE_EXTENSION_LISTEN": f"127.0.0.1:{port}",
        "LANGFUSE_EXTENSION_SPOOL_DIR": str(folder / "spool"),
        "PATH": os.environ["PATH"],
    }


def binary(name: str) -> str:
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / name)
