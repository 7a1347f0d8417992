#!/usr/bin/env python3
"""Langfuse under a name that only this test's DNS server knows: each binary has a resolver of its own C library in it.

Usage: make resolver
"""

import time
import unittest
from urllib.parse import urlsplit

import sandbox
from names import NAME, Mood, Names
from sandbox import Emulator, Rie
from scenario import HANDLER_LIMIT_MS, SHUTDOWN_LIMIT_SECONDS, Scenario

FLUSH_BUDGET_SECONDS = 2
EACH_LIMIT_SECONDS = 0.5  # An invocation without telemetry: what shows that the handler is done is that nothing more comes.


class Scenarios(Scenario):
    def setUp(self) -> None:
        super().setUp()
        self.names = Names()
        self.addCleanup(self.names.close)

    def address(self) -> str:
        return f"http://{NAME}:{urlsplit(self.langfuse.url).port}"

    def invoke_without_waiting(self, platform: sandbox.Platform, times: int) -> None:
        """The handler waits for no name, and the sandbox is held for one flush budget in all."""
        self.invoke(platform, spans=0)  # The cold start is not what is measured.
        started = time.monotonic()
        took_ms = [self.invoke(platform)["took_ms"] for _ in range(times)]
        self.assertLess(max(took_ms), HANDLER_LIMIT_MS)
        self.assertLess(time.monotonic() - started, FLUSH_BUDGET_SECONDS + times * EACH_LIMIT_SECONDS)

    def test_a_name_that_only_the_sandboxs_resolver_knows_is_found(self) -> None:
        platform = self.start()
        for _ in range(3):
            self.invoke(platform)
        platform.shut_down()
        self.assertGreater(self.names.asked, 0)
        self.assertEqual(len(self.langfuse.spans()), 9)
        self.assert_nothing_doubled()

    def test_a_name_that_does_not_exist_is_not_felt_and_delivery_follows_when_it_does(self) -> None:
        self.delivery_follows(Mood.DENIES)

    def test_a_resolver_that_never_answers_is_not_felt_and_delivery_follows_when_it_does(self) -> None:
        self.delivery_follows(Mood.MUTE)

    def delivery_follows(self, mood: Mood) -> None:
        self.names.mood = mood
        platform = self.start()
        self.invoke_without_waiting(platform, 4)
        self.assertEqual(self.langfuse.spans(), [])
        self.assertGreater(self.names.asked, 0)
        self.names.mood = Mood.ANSWERS
        platform.shut_down()
        self.assertEqual(len(self.langfuse.spans()), 12)
        self.assert_nothing_doubled()
        report = self.report(platform)
        self.assertEqual((report["accepted"], report["delivered"], report["dropped"]), (12, 12, 0), report)

    def test_a_name_that_never_exists_is_counted_at_shutdown(self) -> None:
        self.all_is_counted(Mood.DENIES)

    def test_a_resolver_that_never_answers_does_not_outlast_shutdown(self) -> None:
        self.all_is_counted(Mood.MUTE)

    def all_is_counted(self, mood: Mood) -> None:
        self.names.mood = mood
        platform = self.start()
        self.invoke_without_waiting(platform, 2)
        self.assertLess(platform.shut_down(), SHUTDOWN_LIMIT_SECONDS)
        report = self.report(platform)
        self.assertEqual((report["accepted"], report["delivered"], report["dropped"]), (6, 0, 0), report)
        self.assertEqual(report["spooled"], 6, report)
        self.assertEqual([line for line in platform.lines if "kill" in line.lower()], [], "it left by itself")


class OnAwsEmulator(Scenarios, unittest.TestCase):
    platform = Rie


class OnLambdaEmulator(Scenarios, unittest.TestCase):
    platform = Emulator


if __name__ == "__main__":
    sandbox.enter()
    sandbox.replace("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    unittest.main(verbosity=2)
