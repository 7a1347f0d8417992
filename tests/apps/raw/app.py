"""A function without an SDK: it speaks the Runtime API and posts what its event asks for, from the standard library.

The event is an object; every field is optional:
  tag        names the spans and scores, TAG-0, TAG-1, …; without it nothing is posted
  spans      spans of one whole trace, in one request (default 1); 0 posts none
  scores     scores, in one request (default 0)
  bytes      padding of the first span
  requests   this many such traces, one request each (default 1)
  work_s     sleeps before it answers
  late_s     posts from a thread, this long after the handler has answered
  get        a path of the extension to read; its answer is in the result
  repeat     posts again and again until the deadline, and never answers
  crash      ends the runtime after posting
The result tells of each request its path, status, milliseconds and answer; a line "posted TAG STATUS" tells of a trace at once.
"""

import base64
import http.client
import json
import os
import sys
import threading
import time
import uuid

API = os.environ["AWS_LAMBDA_RUNTIME_API"]
COLLECTOR = os.environ.get("COLLECTOR", "")
KEYS = os.environ.get("COLLECTOR_KEYS", "")
# What an SDK with a patient exporter would wait for one answer.
PATIENCE_S = 30


def call(to, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(to, timeout=None if to == API else PATIENCE_S)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def request(method, path, body=None):
    headers = {"Content-Type": "application/json", "x-langfuse-sdk-name": "raw"}
    if KEYS:
        headers["Authorization"] = "Basic " + base64.b64encode(KEYS.encode()).decode()
    started = time.monotonic()
    try:
        status, _, answer = call(COLLECTOR, method, path, body, headers)
        text = answer.decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        status, text = 0, repr(error)
    return {"path": path, "status": status, "ms": (time.monotonic() - started) * 1000, "answer": text}


def trace(tag, count, padding):
    trace_id, root = os.urandom(16).hex(), os.urandom(8).hex()
    now = time.time_ns()
    spans = []
    for number in range(count):
        span = {
            "traceId": trace_id,
            "spanId": root if number == 0 else os.urandom(8).hex(),
            "name": f"{tag}-{number}",
            "kind": 1,
            "startTimeUnixNano": str(now),
            "endTimeUnixNano": str(now + 1_000_000),
            "attributes": [{"key": "langfuse.observation.type", "value": {"stringValue": "span"}}],
        }
        if number > 0:
            span["parentSpanId"] = root
        elif padding:
            span["attributes"].append({"key": "padding", "value": {"stringValue": "x" * padding}})
        spans.append(span)
    scope = {"scope": {"name": "langfuse-sdk"}, "spans": spans}
    return json.dumps({"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [scope]}]})


def scores(tag, count):
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    batch = [
        {
            "id": str(uuid.uuid4()),
            "type": "score-create",
            "timestamp": moment,
            "body": {"id": str(uuid.uuid4()), "traceId": os.urandom(16).hex(), "name": f"{tag}-{number}", "value": 1},
        }
        for number in range(count)
    ]
    return json.dumps({"batch": batch, "metadata": {}})


def post(event):
    if "tag" not in event or not COLLECTOR:
        return []
    answers = []
    requests = event.get("requests", 1)
    for number in range(requests):
        tag = event["tag"] if requests == 1 else f"{event['tag']}-{number}"
        if event.get("spans", 1):
            body = trace(tag, event.get("spans", 1), event.get("bytes", 0))
            answers.append(request("POST", "/api/public/otel/v1/traces", body))
            print("posted", tag, answers[-1]["status"], flush=True)
        if event.get("scores"):
            answers.append(request("POST", "/api/public/ingestion", scores(tag, event["scores"])))
    return answers


def post_late(event):
    time.sleep(event["late_s"])
    print("late", json.dumps(post(event)), flush=True)


def handle(event):
    if "late_s" in event:
        threading.Thread(target=post_late, args=(event,), daemon=True).start()
        answers = []
    else:
        answers = post(event)
    count = 0
    while event.get("repeat"):
        count += 1
        post({**event, "tag": f"{event['tag']}-{count}"})
    if event.get("crash"):
        os._exit(1)
    time.sleep(event.get("work_s", 0))
    result = {"requests": answers}
    if "get" in event:
        result["got"] = request("GET", event["get"])
    return result


while True:
    _, headers, payload = call(API, "GET", "/2018-06-01/runtime/invocation/next")
    request_id = headers["Lambda-Runtime-Aws-Request-Id"]
    answer = json.dumps(handle(json.loads(payload)))
    call(API, "POST", f"/2018-06-01/runtime/invocation/{request_id}/response", answer)
