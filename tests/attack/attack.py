"""Attacks the extension's doors, on the release binary, and prints what it stood: tests/attack/attack.py [part]

Each case has an extension of its own (`serve`), and a server in Langfuse's place. A row of the table says whether the
extension was alive afterwards, the most memory it had, whether its books balance, and whether every verdict was the right
one. `part`: with fewer mutated bodies, for `make test`. Ends with status 1 if any row has a no.
"""

import base64
import gzip
import http.client
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from upstream import Forwarder, Recorder

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BINARY = os.environ.get("EXTENSION_BINARY") or str(ROOT / "target/release/langfuse-extension")
PART = "part" in sys.argv[1:]
SECRET = "sk-lf-attacked"
AUTHORIZATION = "Basic " + base64.b64encode(f"pk-lf-attacked:{SECRET}".encode()).decode()
TRACES = "/api/public/otel/v1/traces"
PATIENCE_S = 20
MEMORY_LIMIT_BYTES = 128 << 20


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


class Extension:
    """One process, with own keys, that ships to `url`."""

    def __init__(self, url, memory_mb=None, **settings):
        self.dir = tempfile.mkdtemp(prefix="attack-")
        self.group = None
        self.port = settings.pop("port", None) or free_port()
        self.log = open(os.path.join(self.dir, "log"), "w+")
        environment = {
            "PATH": os.environ["PATH"],
            "LANGFUSE_EXTENSION_BASE_URL": url,
            "LANGFUSE_EXTENSION_PUBLIC_KEY": "pk-lf-attacked",
            "LANGFUSE_EXTENSION_SECRET_KEY": SECRET,
            "LANGFUSE_EXTENSION_LISTEN": f"127.0.0.1:{self.port}",
            "LANGFUSE_EXTENSION_SPOOL_DIR": os.path.join(self.dir, "spool"),
            "LANGFUSE_EXTENSION_MAX_DATA_AGE_MS": "200",
            **{f"LANGFUSE_EXTENSION_{name}": value for name, value in settings.items()},
            **({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb)} if memory_mb else {}),
        }
        self.process = subprocess.Popen([BINARY, "serve"], env=environment, stdout=self.log, stderr=self.log)
        wait_for(self.alive, "the extension to listen")

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", "localhost")
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def raw(self, request, patience_s=5, ends=True):
        """What comes back for these bytes until the connection ends or nothing more comes. `ends`: no more is sent, and said."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience_s) as it:
            answer = b""
            try:
                it.sendall(request)
                if ends:
                    it.shutdown(socket.SHUT_WR)
                while piece := it.recv(65536):
                    answer += piece
            except OSError:
                pass
            return answer

    def alive(self):
        try:
            return self.process.poll() is None and self.ask("GET", "/status")[0] == 200
        except OSError:
            return False

    def status(self):
        return json.loads(self.ask("GET", "/status")[1])

    def balances(self):
        books = self.status()
        parts = books["delivered"] + books["held"] + books["spooled"] + books["on_disk"]
        dropped = books["dropped"]
        parts += sum(dropped.values()) if isinstance(dropped, dict) else dropped
        return books["accepted"] + books.get("recovered", 0) == parts

    def peak_bytes(self):
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

    def confine(self, limit_bytes):
        """Puts the process into a control group of so many bytes. Whether there are such groups here."""
        for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
            group = pathlib.Path(root, f"langfuse-extension-attack-{self.process.pid}")
            try:
                group.mkdir()
                self.group = group
                (group / limit).write_text(str(limit_bytes))
                (group / "cgroup.procs").write_text(str(self.process.pid))
                return
            except OSError:
                self.leave_group()
        print("    in no control group: none can be made here")

    def leave_group(self):
        if self.group is not None:
            try:
                self.group.rmdir()
            except OSError:
                pass
            self.group = None

    def logged(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.leave_group()
        shutil.rmtree(self.dir, ignore_errors=True)


def wait_for(condition, what):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.01)


def span(number, text="x"):
    one = {"traceId": f"{number + 1:032x}", "spanId": f"{number + 1:016x}", "name": text,
           "startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]}).encode()


JSON = {"Content-Type": "application/json"}


def post_span(extension, number, text="x"):
    return extension.ask("POST", TRACES, span(number, text), JSON)[0]


# ---- The cases: each yields its extension, and then of each verdict whether it was right and what it was about. ----


def paths_behind_nginx():
    """Forged requests without keys, through a real nginx with a path in `proxy_pass`, which decodes what it passes on."""
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if nginx is None:
        return
    recorder, port, home = Recorder(), free_port(), tempfile.mkdtemp(prefix="nginx-")
    config = os.path.join(home, "nginx.conf")
    pathlib.Path(config).write_text(
        f"daemon off; master_process off; pid {home}/pid; error_log {home}/error.log;\n"
        "events {}\n"
        "http { access_log off; "
        + " ".join(f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        + f" server {{ listen 127.0.0.1:{port}; location /langfuse/ {{ proxy_pass http://127.0.0.1:{recorder.port}/; }} }} }}\n"
    )
    proxy = subprocess.Popen([nginx, "-p", home, "-c", config], stderr=subprocess.DEVNULL)
    extension = Extension(f"http://127.0.0.1:{port}/langfuse", PROMPT_CACHE="false")
    try:
        wait_for(lambda: extension.ask("GET", "/api/public/projects")[0] == 200, "nginx")
        yield extension
        recorder.seen.clear()
        asked = extension.ask("GET", "/api/public/v2/prompts/folder%2fgreeting?label=production")[0]
        yield asked == 200, "a prompt in a folder is found"
        atoms = ["..", ".", "%2e", "%2E%2e", "/", "%2f", "%5c", "\\", ";", "%3b", "%252e", "%252f", "%25252e", "%c0%ae", "%c0%af",
                 "%e2%80%a5", "%ef%bc%8f", "%00", "%20", "%3f", "%23", "traces", "sessions", "x", "?", "%"]
        chance = random.Random(7)
        fixed = ["/api/public/projects/..%2ftraces", "/api/public/v2/prompts/..%2f..%2ftraces",
                 "/api/public/v2/prompts/%2e%2e%2fsessions", "/api/public/v2/prompts/..%5c..%5ctraces",
                 "/api/public/v2/prompts/..;/..;/traces", "/api/public/v2/prompts/%252e%252e%252ftraces",
                 "/api/public/v2/prompts/%c0%ae%c0%ae%c0%aftraces", "/api/public/media/..%2ftraces"]
        made = ["/api/public/" + chance.choice(["", "v2/prompts/", "projects/", "media/", "health"])
                + "".join(chance.choice(atoms) for _ in range(chance.randint(1, 9))) for _ in range(300 if PART else 5000)]
        for path in fixed + made:
            for method in ("GET", "PATCH", "POST") if path in fixed else ("GET",):
                head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                extension.raw(head.encode("latin-1"), ends=False)
        for method, path, _, _ in recorder.seen:
            path = path.split("?")[0]
            name = path.removeprefix("/api/public/v2/prompts/")
            right = path in ("/api/public/projects", "/api/public/health") or (
                name != path and name != "" and not any(piece in ("", ".", "..") for piece in name.split("/")))
            if path.startswith("/api/public/media"):
                right = method in ("POST", "PATCH")
            yield right, f"{method} {path}"
        yield len(recorder.seen) > 1, "something passes"
    finally:
        proxy.terminate()
        proxy.wait()
        shutil.rmtree(home, ignore_errors=True)


def an_answer_that_echoes():
    """Everything of a request comes back in an error, keys and payload: none of it may reach the log."""
    recorder = Recorder(echo=True)
    extension = Extension(f"http://127.0.0.1:{recorder.port}", LOG_LEVEL="trace")
    yield extension
    marker = "payload-that-nobody-may-read"
    yield post_span(extension, 1, marker) == 200, "a span is acknowledged"
    scores = json.dumps({"batch": [{"id": "1", "type": "score-create", "timestamp": "2026-01-01T00:00:00Z",
                                    "body": {"id": "s", "name": marker, "value": 1, "traceId": "t"}}]}).encode()
    yield extension.ask("POST", "/api/public/ingestion", scores, JSON)[0] == 207, "a score is acknowledged"
    extension.ask("GET", f"/api/public/v2/prompts/{marker}")
    wait_for(lambda: any(path == TRACES and marker.encode() in readable(body) for _, path, _, body in recorder.seen), "the span")
    wait_for(lambda: extension.status()["held"] == 0 or extension.alive(), "the answer")
    time.sleep(0.3)
    encoded = AUTHORIZATION.split()[1]
    for secret in (SECRET, encoded, marker):
        yield secret not in extension.logged(), f"{secret} in the log"


def readable(body):
    try:
        return gzip.decompress(body)
    except (OSError, EOFError):
        return body


def a_loop():
    """The address of Langfuse leads back here, through a server that cannot be told from another."""
    port = free_port()
    extension = Extension(f"http://127.0.0.1:{Forwarder(port).port}", port=port)
    yield extension
    for number in range(3):
        yield post_span(extension, number) == 200, "a span is acknowledged"
    wait_for(lambda: "leads back to this extension" in extension.logged(), "the loop to be said")
    time.sleep(1)
    books = extension.status()
    yield books["accepted"] == 3, f"accepted {books['accepted']} of 3"
    yield books["delivered"] == 0, "nothing counts as delivered"


def raw_requests():
    """Smuggling, doubled headers, heads without an end."""
    recorder = Recorder()
    extension = Extension(f"http://127.0.0.1:{recorder.port}")
    body = span(0)
    size = len(body)
    head = f"POST {TRACES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    smuggled = b"GET /api/public/traces HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield extension
    cases = [
        (f"{head}Content-Length: {size}\r\nContent-Length: {size + 9}\r\n\r\n", body, b"400"),
        (f"{head}Content-Length: +{size}\r\n\r\n", body, b"400"),
        (f"{head}Content-Length: {size}, {size + 1}\r\n\r\n", body, b"400"),
        (f"{head}Transfer-Encoding: chunked, identity\r\n\r\n", body, b"400"),
        (f"{head}Transfer-Encoding: xchunked\r\n\r\n", body, b"400"),
        (f"{head}Transfer-Encoding: chunked\r\n\r\nZZ\r\n", body, b"400"),
        (f"{head}Host: evil.example\r\nContent-Length: {size}\r\n\r\n", body, b"40"),
        (f"{head}Origin: http://evil.example\r\nContent-Length: {size}\r\n\r\n", body, b"403"),
        (f"POST {TRACES} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: {size}\r\n\r\n", body, b"403"),
        (f"GET /{'x' * 70_000} HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", b"4"),
        ("GET /status HTTP/1.1\r\nHost: localhost\r\n" + "x: y\r\n" * 200 + "\r\n", b"", b"431"),
        ("GET /status HTTP/1.1\r\nHost: localhost\r\nx : y\r\n\r\n", b"", b"400"),
        (f"{head}Content-Encoding: gzip\r\nContent-Length: {size}\r\n\r\n", body, b"400"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01", b"", b""),
    ]
    for request, tail, verdict in cases:
        answer = extension.raw(request.encode("latin-1") + tail)
        status = answer.split(b" ")[1] if answer.startswith(b"HTTP/1.1 ") else b""
        yield status.startswith(verdict) or status == b"", f"{request[:300]!r} {answer[:60]!r}"
    both = f"{head}Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode() + smuggled
    extension.raw(both)
    yield not any(path.startswith("/api/public/traces") for _, path, _, _ in recorder.seen), "nothing is smuggled"
    yield extension.status()["accepted"] == 0, "nothing of it is taken as data"


def bombs():
    """Small bodies that inflate to much, many at once, in a function of 128 MB."""
    yield from many_at_once(gzip.compress(b'{"resourceSpans":[' + b" " * (19 << 20) + b"]}"), (b"200", b"413"))


def large_bodies():
    """Bodies that are large as they are sent and larger inflated, many at once, in a function of 128 MB."""
    noise = random.Random(3).randbytes(300_000).hex()
    yield from many_at_once(gzip.compress(span(1, noise + "x" * (5 << 20))), (b"200", b"413"))


def many_at_once(body, verdicts):
    extension = Extension(f"http://127.0.0.1:{Recorder().port}", memory_mb=MEMORY_LIMIT_BYTES >> 20)
    extension.confine(MEMORY_LIMIT_BYTES)
    head = (f"POST {TRACES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode()
    yield extension
    for _ in range(1 if PART else 3):
        clients = [socket.create_connection(("127.0.0.1", extension.port), timeout=PATIENCE_S) for _ in range(32)]
        senders = [threading.Thread(target=send, args=(client, head + body)) for client in clients]
        for sender in senders:
            sender.start()
        for client in clients:
            status = client.recv(12)[9:12]
            yield status in verdicts, f"a body is answered {status!r}"
        for sender, client in zip(senders, clients):
            sender.join()
            client.close()
    yield post_span(extension, 1) == 200, "a span is acknowledged"
    peak = extension.peak_bytes()
    yield peak <= MEMORY_LIMIT_BYTES, f"{peak >> 20} MiB"


def send(client, request):
    """All of it, or as much as is read: who is answered before has the rest left."""
    try:
        client.sendall(request)
    except OSError:
        pass


def idle_and_slow_clients():
    """More idle connections than are served at once, heads and bodies that do not end: others are answered at once."""
    recorder = Recorder()
    extension = Extension(f"http://127.0.0.1:{recorder.port}")
    connect = lambda: socket.create_connection(("127.0.0.1", extension.port), timeout=PATIENCE_S)
    idle = []
    try:
        yield extension
        for number in range(200):
            idle.append(connect())
            if number % 3 == 1:
                idle[-1].sendall(b"POST /v1/traces HTTP/1.1\r\nHost: loc")
            if number % 50 == 2:
                idle[-1].sendall(b"POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\nx")
            if number % 20 == 0:
                started = time.monotonic()
                yield post_span(extension, number) == 200, "a span is acknowledged"
                took = time.monotonic() - started
                yield took < 2, f"beside {number} others it took {took:.1f} s"
    finally:
        for client in idle:
            client.close()


def mutated_bodies():
    """Recorded requests with bytes changed, cut, doubled: each gets a verdict, and the next one its right one."""
    recorder = Recorder()
    extension = Extension(f"http://127.0.0.1:{recorder.port}")
    chance = random.Random(11)
    fixtures = [path for path in sorted((ROOT / "tests/fixtures").glob("*.json"))
                if path.with_suffix(".body").exists() and path.with_suffix(".body").stat().st_size < 200_000]
    yield extension
    for number in range(300 if PART else 7500):
        path = chance.choice(fixtures)
        recorded = json.loads(path.read_text())
        target, headers = target_and_headers(recorded)
        body = mutated(path.with_suffix(".body").read_bytes(), chance)
        if not any(target.endswith(end) for end in ("/traces", "/ingestion", "/scores")):
            continue
        status, _ = extension.ask("POST", target, body, headers)
        yield status in (200, 202, 207, 400, 413, 415), f"{path.name} mutated: {status}"
        if number % 50 == 0:
            yield post_span(extension, number) == 200, "a good span is acknowledged"


def target_and_headers(recorded):
    target = recorded.get("path") or recorded.get("target") or recorded["request_line"].split(" ")[1]
    given = recorded["headers"]
    pairs = given.items() if isinstance(given, dict) else [(it[0], it[1]) for it in given]
    wanted = ("content-type", "content-encoding")
    return target, {name: value for name, value in pairs if name.lower() in wanted}


def mutated(body, chance):
    body = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(body) or 1)
        match chance.randrange(4):
            case 0:
                body[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del body[at : at + chance.randint(1, 40)]
            case 2:
                body[at:at] = body[at : at + chance.randint(1, 40)]
            case 3:
                body[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
    return bytes(body)


CASES = [raw_requests, paths_behind_nginx, an_answer_that_echoes, a_loop, bombs, large_bodies, idle_and_slow_clients, mutated_bodies]


def main():
    print(f"{'case':24} {'alive':6} {'memory':>9}  {'books':6} verdicts")
    return 0 if all([stood(case) for case in CASES]) else 1


def stood(case):
    """Runs one case and prints its row."""
    name, run = case.__name__.replace("_", " "), case()
    extension = next(run, None)
    if extension is None:
        print(f"{name:24} skipped: nginx is not installed (`make attack-tools`)")
        return True
    try:
        verdicts = list(run)
        alive = extension.alive()
        memory = f"{extension.peak_bytes() >> 20} MiB" if alive else "-"
        balances = alive and extension.balances()
    finally:
        extension.end()
    wrong = [about for right, about in verdicts if not right]
    yes = {True: "yes", False: "no"}
    exact = f"{len(verdicts) - len(wrong)} of {len(verdicts)} exact"
    print(f"{name:24} {yes[alive]:6} {memory:>9}  {yes[balances]:6} {exact}", flush=True)
    for about in wrong[:5]:
        print(f"    wrong: {about}")
    return alive and balances and not wrong


if __name__ == "__main__":
    sys.exit(main())
