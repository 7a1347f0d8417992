"""The half of the incident that no network is part of: @observe captures an argument that holds a connection pool."""

import asyncio

import asyncpg
from langfuse import Langfuse, observe

langfuse = Langfuse()


async def unconnected_pool():
    return await asyncpg.create_pool("postgresql://demo@127.0.0.1:1/demo", min_size=0, max_size=2)


pool = asyncio.new_event_loop().run_until_complete(unconnected_pool())


@observe()
def read_team(database):
    return "the team"


def handler(_event, _context):
    team = read_team(pool)
    langfuse.flush()
    return team
