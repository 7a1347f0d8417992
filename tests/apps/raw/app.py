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
  poison     what the first span of the second request has in it: text ("DROP TABLE", for rules about content), no_value (an
             attribute without one), half (half a character)
  header     a value for the header x-tenant, changed with each request by a number at its end
The result tells of each request its path, status, milliseconds and answer. Of each at once: a line "posted TAG STATUS", and when
it was acknowledged "acknowledged spans NAME NAME …" or "acknowledged scores NAME NAME …".
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


# Attributes that harm more than the span they are in.
POISON = {
    "text": {"key": "langfuse.observation.input", "value": {"stringValue": "'; DROP TABLE users; --"}},
    "no_value": {"key": "langfuse.observation.input"},
    "half": {"key": "langfuse.observation.input", "value": {"stringValue": "\ud83d"}},
}


def request(method, path, body=None, extra=None):
    headers = {"Content-Type": "application/json", "x-langfuse-sdk-name": "raw", **(extra or {})}
    if KEYS:
        headers["Authorization"] = "Basic " + base64.b64encode(KEYS.encode()).decode()
    started = time.monotonic()
    try:
        status, _, answer = call(COLLECTOR, method, path, body, headers)
        text = answer.decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        status, text = 0, repr(error)
    return {"path": path, "status": status, "ms": (time.monotonic() - started) * 1000, "answer": text}


def trace(tag, count, padding, poison=None):
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
        if number == 0 and poison:
            span["attributes"].append(POISON[poison])
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
            poison = event.get("poison") if number == 1 else None
            body = trace(tag, event.get("spans", 1), event.get("bytes", 0), poison)
            extra = {"x-tenant": f"{event['header']}{number}"} if "header" in event else None
            answers.append(request("POST", "/api/public/otel/v1/traces", body, extra))
            acknowledged(answers[-1], "spans", tag, event.get("spans", 1))
            print("posted", tag, answers[-1]["status"], flush=True)
        if event.get("scores"):
            answers.append(request("POST", "/api/public/ingestion", scores(tag, event["scores"])))
            acknowledged(answers[-1], "scores", tag, event["scores"])
    return answers


def acknowledged(answer, kind, tag, count):
    if answer["status"] in (200, 207):
        print("acknowledged", kind, *(f"{tag}-{number}" for number in range(count)), flush=True)


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
