"""What the tests on both platforms share: the function of this folder, with the extension, a fake Langfuse and their settings."""

from pathlib import Path

import sandbox
from sandbox import Langfuse

HERE = Path(__file__).resolve().parent
# What a handler may take that posts a few spans to a local port: far above what it does take, far below any time-out.
HANDLER_LIMIT_MS = 400
SHUTDOWN_LIMIT_SECONDS = 2.6  # The platform's 2 s, and what it takes for itself.


class Scenario:
    """Mixed into a TestCase, once for each platform."""

    platform: type[sandbox.Platform]

    def setUp(self) -> None:
        sandbox.lay_out_task(HERE / "function.py")
        self.langfuse = Langfuse()
        self.addCleanup(self.langfuse.close)

    def address(self) -> str:
        return self.langfuse.url

    def start(self, **options: object) -> sandbox.Platform:
        env = {
            "LANGFUSE_EXTENSION_BASE_URL": self.address(),
            "LANGFUSE_EXTENSION_PUBLIC_KEY": self.langfuse.public_key,
            "LANGFUSE_EXTENSION_SECRET_KEY": self.langfuse.secret_key,
        }
        platform = self.platform(sandbox.BOOTSTRAP, env, **options)
        self.addCleanup(platform.close)
        self.addCleanup(self.show_log, platform)
        return platform

    def show_log(self, platform: sandbox.Platform) -> None:
        result = self._outcome.result
        if any(test is self for test, _ in result.failures + result.errors):
            print(*platform.lines[-60:], sep="\n")

    def invoke(self, platform: sandbox.Platform, spans: int = 3, late_spans: int = 0) -> dict:
        status, answer = platform.invoke({"spans": spans, "late_spans": late_spans})
        self.assertEqual(status, 200, answer)
        self.assertIn("took_ms", answer)
        return answer

    def report(self, platform: sandbox.Platform) -> dict:
        (report,) = platform.of_extension("langfuse-extension report")
        return report

    def assert_nothing_doubled(self) -> None:
        ids = [span["span_id"] for span in self.langfuse.spans()]
        self.assertEqual(len(ids), len(set(ids)))
