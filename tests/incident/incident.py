#!/usr/bin/env python3
"""The incident that this extension was written for, end to end: FastAPI behind the Lambda Web Adapter, langfuse 4.0.6.

Runs the app of terraform/examples/container-fastapi under lambda-emulator and under AWS's own emulator, with Langfuse
healthy, hung and down, checks what must hold, and writes the figures into docs/incident.md. Usage: make incident
"""

import json
import os
import platform as machine
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "rie"))
import sandbox  # noqa: E402
from sandbox import ROOT, Emulator, Langfuse, Rie  # noqa: E402
from web_app import environment, url_event  # noqa: E402

APP = ROOT / "terraform/examples/container-fastapi/app/app.py"
RUN = ROOT / "tests/apps/fastapi-lwa/run.sh"
PAGE = ROOT / "docs/incident.md"
ROUNDS = 6  # Each asks /team and /chat once.
PAUSE_SECONDS = 0.4  # Long enough that everything is frozen before the next request.
QUESTION = "where did my sixty seconds go"
SPANS_PER_ROUND, SCORES_PER_ROUND = 4, 2  # /chat: chat, answer, remember; /team: team. A score each.
# Of the fastest requests, because the machine is shared: whoever waits for Langfuse waits each time, and for seconds.
RATIO_LIMIT, SLOWER_LIMIT_MS = 1.5, 150
DELIVERY_LIMIT_SECONDS = 15
SEND_LIMIT_SECONDS = 130
CASES = {"tracing off": None, "healthy": [], "hung": [Langfuse.HUNG], "down": [Langfuse.DOWN]}
# What is sent after each invocation, as sparse traffic has it, and not with the next ones.
AT_END = "healthy, sent at the end of each"
TIMINGS = ("team", "chat_first", "chat")


@dataclass
class Result:
    """Milliseconds of each request, and what Langfuse had in the end."""

    team: list[float] = field(default_factory=list)
    chat_first: list[float] = field(default_factory=list)
    chat: list[float] = field(default_factory=list)
    spans: int = 0
    scores: int = 0
    doubled: int = 0
    before_freeze: int = 0
    at_thaw: int = 0
    late_names: set[str] = field(default_factory=set)
    report: dict = field(default_factory=dict)

    def median(self, timing: str) -> float:
        return statistics.median(getattr(self, timing))

    def fastest(self, timing: str) -> float:
        return min(getattr(self, timing))


def main() -> None:
    results = {}
    for platform in (Emulator, Rie):
        for case, faults in CASES.items():
            results[platform.name, case] = result = measure(platform, faults)
            print(f"{platform.name}, Langfuse {case}: {summary(result)}", flush=True)
            check(case, result)
        for case in ("healthy", "hung", "down"):
            compare(platform, case, results[platform.name, case], results[platform.name, "tracing off"])
    results[Emulator.name, AT_END] = result = measure(Emulator, [], LANGFUSE_EXTENSION_FLUSH="end")
    print(f"{Emulator.name}, Langfuse {AT_END}: {summary(result)}", flush=True)
    check(AT_END, result)
    before = {case: flush_directly(faults) for case, faults in CASES.items() if faults is not None}
    capture = [(version, connections, capture_once(version, connections)) for version in ("4.0.6", "4.7.0") for connections in (1, 4, 6, 8)]
    write(results, before, capture)


