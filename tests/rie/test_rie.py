#!/usr/bin/env python3
"""The core scenarios on AWS's own emulator, and on this project's, which must agree with it.

Usage: make rie
"""

import json
import statistics
import tempfile
import time
import unittest
from pathlib import Path

import sandbox
from sandbox import Emulator, Langfuse, Rie
from scenario import HANDLER_LIMIT_MS, HERE, SHUTDOWN_LIMIT_SECONDS, Scenario

SPAN_LIMIT_SECONDS = 3


class Scenarios(Scenario):
    def test_the_extension_is_registered_and_listening_before_the_runtime_starts(self) -> None:
        platform = self.start()
        self.assertTrue(self.invoke(platform)["extension_was_there"])
        platform.shut_down()

    def test_a_healthy_langfuse_has_every_span_and_shutdown_ends_at_once(self) -> None:
        platform = self.start()
        times = [self.invoke(platform)["took_ms"] for _ in range(10)]
        self.assertLess(max(times), HANDLER_LIMIT_MS)
        took = platform.shut_down()
        self.assertEqual(len(self.langfuse.spans()), 30)
        self.assert_nothing_doubled()
        report = self.report(platform)
        self.assertEqual((report["accepted"], report["delivered"], report["dropped"]), (30, 30, 0), report)
        self.assertLess(took, SHUTDOWN_LIMIT_SECONDS)

    def test_spans_after_the_answer_arrive_without_telemetry(self) -> None:
        platform = self.start()
        for _ in range(3):
            self.invoke(platform, spans=1, late_spans=2)
        self.langfuse.wait_for(9, SPAN_LIMIT_SECONDS)
        platform.shut_down()
        self.assertEqual(len(self.langfuse.spans()), 9)

    def test_silent_telemetry_is_said_once(self) -> None:
        platform = self.start()
        for _ in range(4):
            self.invoke(platform)
        platform.shut_down()
        self.assertEqual(len(platform.of_extension("no telemetry here")), 1, platform.of_extension())
        noisy = [line for line in platform.of_extension() if line["level"] not in ("INFO",)]
        self.assertEqual(noisy, [])

    def test_a_hung_langfuse_costs_one_budget_and_nothing_is_lost_when_it_recovers(self) -> None:
        platform = self.start()
        self.invoke(platform)
        self.langfuse.fail(Langfuse.HUNG)
        walls, times = [], []
        for _ in range(4):
            started = time.monotonic()
            times.append(self.invoke(platform)["took_ms"])
            walls.append(time.monotonic() - started)
        self.assertLess(max(times), HANDLER_LIMIT_MS)
        self.assertLess(walls[0], 2.5)  # This platform may hold the caller as long as the extension holds the sandbox.
        self.assertLess(statistics.median(walls[1:]), 0.5, walls)
        self.langfuse.heal()
        platform.shut_down()
        self.assertEqual(len(self.langfuse.spans()), 15)
        self.assert_nothing_doubled()

    def test_a_refusing_langfuse_is_not_felt_and_what_cannot_be_sent_is_spooled_at_shutdown(self) -> None:
        self.langfuse.fail(Langfuse.DOWN)
        platform = self.start()
        times = [self.invoke(platform)["took_ms"] for _ in range(4)]
        self.assertLess(max(times), HANDLER_LIMIT_MS)
        took = platform.shut_down()
        self.assertLess(took, SHUTDOWN_LIMIT_SECONDS)
        report = self.report(platform)
        self.assertEqual((report["accepted"], report["delivered"]), (12, 0), report)
        self.assertEqual(report["spooled"] + report["dropped"], 12, report)

    def test_an_outage_that_ends_before_shutdown_loses_nothing(self) -> None:
        self.langfuse.fail(Langfuse.DOWN)
        platform = self.start()
        for _ in range(3):
            self.invoke(platform)
        self.langfuse.heal()
        platform.shut_down()
        self.assertEqual(len(self.langfuse.spans()), 9)
        self.assert_nothing_doubled()

    def test_no_key_and_a_senseless_address_never_fail_an_invocation(self) -> None:
        platform = self.platform(sandbox.BOOTSTRAP, {"LANGFUSE_EXTENSION_BASE_URL": "nonsense", "LANGFUSE_EXTENSION_FLUSH": "?"})
        self.addCleanup(platform.close)
        for _ in range(2):
            status, answer = platform.invoke({"spans": 2})
            self.assertEqual(status, 200, answer)
            self.assertIn("took_ms", answer)
        platform.shut_down()

    def test_behind_the_wrapper_a_function_keeps_its_address_of_langfuse_and_comes_here(self) -> None:
        sandbox.lay_out_task(HERE / "wrapped.sh", HERE / "function.py")
        env = {
            "AWS_LAMBDA_EXEC_WRAPPER": "/opt/langfuse",
            "LANGFUSE_BASE_URL": self.langfuse.url,
            "LANGFUSE_PUBLIC_KEY": self.langfuse.public_key,
            "LANGFUSE_SECRET_KEY": self.langfuse.secret_key,
        }
        platform = self.platform(sandbox.BOOTSTRAP, env)
        self.addCleanup(platform.close)
        self.addCleanup(self.show_log, platform)
        for _ in range(3):
            self.assertTrue(self.invoke(platform)["extension_was_there"])
        platform.shut_down()
        self.assertEqual(len(self.langfuse.spans()), 9)
        self.assert_nothing_doubled()
        self.assertEqual(self.report(platform)["accepted"], 9)

    def test_managed_instances_refuse_invoke_and_spans_still_arrive(self) -> None:
        platform = self.start(managed_instances=True)
        self.assertTrue(self.invoke(platform)["extension_was_there"])
        self.langfuse.wait_for(3, 15)
        self.assertEqual(len(self.langfuse.spans()), 3, "sent on an interval")
        self.invoke(platform)
        platform.shut_down()
        self.assertEqual(len(self.langfuse.spans()), 6, "sent at spindown")
        self.assert_nothing_doubled()
        self.assertEqual(self.report(platform)["reason"].lower(), "spindown")


class OnAwsEmulator(Scenarios, unittest.TestCase):
    platform = Rie


class OnLambdaEmulator(Scenarios, unittest.TestCase):
    platform = Emulator


class Protocol(unittest.TestCase):
    """What AWS's emulator answers an extension, ours must answer, right and wrong requests alike."""

    # The service traces, which AWS's emulator does not; AWS documents the field.
    ONLY_OURS = {"first event": "tracing"}

    def test_both_platforms_answer_an_extension_alike(self) -> None:
        aws, ours = self.transcript(Rie), self.transcript(Emulator)
        self.assertEqual(aws.keys(), ours.keys())
        for what, field in self.ONLY_OURS.items():
            del ours[what][1][field]
        different = {what: (aws[what], ours[what]) for what in aws if aws[what] != ours[what]}
        self.maxDiff = None
        self.assertEqual(different, {}, "(AWS's emulator, ours)")

    def transcript(self, platform: type[sandbox.Platform]) -> dict:
        sandbox.lay_out_task(HERE / "function.py")
        with tempfile.TemporaryDirectory() as folder:
            running = platform(sandbox.BOOTSTRAP, {"PROBE_DIR": folder}, extra=HERE / "probe.py")
            try:
                running.invoke({})
                running.shut_down()
                return json.loads((Path(folder) / "transcript.json").read_text())
            except Exception:
                print(*running.lines[-60:], sep="\n")
                raise
            finally:
                running.close()


if __name__ == "__main__":
    sandbox.enter()
    unittest.main(verbosity=2)
