"""A chat behind the Lambda Web Adapter: streamed answers, traced and scored, and nowhere a flush."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from langfuse import Langfuse, observe
from pydantic import BaseModel

# flush_at=1, because SDKs before 5 hold scores back for a second otherwise. The address and the keys come from the
# environment: the extension's address, and keys that it replaces by its own.
langfuse = Langfuse(flush_at=1)
app = FastAPI()
WORD_SECONDS = float(os.environ.get("WORD_SECONDS", "0.05"))


class Connection:
    """One of a pool's, which knows its pool and its neighbours, as drivers of databases have it."""

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.others: list[Connection] = []


class Pool:
    """Stands for a pool of database connections."""

    def __init__(self, connections: int) -> None:
        self.connections = [Connection(self) for _ in range(connections)]
        for connection in self.connections:
            connection.others = self.connections

    async def members(self) -> list[str]:
        return ["Ada", "Grace", "Edsger"]


pool = Pool(connections=int(os.environ.get("POOL_CONNECTIONS", "10")))


class Question(BaseModel):
    message: str


@app.get("/healthz")
async def healthz() -> dict:
    """What the Web Adapter waits for before it lets the first request in."""
    return {"ok": True}


@app.post("/chat")
async def chat(question: Question, background: BackgroundTasks) -> StreamingResponse:
    background.add_task(remember, question.message)
    return StreamingResponse(events(question.message), media_type="text/event-stream")


async def events(message: str) -> AsyncIterator[str]:
    """Server-sent events: each word as it comes, then the id of the trace."""
    with langfuse.start_as_current_observation(name="chat", input=message) as chat_span:
        words = []
        with langfuse.start_as_current_observation(name="answer", as_type="generation", model="example", input=message) as answer:
            async for word in generate(message):
                words.append(word)
                yield f"data: {json.dumps({'word': word})}\n\n"
            answer.update(output=" ".join(words), usage_details={"input": len(message.split()), "output": len(words)})
        chat_span.update(output=" ".join(words))
        chat_span.score_trace(name="words", value=float(len(words)))
        yield f"data: {json.dumps({'trace_id': chat_span.trace_id})}\n\n"


async def generate(message: str) -> AsyncIterator[str]:
    """Stands for a model that streams, so that the example needs no account of one."""
    for word in f"You said: {message}".split():
        await asyncio.sleep(WORD_SECONDS)
        yield word


@observe(name="remember")
async def remember(message: str) -> None:
    """Runs once the answer is out."""
    await asyncio.sleep(WORD_SECONDS)


# Before langfuse 4.7.0 a decorated handler must not capture what it is called with: a pool of connections among its
# arguments is serialised attribute by attribute, which never ends. No extension can mend that from outside, but
# LANGFUSE_OBSERVE_DECORATOR_IO_CAPTURE_ENABLED=false does.
@app.get("/team")
@observe()
async def team(database: Annotated[Pool, Depends(lambda: pool)]) -> dict:
    langfuse.score_current_trace(name="members", value=3.0)
    return {"members": await database.members(), "trace_id": langfuse.get_current_trace_id()}
