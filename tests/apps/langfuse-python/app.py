"""Everything an app does with Langfuse's Python SDK, from 3 to 5."""

import os

from langfuse import Langfuse
from langfuse.media import LangfuseMedia

from measured import handler_of

# Up to version 4 the SDK reads LANGFUSE_FLUSH_AT for spans alone; scores go at once only if the constructor is told.
langfuse = Langfuse(flush_at=1) if os.environ.get("APP_SCORES_AT_ONCE") else Langfuse()


def record(name, picture=None):
    """A span over a generation, and a score of each kind."""
    with langfuse.start_as_current_observation(as_type="span", name=name, input={"question": "Grüße?", "n": 2**53}) as span:
        with langfuse.start_as_current_observation(
            as_type="generation",
            name=f"{name}-generation",
            model="gpt-4o-mini",
            model_parameters={"temperature": 0.5},
            input=[{"role": "user", "content": "Grüße?"}],
            metadata={"tags": ["a", "b"], "nested": {"deep": None}},
        ) as generation:
            generation.update(output="Servus.", usage_details={"input": 7, "output": 3}, cost_details={"total": 0.0001})
            generation.score(name=f"{name}-quality", value=0.75, comment="fine")
        span.update(output={"answer": "Servus.", "picture": picture})
        langfuse.create_score(
            name=f"{name}-verdict", value="good", data_type="CATEGORICAL", trace_id=span.trace_id
        )


def trace():
    record("trace")


def flush():
    record("flush")
    langfuse.flush()


def media():
    record("media", LangfuseMedia(content_bytes=b"\x89PNG fixed content", content_type="image/png"))
    langfuse.flush()


def prompt():
    return langfuse.get_prompt("movie critic/v2 ä").compile(movie="Metropolis")


def fallback():
    return langfuse.get_prompt("not there", fallback="Use {{what}}.").compile(what="this")


def auth():
    return langfuse.auth_check()


def shutdown():
    record("shutdown")
    langfuse.shutdown()


handler = handler_of({feature.__name__: feature for feature in (trace, flush, media, prompt, fallback, auth, shutdown)})
