"""A machine to play Lambda on: own mounts, network and processes, with /opt, Langfuse and a platform inside.

AWS's emulator starts everything in /opt/extensions and serves fixed ports, so it cannot run beside anything else. `enter`
replaces this process by one in namespaces of its own, where ports 4318 and 8080 are free and /opt is a folder of ours.
That takes root; where it is not to be had, `enter` says so and skips.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
EXTENSION = ROOT / os.environ.get("EXTENSION_BINARY", TARGET / "release" / "langfuse-extension")
ADAPTER = TARGET / "tools" / "bin" / "lambda-adapter"
BOOTSTRAP = Path("/var/task/bootstrap")
INSIDE = "LANGFUSE_TEST_SANDBOX"
INVOKE_PATH = "/2015-03-31/functions/function/invocations"
START_LIMIT_SECONDS = 10
END_LIMIT_SECONDS = 5
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def enter() -> None:
    """Goes on in namespaces of its own, or ends with a line that says why not."""
    if os.environ.get(INSIDE):
        prepare()
        return
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*namespaces, "true"], stderr=subprocess.DEVNULL).returncode:
        print("skipped: AWS's emulator needs mount, network and process namespaces (unshare as root)")
        sys.exit(0)
    os.environ[INSIDE] = "1"
    os.execvp("unshare", [*namespaces, sys.executable, *sys.argv])


def prepare() -> None:
    run("ip", "link", "set", "lo", "up")
    for folder in ("/opt", "/var/task"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", folder)
    replace("/etc/hosts", "127.0.0.1 localhost sandbox.localdomain sandbox\n")


def replace(path: str, content: str) -> None:
    """Shows a file of this machine with other content to everything inside."""
    other = Path("/opt") / Path(path).name
    other.write_text(content)
    run("mount", "--bind", str(other), path)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


class Langfuse:
    """The fake Langfuse as a command."""

    HUNG = {"kind": "hang_before_accepting"}
    DOWN = {"kind": "refuse"}

    def __init__(self) -> None:
        command = [TARGET / "debug" / "fake-langfuse"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        told = json.loads(self.process.stdout.readline())
        self.url, self.control = told["url"], told["control"]
        self.public_key, self.secret_key = told["public_key"], told["secret_key"]
        spared.add(self.process.pid)

    def fail(self, *faults: dict) -> None:
        self.ask("PUT", "/faults", list(faults))

    def heal(self) -> None:
        self.ask("DELETE", "/faults")

    def forget(self) -> None:
        self.ask("DELETE", "/recordings")

    def spans(self) -> list[dict]:
        return self.ask("GET", "/observations")

    def scores(self) -> list[dict]:
        return self.ask("GET", "/scores")

    def wait_for(self, spans: int, limit_seconds: float, scores: int = 0) -> None:
        """Polls, because the recording is another process's; returns at the limit, too."""
        limit = time.monotonic() + limit_seconds
        while time.monotonic() < limit and (len(self.spans()) < spans or len(self.scores()) < scores):
            time.sleep(0.02)

    def ask(self, method: str, path: str, body: object = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.control + path, data, method=method)
        with direct.open(request, timeout=5) as answer:
            return json.load(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(END_LIMIT_SECONDS)
        spared.discard(self.process.pid)


class Platform:
    """What plays Lambda: invoked over HTTP, ended by a signal, its log kept."""

    name = ""
    ends_by = signal.SIGTERM
    address = "127.0.0.1:8080"

    def __init__(self, bootstrap: Path, env: dict[str, str], *, extra: Path | None = None, **options: object) -> None:
        self.lay_out(extra)
        self.tmp = tempfile.mkdtemp(prefix="sandbox-")
        os.chmod(self.tmp, 0o777)  # Under Managed Instances everything runs as another user.
        env = {
            "PATH": os.environ["PATH"],
            "LANGFUSE_EXTENSION_SPOOL_DIR": f"{self.tmp}/spool",
            **env,
        }
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            self.command(bootstrap, env, **options),
            env=env,
            cwd="/var/task",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def lay_out(self, extra: Path | None) -> None:
        lay_out_opt(extra)

    def read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def invoke(self, payload: dict, limit_seconds: float = 60) -> tuple[int, dict]:
        """The status and the answer. The first invocation may have to wait until the platform listens."""
        request = urllib.request.Request(f"http://{self.address}{INVOKE_PATH}", json.dumps(payload).encode())
        limit = time.monotonic() + START_LIMIT_SECONDS
        while True:
            try:
                with direct.open(request, timeout=limit_seconds) as answer:
                    return answer.status, read_json(answer.read())
            except urllib.error.HTTPError as error:
                return error.code, read_json(error.read())
            except urllib.error.URLError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.02)

    def shut_down(self) -> float:
        """Ends the sandbox as a spindown does, and says how many seconds that took."""
        started = time.monotonic()
        self.process.send_signal(self.ends_by)
        self.process.wait(END_LIMIT_SECONDS)
        took = time.monotonic() - started
        self.reader.join(END_LIMIT_SECONDS)
        return took

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        kill_the_rest()
        self.reader.join(END_LIMIT_SECONDS)
        self.process.stdout.close()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def of_extension(self, message: str = "") -> list[dict]:
        """The extension's own log lines that hold a text."""
        found = []
        for line in self.lines:
            start = line.find("{")
            if start >= 0 and '"message"' in line and message in line:
                try:
                    found.append(json.loads(line[start:]))
                except ValueError:
                    continue
        return found


