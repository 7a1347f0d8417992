"""An extension in a few calls; a test's script says which it makes, and when."""

import http.client
import json
import os
import sys
import time

API = os.environ["AWS_LAMBDA_RUNTIME_API"]


def call(method, path, body=None, headers=None, to=API):
    """Status, headers and text of one request."""
    connection = http.client.HTTPConnection(to)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def say(*words):
    print(*words, flush=True)


class Extension:
    def __init__(self, *events, name=None):
        name = name or os.path.basename(sys.argv[0])
        status, headers, text = call(
            "POST",
            "/2020-01-01/extension/register",
            json.dumps({"events": events}),
            {"Lambda-Extension-Name": name},
        )
        self.status, self.text = status, text
        self.headers = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"] or "none"}
        say("register", status, text)

    def next(self):
        status, _, text = call("GET", "/2020-01-01/extension/event/next", None, self.headers)
        say("next", status, text)
        return status, text

    def event(self):
        return json.loads(self.next()[1])

    def subscribe(self, port, types=("platform",), schema="2022-12-13", path="/"):
        """Batches come after 25 ms."""
        body = {
            "schemaVersion": schema,
            "types": types,
            "buffering": {"timeoutMs": 25, "maxItems": 1000, "maxBytes": 262144},
            "destination": {"protocol": "HTTP", "URI": f"http://sandbox.localdomain:{port}{path}"},
        }
        status, _, text = call("PUT", "/2022-07-01/telemetry", json.dumps(body), self.headers)
        say("subscribe", status, text)
        return status

    def serve(self):
        """Asks for events until SHUTDOWN."""
        while self.event()["eventType"] != "SHUTDOWN":
            pass


def listen(*statuses):
    """Takes telemetry on a thread and prints it; answers these statuses first, then 200. Returns the port."""
    import http.server
    import threading

    answers = list(statuses)

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            batch = self.rfile.read(int(self.headers["Content-Length"])).decode()
            say("telemetry", batch)
            self.send_response(answers.pop(0) if answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]
