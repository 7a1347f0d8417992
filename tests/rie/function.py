#!/usr/bin/env python3
"""A function without a runtime library: asks Lambda's Runtime API for work, posts spans to the extension, answers.

A payload such as {"spans": 2, "late_spans": 1} says what to post within the handler, and what right after the answer, as a
background task would. The answer says how long the handler took, and who was there when the runtime started.
"""

import json
import os
import threading
import time
import urllib.error
import urllib.request

RUNTIME = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
EXTENSION = os.environ.get("LANGFUSE_BASE_URL", "http://localhost:4318")
LATE_SECONDS = 0.03
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main() -> None:
    extension_was_there = bool(status())
    while True:
        with direct.open(f"{RUNTIME}/next") as invocation:
            request_id = invocation.headers["Lambda-Runtime-Aws-Request-Id"]
            deadline_ms = int(invocation.headers["Lambda-Runtime-Deadline-Ms"])
            work = json.load(invocation)
        answer = handle(work)
        answer |= {
            "extension_was_there": extension_was_there,
            "seconds_left": deadline_ms / 1000 - time.time(),
            "request_id": request_id,
        }
        if work.get("late_spans"):
            threading.Thread(target=post_late, args=(work["late_spans"],)).start()
        post(f"{RUNTIME}/{request_id}/response", json.dumps(answer).encode())


def handle(work: dict) -> dict:
    started = time.monotonic()
    for _ in range(work.get("spans", 0)):
        send_span("in the handler")
    took = time.monotonic() - started
    return {"took_ms": took * 1000, "status": status()}


def post_late(spans: int) -> None:
    time.sleep(LATE_SECONDS)
    for _ in range(spans):
        send_span("after the answer")


def send_span(name: str) -> None:
    now = time.time_ns()
    span = {
        "traceId": os.urandom(16).hex(),
        "spanId": os.urandom(8).hex(),
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 1),
    }
    body = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "function"}, "spans": [span]}]}]}
    post(f"{EXTENSION}/v1/traces", json.dumps(body).encode())


def status() -> dict:
    with direct.open(f"{EXTENSION}/status", timeout=2) as answer:
        return json.load(answer)


def post(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        direct.open(request, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # An SDK logs a refusal and goes on.


if __name__ == "__main__":
    main()
