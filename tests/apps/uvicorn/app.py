"""A traced web app without a framework: each request is a span that is called like its path."""

from langfuse import Langfuse

langfuse = Langfuse()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    with langfuse.start_as_current_observation(as_type="span", name=scope["path"]) as span:
        span.update(output="ok")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
