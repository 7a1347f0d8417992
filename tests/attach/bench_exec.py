#!/usr/bin/env python3
"""What `exec` adds to the start of a program: /bin/true by itself and behind the wrapper, in turns, with the extension beside it.

Usage: make exec-bench     (root for the share of a processor; else only the whole one)
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target" / "release" / "langfuse-extension"
ROUNDS = 300
PORT = 43181
# A function of 128 MB has this share of one processor, in the periods that Lambda's sandbox divides it into.
SHARE, PERIOD_US = 128 / 1769, 20_000
GROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


def group() -> Path | None:
    """A control group with that share, or nothing."""
    for parent in GROUPS:
        path = parent / "langfuse-exec-bench"
        try:
            path.mkdir(exist_ok=True)
            if (path / "cpu.cfs_quota_us").exists():
                (path / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (path / "cpu.cfs_quota_us").write_text(str(int(PERIOD_US * SHARE)))
                return path
            if (path / "cpu.max").exists():
                (path / "cpu.max").write_text(f"{int(PERIOD_US * SHARE)} {PERIOD_US}")
                return path
            path.rmdir()
        except OSError:
            continue
    return None


def measure(path: Path | None) -> dict[str, list[float]]:
    def enter() -> None:
        if path:
            (path / "cgroup.procs").write_text(str(os.getpid()))

    env = {"PATH": "/usr/bin:/bin", "LANGFUSE_EXTENSION_LISTEN": f"127.0.0.1:{PORT}"}
    with tempfile.TemporaryDirectory() as folder:
        serve = subprocess.Popen([BINARY, "serve"], env={**env, "LANGFUSE_EXTENSION_SPOOL_DIR": f"{folder}/spool"}, preexec_fn=enter)
        wrapper = Path(folder) / "langfuse"
        wrapper.symlink_to(BINARY)
        taken = {"bare": [], "behind the wrapper": []}
        time.sleep(1)
        try:
            for _ in range(ROUNDS if not path else ROUNDS // 5):
                for name, command in (("bare", ["/bin/true"]), ("behind the wrapper", [str(wrapper), "/bin/true"])):
                    started = time.perf_counter()
                    done = subprocess.run(command, env=env, preexec_fn=enter, stderr=subprocess.PIPE)
                    taken[name].append((time.perf_counter() - started) * 1000)
                    assert (done.returncode, done.stderr) == (0, b""), done
        finally:
            serve.kill()
            serve.wait()
    return taken


def main() -> None:
    limited = group()
    for name, path in (("a whole processor", None), (f"1/{1 / SHARE:.0f} of a processor", limited)):
        if name.startswith("1/") and not path:
            print(f"{name}: skipped, no control group for it")
            continue
        taken = measure(path)
        cells = [f"{what} {statistics.median(times):.1f} ms (fastest {min(times):.1f})" for what, times in taken.items()]
        added = statistics.median(taken["behind the wrapper"]) - statistics.median(taken["bare"])
        print(f"{name}: {', '.join(cells)}; added {added:.1f} ms")
    if limited:
        limited.rmdir()


if __name__ == "__main__":
    sys.exit(main())
