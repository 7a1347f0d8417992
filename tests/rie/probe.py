#!/usr/bin/env python3
"""An extension that asks Lambda's APIs for right and wrong things and writes down what it was answered.

What differs from run to run (ids, times) is left out, so that two platforms can be compared line by line.
"""

import json
import os
import http.client
from pathlib import Path

API = os.environ["AWS_LAMBDA_RUNTIME_API"]
NAME = Path(__file__).name
REGISTER = "/2020-01-01/extension/register"
NEXT = "/2020-01-01/extension/event/next"
TELEMETRY = "/2022-07-01/telemetry"
BOTH = {"events": ["INVOKE", "SHUTDOWN"]}
SUBSCRIPTION = {
    "schemaVersion": "2022-12-13",
    "types": ["platform"],
    "buffering": {"timeoutMs": 25, "maxItems": 1000, "maxBytes": 262144},
    "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:9100/"},
}
transcript: dict[str, object] = {}


def main() -> None:
    note("next before registering", "GET", NEXT)
    note("next with an unknown id", "GET", NEXT, identifier="00000000-0000-4000-8000-000000000000")
    note("register without a name", "POST", REGISTER, BOTH)
    note("register under another name", "POST", REGISTER, BOTH, name="somebody-else")
    note("register for an unknown event", "POST", REGISTER, {"events": ["LUNCH"]}, name=NAME)
    identifier = note("register", "POST", REGISTER, BOTH, name=NAME)
    note("register twice", "POST", REGISTER, BOTH, name=NAME)
    note("subscribe", "PUT", TELEMETRY, SUBSCRIPTION, identifier=identifier)
    note("subscribe without an id", "PUT", TELEMETRY, SUBSCRIPTION)
    note("an unknown path", "GET", "/2020-01-01/extension/nowhere", identifier=identifier)
    note("exit error without a type", "POST", "/2020-01-01/extension/exit/error", {}, identifier="nobody")
    note("first event", "GET", NEXT, identifier=identifier)
    note("register after init", "POST", REGISTER, BOTH, name=NAME)
    note("subscribe after init", "PUT", TELEMETRY, SUBSCRIPTION, identifier=identifier)
    note("second event", "GET", NEXT, identifier=identifier)
    (Path(os.environ["PROBE_DIR"]) / "transcript.json").write_text(json.dumps(transcript))


def note(what: str, method: str, path: str, body: object = None, name: str | None = None, identifier: str | None = None) -> str | None:
    headers = {"Content-Type": "application/json"}
    headers |= {"Lambda-Extension-Name": name} if name else {}
    headers |= {"Lambda-Extension-Identifier": identifier} if identifier else {}
    connection = http.client.HTTPConnection(API)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    transcript[what] = [answer.status, outline(answer.read())]
    found = answer.getheader("Lambda-Extension-Identifier")
    connection.close()
    return found


def outline(body: bytes) -> object:
    """Error and event types as they are; of other values only that they are there."""
    try:
        answer = json.loads(body)
    except ValueError:
        return "no JSON" if body.strip() != b"OK" else "OK"
    if not isinstance(answer, dict):
        return type(answer).__name__
    return {key: value if key in ("errorType", "eventType") else type(value).__name__ for key, value in sorted(answer.items())}


if __name__ == "__main__":
    main()
