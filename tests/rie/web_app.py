"""The app of terraform/examples/container-fastapi, behind the Lambda Web Adapter: its settings, and requests as Lambda brings them."""

import json

from sandbox import Langfuse


def environment(langfuse: Langfuse, tracing: bool = True) -> dict[str, str]:
    """What the Terraform example sets, with the extension's keys given outright."""
    return {
        "AWS_LWA_PORT": "8080",
        "AWS_LWA_READINESS_CHECK_PATH": "/healthz",
        "AWS_LWA_INVOKE_MODE": "response_stream",
        "LANGFUSE_BASE_URL": "http://localhost:4318",
        "LANGFUSE_PUBLIC_KEY": langfuse.public_key,
        "LANGFUSE_SECRET_KEY": "filled-in-by-the-extension",
        "LANGFUSE_FLUSH_AT": "1",
        "LANGFUSE_OBSERVE_DECORATOR_IO_CAPTURE_ENABLED": "false",
        "LANGFUSE_TRACING_ENABLED": str(tracing).lower(),
        "LANGFUSE_EXTENSION_BASE_URL": langfuse.url,
        "LANGFUSE_EXTENSION_PUBLIC_KEY": langfuse.public_key,
        "LANGFUSE_EXTENSION_SECRET_KEY": langfuse.secret_key,
    }


def url_event(method: str, path: str, message: dict | None = None) -> dict:
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "local", "content-type": "application/json"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "local",
            "domainName": "local",
            "domainPrefix": "local",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test"},
            "requestId": "r",
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1767225600000,
        },
        "isBase64Encoded": False,
    }
    return event if message is None else event | {"body": json.dumps(message)}
