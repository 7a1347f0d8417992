"""A function traced with langfuse-python: a trace of four spans, one of them a generation, and two scores."""

import json
import time
import uuid

from langfuse import Langfuse

MODEL_SECONDS = 0.02

# LANGFUSE_FLUSH_AT is for spans alone before langfuse-python 5; scores go at once if the constructor is told.
langfuse = Langfuse(flush_at=1)


def handler(event, _context):
    sent = answer(event["question"])
    # Said before the flush, so that it is known what was sent even where Lambda kills the function inside it.
    print(json.dumps(sent), flush=True)
    if event["flush"]:
        langfuse.flush()
    return {"answer": "42"}


def answer(question):
    """Traces one answer, and returns the ids of its spans and scores."""
    scores = [uuid.uuid4().hex, uuid.uuid4().hex]
    with langfuse.start_as_current_observation(name="answer", input=question) as root:
        with langfuse.start_as_current_observation(name="retrieve") as retrieve:
            with langfuse.start_as_current_observation(name="rank") as rank:
                rank.update(output=["page 1", "page 2"])
        with langfuse.start_as_current_observation(
            as_type="generation", name="generate", model="gpt-4o-mini", input=question
        ) as generation:
            time.sleep(MODEL_SECONDS)
            generation.update(output="42", usage_details={"input": 12, "output": 1})
            generation.score(name="relevance", value=0.9, score_id=scores[0])
        root.update(output="42")
        root.score_trace(name="helpful", value=1, data_type="BOOLEAN", score_id=scores[1])
    spans = [f"{span.trace_id}/{span.id}" for span in (root, retrieve, rank, generation)]
    return {"spans": spans, "scores": scores}