class Rie(Platform):
    """AWS's Runtime Interface Emulator."""

    name = "AWS RIE"

    def command(self, bootstrap: Path, env: dict[str, str], managed_instances: bool = False) -> list[str]:
        env.setdefault("AWS_LAMBDA_FUNCTION_TIMEOUT", "30")
        if managed_instances:
            env["AWS_LAMBDA_MAX_CONCURRENCY"] = "4"
        rie = os.environ["AWS_LAMBDA_RIE"]
        return [rie, "--log-level", "debug", "--runtime-interface-emulator-address", self.address, str(bootstrap), "handler"]


class Emulator(Platform):
    """This project's lambda-emulator, told to be like AWS's."""

    name = "lambda-emulator"
    ends_by = signal.SIGINT

    def command(
        self, bootstrap: Path, env: dict[str, str], managed_instances: bool = False, freeze: str = "off", telemetry: bool = False
    ) -> list[str]:
        command = [str(TARGET / "debug" / "lambda-emulator"), "--opt", "/opt", "--task-root", "/var/task", "--timeout", "30"]
        command += ["--freeze", freeze, "--listen", self.address]
        command += ["--timeline", f"{self.tmp}/timeline.json"]
        command += ["--managed-instances"] if managed_instances else [] if telemetry else ["--no-telemetry"]
        for name, value in env.items():
            command += ["--env", f"{name}={value}"]
        return [*command, str(bootstrap)]


def lay_out_opt(extra: Path | None) -> None:
    """The extension, and another one beside it."""
    extensions = Path("/opt/extensions")
    shutil.rmtree(extensions, ignore_errors=True)
    extensions.mkdir()
    for source in [EXTENSION, extra] if extra else [EXTENSION]:
        shutil.copy(source, extensions / source.name)
    wrapper = Path("/opt/langfuse")
    wrapper.unlink(missing_ok=True)
    wrapper.symlink_to(extensions / EXTENSION.name)


def lay_out_task(bootstrap: Path, *others: Path) -> None:
    """Under Managed Instances AWS's emulator starts /var/task/bootstrap, whatever it is told."""
    shutil.copy(bootstrap, BOOTSTRAP)
    for source in others:
        shutil.copy(source, BOOTSTRAP.parent / source.name)


def kill_the_rest() -> None:
    """Ends what the platform left behind: all but this process, the first of its namespace, and the fake Langfuse."""
    assert os.getpid() == 1
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        if pid != 1 and pid not in spared:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


spared: set[int] = set()


def read_json(body: bytes) -> dict:
    try:
        return json.loads(body)
    except ValueError:
        return {"body": body.decode(errors="replace")}