def measure(platform: type[sandbox.Platform], faults: list | None, **settings: str) -> Result:
    langfuse = Langfuse()
    sandbox.lay_out_task(RUN, APP)
    options = {"freeze": "auto", "telemetry": True} if platform is Emulator else {}
    running = platform(sandbox.BOOTSTRAP, environment(langfuse, faults is not None) | local() | settings, extra=sandbox.ADAPTER, **options)
    timeline = Path(running.tmp) / "timeline.json"
    result = Result()
    try:
        warm_up(running)
        langfuse.fail(*(faults or []))
        for _ in range(ROUNDS):
            ask = ask_url if platform is Emulator else ask_rie
            ask(running, result)
        langfuse.heal()
        running.shut_down()
        (result.report,) = running.of_extension("langfuse-extension report")
        result.spans, result.scores = len(langfuse.spans()), len(langfuse.scores())
        result.doubled = sum(count - 1 for count in counts(langfuse).values())
        if platform is Emulator:
            place_arrivals(json.loads(timeline.read_text()), langfuse, result)
    except Exception:
        running.process.send_signal(running.ends_by)
        time.sleep(3)
        print(*running.lines[-80:], sep="\n")
        if timeline.exists():
            print(*json.loads(timeline.read_text())[-40:], sep="\n")
        raise
    finally:
        running.close()
        langfuse.close()
    return result


def local() -> dict[str, str]:
    """What this machine's app is started by, on a port that is free here."""
    return {"APP_PYTHON": os.environ["APP_PYTHON"], "AWS_LWA_PORT": "8000"}


def warm_up(running: sandbox.Platform) -> None:
    """The cold start is not what is compared. It asks for something that is not traced."""
    status, answer = running.invoke(url_event("GET", "/healthz"))
    assert status == 200, answer


def ask_url(_: sandbox.Platform, result: Result) -> None:
    """By function URL, as a browser does: when the first and the last byte came."""
    first, whole, body = get("http://127.0.0.1:8080/team")
    assert b"Ada" in body, body
    result.team.append(whole)
    time.sleep(PAUSE_SECONDS)
    first, whole, body = get("http://127.0.0.1:8080/chat", {"message": QUESTION})
    assert body.count(b"data: ") == len(QUESTION.split()) + 3, body
    result.chat_first.append(first)
    result.chat.append(whole)
    time.sleep(PAUSE_SECONDS)


def get(url: str, message: dict | None = None) -> tuple[float, float, bytes]:
    data = None if message is None else json.dumps(message).encode()
    started = time.monotonic()
    with sandbox.direct.open(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=60) as answer:
        body = answer.read(1)
        first = time.monotonic() - started
        body += answer.read()
    return first * 1000, (time.monotonic() - started) * 1000, body


def ask_rie(running: sandbox.Platform, result: Result) -> None:
    """By the invoke call. AWS's emulator holds its caller until all extensions are done, so its own figure is taken."""
    for event, timings, sign in (
        (url_event("GET", "/team"), result.team, "Ada"),
        (url_event("POST", "/chat", {"message": QUESTION}), result.chat, "trace_id"),
    ):
        already = len(runtimes_done(running))
        status, answer = running.invoke(event)
        assert status == 200 and sign in str(answer), answer
        limit = time.monotonic() + sandbox.END_LIMIT_SECONDS
        while len(runtimes_done(running)) == already and time.monotonic() < limit:
            time.sleep(0.01)  # Its log may be read later than its answer.
        assert len(runtimes_done(running)) == already + 1
        done = runtimes_done(running)[-1]
        timings.append(float(done.split("duration: ")[1].removesuffix("ms)")))
    result.chat_first.append(float("nan"))  # It buffers streams.


def runtimes_done(running: sandbox.Platform) -> list[str]:
    return [line for line in running.lines if "INVOKE RTDONE(status: success" in line]


def counts(langfuse: Langfuse) -> dict[str, int]:
    ids = [span["span_id"] for span in langfuse.spans()] + [score["body"]["id"] for score in langfuse.scores()]
    return {one: ids.count(one) for one in ids}


def place_arrivals(timeline: list[dict], langfuse: Langfuse, result: Result) -> None:
    """Whether each span reached Langfuse before the freeze that followed it, or only after a thaw."""
    freezes = [entry["unix_ms"] for entry in timeline if entry["event"] == "frozen"]
    arrived = {request["sequence"]: request["arrived_at"] * 1000 for request in langfuse.ask("GET", "/requests")}
    for span in langfuse.spans():
        ended = int(span["span"]["endTimeUnixNano"]) / 1e6
        frozen = next((freeze for freeze in freezes if freeze >= ended), float("inf"))
        if arrived[span["request"]] <= frozen:
            result.before_freeze += 1
        else:
            result.at_thaw += 1
            result.late_names.add(span["name"])


