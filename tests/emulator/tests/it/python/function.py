"""A runtime in a few calls."""

import http.client
import os
import sys
import time

API = os.environ["AWS_LAMBDA_RUNTIME_API"]


def say(*words):
    print(*words, flush=True)


def call(method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(API)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def next_invocation():
    """Request id, payload and headers."""
    _, headers, text = call("GET", "/2018-06-01/runtime/invocation/next")
    return headers["Lambda-Runtime-Aws-Request-Id"], text, headers


def respond(request_id, payload, headers=None):
    return call("POST", f"/2018-06-01/runtime/invocation/{request_id}/response", payload, headers)[0]


def fail(request_id, payload, error_type="Function.Error"):
    path = f"/2018-06-01/runtime/invocation/{request_id}/error"
    return call("POST", path, payload, {"Lambda-Runtime-Function-Error-Type": error_type})[0]


def serve(handler=lambda payload: payload, afterwards=lambda: None):
    while True:
        request_id, payload, _ = next_invocation()
        respond(request_id, handler(payload))
        afterwards()


class Stream:
    """A streamed response: parts, and perhaps trailers that tell of an error."""

    def __init__(self, request_id):
        self.connection = http.client.HTTPConnection(API)
        self.connection.putrequest("POST", f"/2018-06-01/runtime/invocation/{request_id}/response")
        self.connection.putheader("Lambda-Runtime-Function-Response-Mode", "streaming")
        self.connection.putheader("Transfer-Encoding", "chunked")
        self.connection.putheader("Trailer", "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body")
        self.connection.endheaders()

    def part(self, data):
        self.connection.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self, trailers=()):
        lines = b"".join(b"%s: %s\r\n" % trailer for trailer in trailers)
        self.connection.send(b"0\r\n" + lines + b"\r\n")
        return self.connection.getresponse().status
