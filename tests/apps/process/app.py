"""A process without an SDK, as `langfuse-extension run` starts it: posts one span at a time, and says each that was acknowledged.

Usage: app.py TAG COUNT [AFTERWARDS]

The spans are called TAG-0, TAG-1, …; where to, LANGFUSE_BASE_URL says. AFTERWARDS is what it does then:
  exit:N     ends with this status (the default is exit:0)
  term       waits for SIGTERM, posts TAG-last, and ends
  ignore     ignores SIGTERM and goes on posting, for ever
  fork       leaves a child of a child behind that posts TAG-orphan and ends, and waits for SIGTERM
Lines on standard output: "pid N", "acked NAME", "refused NAME ERROR", "ready" after the COUNT, "term" at SIGTERM.
"""

import base64
import json
import os
import signal
import sys
import time
import urllib.request

URL = os.environ.get("LANGFUSE_BASE_URL", "") + "/api/public/otel/v1/traces"
KEYS = f"{os.environ.get('LANGFUSE_PUBLIC_KEY')}:{os.environ.get('LANGFUSE_SECRET_KEY')}"


def say(*words):
    os.write(1, (" ".join(words) + "\n").encode())


def post(name):
    now = time.time_ns()
    span = {
        "traceId": os.urandom(16).hex(),
        "spanId": os.urandom(8).hex(),
        "name": name,
        "kind": 1,
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 1),
    }
    spans = {"resourceSpans": [{"scopeSpans": [{"scope": {"name": "raw"}, "spans": [span]}]}]}
    authorization = "Basic " + base64.b64encode(KEYS.encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": authorization}
    try:
        with urllib.request.urlopen(urllib.request.Request(URL, json.dumps(spans).encode(), headers), timeout=30) as answer:
            answer.read()
        say("acked", name)
        return True
    except OSError as error:
        say("refused", name, repr(error))
        return False


def main(tag, count, afterwards="exit:0"):
    terminated = []
    signal.signal(signal.SIGTERM, lambda *_: (terminated.append(True), say("term")))
    say("pid", str(os.getpid()))
    if afterwards == "fork" and os.fork() == 0:
        if os.fork() == 0:
            post(f"{tag}-orphan")
        os._exit(0)
    for number in range(int(count)):
        post(f"{tag}-{number}")
    say("ready")
    if afterwards.startswith("exit:"):
        os._exit(int(afterwards[5:]))
    number = int(count)
    while afterwards == "ignore":
        post(f"{tag}-{number}")
        number += 1
        time.sleep(0.05)
    while not terminated:
        signal.pause()
    post(f"{tag}-last")


if __name__ == "__main__":
    main(*sys.argv[1:])
