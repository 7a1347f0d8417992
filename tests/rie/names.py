"""A DNS server of the tests' own on port 53, which knows one name, denies it, or never answers."""

from enum import Enum

from dnslib import QTYPE, RCODE, RR, A, DNSError, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

NAME = "langfuse.test"


class Mood(Enum):
    ANSWERS = "answers"
    DENIES = "denies"
    MUTE = "mute"


class Names(BaseResolver):
    """Counts what it is asked, in whatever mood."""

    def __init__(self) -> None:
        self.mood, self.asked = Mood.ANSWERS, 0
        self.server = DNSServer(self, address="127.0.0.1", port=53, logger=DNSLogger("-recv,-send,-request,-reply,-error"))
        self.server.start_thread()

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        is_known = request.q.qname.matchGlob(NAME)
        self.asked += is_known
        if self.mood is Mood.MUTE:
            raise DNSError("no answer is sent where resolving fails")
        reply = request.reply()
        if self.mood is Mood.DENIES or not is_known:
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype == QTYPE.A:
            reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A("127.0.0.1"), ttl=0))
        return reply

    def close(self) -> None:
        self.server.stop()
        self.server.server.server_close()