def check(case: str, result: Result) -> None:
    expected = (0, 0) if case == "tracing off" else (ROUNDS * SPANS_PER_ROUND, ROUNDS * SCORES_PER_ROUND)
    assert (result.spans, result.scores) == expected, (result.spans, result.scores, expected)
    assert result.doubled == 0, result.doubled
    assert result.report["dropped"] == 0 or case == "tracing off", result.report


def compare(platform: type[sandbox.Platform], case: str, on: Result, off: Result) -> None:
    for timing in ratios(platform):
        ratio = on.fastest(timing) / off.fastest(timing)
        slower_ms = on.fastest(timing) - off.fastest(timing)
        assert ratio < RATIO_LIMIT or slower_ms < SLOWER_LIMIT_MS, (platform.name, case, timing, ratio, slower_ms)


def ratios(platform: type[sandbox.Platform]) -> tuple[str, ...]:
    return TIMINGS if platform is Emulator else ("team", "chat")


def flush_directly(faults: list) -> float:
    """What a handler waits that flushes to Langfuse itself: one span, one score, the SDK's own settings."""
    langfuse = Langfuse()
    langfuse.fail(*faults)
    env = {
        "LANGFUSE_BASE_URL": langfuse.url,
        "LANGFUSE_PUBLIC_KEY": langfuse.public_key,
        "LANGFUSE_SECRET_KEY": langfuse.secret_key,
    }
    program = """
import os, time, langfuse
client = langfuse.Langfuse()
with client.start_as_current_observation(name="request") as span:
    span.score_trace(name="quality", value=1.0)
started = time.monotonic()
client.flush()
print(time.monotonic() - started, flush=True)
os._exit(0)
"""
    try:
        done = subprocess.run(
            [os.environ["APP_PYTHON"], "-c", program], env=env, capture_output=True, text=True, timeout=SEND_LIMIT_SECONDS
        )
        return float(done.stdout.splitlines()[-1])
    finally:
        langfuse.close()


CAPTURE_LIMIT_SECONDS = 10


