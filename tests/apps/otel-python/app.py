"""OpenTelemetry for Python by itself: nothing of Langfuse's but its address and keys."""

from opentelemetry import trace as api
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from measured import handler_of

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
tracer = provider.get_tracer("shop", "1.2.3")


def record(name):
    with tracer.start_as_current_span(
        name, attributes={"langfuse.trace.name": name, "n": 2**53, "half": 0.5, "list": ["a", "b"]}
    ):
        with tracer.start_as_current_span(
            f"{name}-generation",
            kind=SpanKind.CLIENT,
            attributes={"gen_ai.request.model": "gpt-4o-mini", "gen_ai.prompt": "Grüße?"},
            links=[api.Link(api.SpanContext(0x1234, 0x56, is_remote=True))],
        ) as generation:
            generation.add_event("first token", {"index": 0})
            generation.set_status(Status(StatusCode.ERROR, "cut off"))


def trace():
    record("trace")


def flush():
    record("flush")
    provider.force_flush()


def shutdown():
    record("shutdown")
    provider.shutdown()


handler = handler_of({feature.__name__: feature for feature in (trace, flush, shutdown)})
