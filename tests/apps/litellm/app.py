"""LiteLLM with its langfuse_otel callback; the answers are mocked by LiteLLM itself, which has no flush."""

import litellm

from measured import handler_of

litellm.callbacks = ["langfuse_otel"]


def record(name):
    litellm.completion(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "Grüße?"}],
        mock_response="Servus.",
        metadata={"generation_name": name, "tags": ["a", "b"]},
    )


def trace():
    record("trace")


handler = handler_of({"trace": trace})
