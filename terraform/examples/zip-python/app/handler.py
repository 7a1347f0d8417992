"""A traced function: a generation inside a span, and a score. There is no flush: the extension sends."""

import os
import time

from langfuse import Langfuse, observe

# flush_at=1, because SDKs before 5 hold scores back for a second otherwise. The address and the keys come from the
# environment: the extension's address, and keys that it replaces by its own.
langfuse = Langfuse(flush_at=1)


def handler(event: dict, context: object) -> dict:
    """`question` is answered; `trace_id` names the trace (optional); `sleep_seconds` lets the function run into its timeout."""
    answer = answer_question(event.get("question", "What is an extension?"), langfuse_trace_id=event.get("trace_id"))
    time.sleep(event.get("sleep_seconds", 0))
    return answer


@observe()
def answer_question(question: str) -> dict:
    answer = generate(question)
    langfuse.score_current_trace(name="length", value=float(len(answer)))
    return {"answer": answer, "trace_id": langfuse.get_current_trace_id()}


@observe(as_type="generation")
def generate(question: str) -> str:
    """Stands for the call of a model, so that the example needs no account of one."""
    answer = f"{question} A program that Lambda starts beside the function."
    langfuse.update_current_generation(
        model=os.environ.get("MODEL", "example"), usage_details={"input": len(question), "output": len(answer)}
    )
    return answer