def capture_once(version: str, connections: int) -> tuple[float | None, int]:
    """Seconds that `@observe` takes to capture a pool of connections (none: more than the limit), with no network at all,
    and the bytes that it makes of it."""
    program = """
import sys, time
sys.path.insert(0, "/var/task")
from langfuse import Langfuse, observe
from opentelemetry.sdk.trace.export import SpanExportResult
import langfuse._client.span_processor as processor
sizes = []
class Nowhere:
    def __init__(self, *_, **__): pass
    def export(self, spans):
        sizes.extend(len(str(value)) for span in spans for value in span.attributes.values())
        return SpanExportResult.SUCCESS
    def shutdown(self): pass
    def force_flush(self, timeout_millis=0): return True
processor.OTLPSpanExporter = Nowhere
client = Langfuse(public_key="pk", secret_key="sk", base_url="http://127.0.0.1:9")
import app
@observe()
def team(database): return 1
started = time.monotonic()
team(database=app.Pool(int(sys.argv[1])))
took = time.monotonic() - started
client.flush()
import os
print(took, sum(sizes), flush=True)
os._exit(0)
"""
    python = os.environ["APP_PYTHON" if version == "4.0.6" else "NEWER_PYTHON"]
    try:
        done = subprocess.run(
            [python, "-c", program, str(connections)],
            env={"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": "sk", "LANGFUSE_BASE_URL": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
            timeout=CAPTURE_LIMIT_SECONDS + 2,
        )
    except subprocess.TimeoutExpired:
        return None, 0
    assert done.returncode == 0, done.stderr
    seconds, size = done.stdout.split()
    return float(seconds), int(size)


def summary(result: Result) -> str:
    return (
        f"team {result.median('team'):.0f} ms, chat {result.median('chat_first'):.0f} … {result.median('chat'):.0f} ms, "
        f"{result.spans} spans ({result.before_freeze} before the freeze, {result.at_thaw} later: {', '.join(sorted(result.late_names)) or 'none'}), {result.scores} scores, "
        f"{result.doubled} doubled"
    )


def write(results: dict, before: dict, capture: list) -> None:
    figures = "\n".join(["", *figures_of(results, before, capture), ""])
    start, end = "<!-- figures: make incident -->", "<!-- end of figures -->"
    page = PAGE.read_text()
    head, rest = page.split(start)
    PAGE.write_text(head + start + "\n" + figures + "\n" + end + rest.split(end)[1])
    print(figures)


def figures_of(results: dict, before: dict, capture: list) -> list[str]:
    day = time.strftime("%Y-%m-%d")
    lines = [f"Measured on {day} by `make incident`: {os.cpu_count()} CPUs, {machine.machine()}, Linux {machine.release().split('-')[0]}, shared with other work."]
    lines += ["", "**A handler that flushes to Langfuse itself** (langfuse 4.0.6, one span, one score):", ""]
    lines += ["| Langfuse | `flush()` returns after |", "|---|---|"]
    lines += [f"| {case} | {seconds:.1f} s |" for case, seconds in before.items()]
    lines += ["", f"**The app behind the extension** (medians of {ROUNDS} requests; in brackets ÷ tracing off: the medians; the fastest):", ""]
    lines += ["| platform | Langfuse | `/team` | `/chat`, first byte | `/chat`, last byte | spans | scores | doubled |", "|---|---|---|---|---|---|---|---|"]
    for (name, case), result in results.items():
        off = results[name, "tracing off"]
        cells = []
        for timing in TIMINGS:
            value = result.median(timing)
            cells.append("buffered" if value != value else f"{value:.1f} ms ({value / off.median(timing):.2f}; {result.fastest(timing) / off.fastest(timing):.2f})")
        expected = 0 if case == "tracing off" else ROUNDS
        wanted = f"{result.spans} of {expected * SPANS_PER_ROUND} | {result.scores} of {expected * SCORES_PER_ROUND}"
        lines.append(f"| {name} | {case} | {' | '.join(cells)} | {wanted} | {result.doubled} |")
    dense, ended = results[Emulator.name, "healthy"], results[Emulator.name, AT_END]
    lines += [
        "",
        f"**When spans reach Langfuse**, roots, the generator's and the background task's included: of {ended.spans} sent at the end of each "
        f"invocation, {ended.before_freeze} before the sandbox was frozen, {ended.at_thaw} at the next thaw "
        f"({', '.join(sorted(ended.late_names)) or 'none'}). Of {dense.spans} in traffic as dense as here, {dense.before_freeze}; the other "
        f"{dense.at_thaw} overlapped later requests, so that none of them held the sandbox.",
        "",
        "**What `@observe` does to a handler whose argument is a pool of connections**, on its own, without any network:",
        "",
        "| connections in the pool | langfuse 4.0.6 | langfuse 4.7.0 |",
        "|---|---|---|",
    ]
    cells = {(version, connections): cell(*found) for version, connections, found in capture}
    for connections in sorted({connections for _, connections in cells}):
        lines.append(f"| {connections} | {cells['4.0.6', connections]} | {cells['4.7.0', connections]} |")
    return lines


def cell(seconds: float | None, size: int) -> str:
    return f"more than {CAPTURE_LIMIT_SECONDS} s (stopped)" if seconds is None else f"{seconds * 1000:.1f} ms, {size / 1000:.1f} kB"


if __name__ == "__main__":
    sandbox.enter()
    main()
