#!/usr/bin/env python3
"""Runs both examples on AWS and in Langfuse, for real: applies, invokes, waits out a freeze, times out, compares, destroys.

Usage: CONFIRM=1 make smoke-aws     It costs a few cents, and needs
  - AWS credentials as the AWS CLI finds them, with a region; terraform, aws and, for the container, docker;
  - LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY of a project to write to; LANGFUSE_BASE_URL, where it is not Langfuse's EU cloud.
Everything that it makes carries its run's name, langfuse-smoke-…, and is destroyed at the end, also after a failure.
"""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "terraform" / "examples"
ARCH = "x86_64"
FREEZE_SECONDS = 60
ARRIVAL_LIMIT_SECONDS = 300
FUNCTION_TIMEOUT_SECONDS = 10  # As in examples/zip-python.
RUN = f"langfuse-smoke-{secrets.token_hex(4)}"
BASE_URL = os.environ.get("LANGFUSE_BASE_URL", "https://cloud.langfuse.com")


def main() -> None:
    refuse_unless_ready()
    state = Path(tempfile.mkdtemp(prefix=f"{RUN}-"))
    with ExitStack() as undo:
        undo.callback(lambda: [path.unlink() for path in state.glob("value-*")])
        print(f"smoke: {RUN}; state in {state}", flush=True)
        subprocess.run(["make", "-f", "layer/layer.mk", "layer", f"ARCH={ARCH}"], cwd=ROOT, check=True)
        expected = zip_python(state, undo)
        if shutil.which("docker"):
            expected |= container_fastapi(state, undo)
        else:
            print("smoke: the container is skipped, docker is not installed")
        failures = compare(expected)
    if failures:
        sys.exit("\n".join(f"smoke: {failure}" for failure in failures))
    print(f"smoke: all {len(expected)} traces arrived whole, nothing doubled")


def refuse_unless_ready() -> None:
    if os.environ.get("CONFIRM") != "1":
        sys.exit(f"smoke-aws: this makes and destroys resources in your AWS account; set CONFIRM=1 to go on\n\n{__doc__}")
    for tool in ("terraform", "aws"):
        if not shutil.which(tool):
            sys.exit(f"smoke-aws: {tool} is not installed")
    for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"):
        if not os.environ.get(name):
            sys.exit(f"smoke-aws: {name} is not set")
    if subprocess.run(["aws", "sts", "get-caller-identity"], capture_output=True).returncode:
        sys.exit("smoke-aws: no AWS credentials: `aws sts get-caller-identity` does not answer")


def zip_python(state: Path, undo: ExitStack) -> dict[str, set[str]]:
    """Cold, warm, after a freeze, and with a timeout; answers with the spans that each trace must have."""
    subprocess.run([EXAMPLES / "zip-python/package.sh", ARCH], check=True)
    keys = {"public_key": os.environ["LANGFUSE_PUBLIC_KEY"], "secret_key": os.environ["LANGFUSE_SECRET_KEY"]}
    secret = aws("secretsmanager", "create-secret", "--name", RUN, "--secret-string", private(state, json.dumps(keys)))["ARN"]
    undo.callback(aws, "secretsmanager", "delete-secret", "--secret-id", secret, "--force-delete-without-recovery")
    variables = {"layer_zip": f"{ROOT}/dist/langfuse-extension-layer-{ARCH}.zip", "langfuse_secret_arn": secret}
    name = apply("zip-python", state, undo, variables)["function_name"]["value"]

    spans = {"answer_question", "generate"}
    traces = {}
    for label, event in [
        ("cold", {}),
        ("warm", {}),
        (f"after {FREEZE_SECONDS} s frozen", {}),
        ("into its timeout", {"sleep_seconds": FUNCTION_TIMEOUT_SECONDS + 5}),
        ("after the timeout", {}),
    ]:
        if "frozen" in label:
            time.sleep(FREEZE_SECONDS)
        trace = secrets.token_hex(16)
        traces[trace] = spans
        answer = state / "answer.json"
        payload = state / "payload.json"
        payload.write_text(json.dumps({**event, "trace_id": trace}))
        done = aws("lambda", "invoke", "--function-name", name, "--log-type", "Tail", "--payload", f"fileb://{payload}", str(answer))
        log = base64.b64decode(done["LogResult"]).decode()
        report = next((line for line in log.splitlines() if line.startswith("REPORT")), "no REPORT line")
        print(f"smoke: zip, {label}: {done.get('FunctionError', 'answered')}; {' '.join(report.split()[3:])}", flush=True)
        if bool(done.get("FunctionError")) != ("timeout" in label and "into" in label):
            sys.exit(f"smoke: unexpected answer, log:\n{log}")
    return traces


def container_fastapi(state: Path, undo: ExitStack) -> dict[str, set[str]]:
    for name, kind, key in (("public-key", "String", "PUBLIC"), ("secret-key", "SecureString", "SECRET")):
        value = private(state, os.environ[f"LANGFUSE_{key}_KEY"])
        aws("ssm", "put-parameter", "--name", f"/{RUN}/{name}", "--type", kind, "--value", value)
        undo.callback(aws, "ssm", "delete-parameter", "--name", f"/{RUN}/{name}")
    image = push_image(undo)
    variables = {
        "image_uri": image,
        "public_key_parameter": f"/{RUN}/public-key",
        "secret_key_parameter": f"/{RUN}/secret-key",
    }
    url = apply("container-fastapi", state, undo, variables)["url"]["value"]
    traces = {}
    for label in ("cold", "warm"):
        started = time.monotonic()
        answer = call(f"{url}chat", '{"message": "Hello from the smoke test"}')
        traces[json.loads(answer.split("data: ")[-1])["trace_id"]] = {"chat", "answer"}
        traces[json.loads(call(f"{url}team"))["trace_id"]] = {"team"}
        print(f"smoke: container, {label}: chat and team in {time.monotonic() - started:.2f} s", flush=True)
    return traces


def push_image(undo: ExitStack) -> str:
    """Builds extension and app with docker, and pushes the app to a repository of its own."""
    subprocess.run(["make", "-f", "layer/layer.mk", "image", f"ARCH={ARCH}"], cwd=ROOT, check=True)
    build = ["docker", "build", "--provenance=false", "--platform", "linux/amd64"]
    extension = f"{RUN}-extension"
    subprocess.run([*build, "--tag", extension, "--file", "layer/Dockerfile", "target/layer/image"], cwd=ROOT, check=True)
    repository = aws("ecr", "create-repository", "--repository-name", RUN)["repository"]["repositoryUri"]
    undo.callback(aws, "ecr", "delete-repository", "--repository-name", RUN, "--force")
    token = subprocess.run(["aws", "ecr", "get-login-password"], check=True, stdout=subprocess.PIPE).stdout
    login = ["docker", "login", "--username", "AWS", "--password-stdin", repository.split("/")[0]]
    subprocess.run(login, check=True, input=token)
    image = f"{repository}:smoke"
    subprocess.run([*build, "--tag", image, "--build-arg", f"EXTENSION={extension}", "."], cwd=EXAMPLES / "container-fastapi", check=True)
    subprocess.run(["docker", "push", image], check=True)
    return image


def apply(example: str, state: Path, undo: ExitStack, variables: dict[str, str]) -> dict:
    """Applies an example under this run's name, and promises to destroy it."""
    values = {"name": f"{RUN}-{example}", "architecture": ARCH, "base_url": BASE_URL, **variables}
    environment = {**os.environ, "TF_DATA_DIR": str(state / example), **{f"TF_VAR_{name}": value for name, value in values.items()}}
    kept = [f"-state={state / example}.tfstate", "-auto-approve"]

    def terraform(*arguments: str, **options) -> subprocess.CompletedProcess:
        command = ["terraform", f"-chdir={EXAMPLES / example}", *arguments]
        return subprocess.run(command, check=True, env=environment, **options)

    terraform("init", "-input=false", stdout=subprocess.DEVNULL)
    undo.callback(terraform, "destroy", *kept)
    terraform("apply", *kept)
    return json.loads(terraform("output", kept[0], "-json", stdout=subprocess.PIPE).stdout)


def compare(expected: dict[str, set[str]]) -> list[str]:
    """What is missing or doubled in Langfuse once it has had time to take everything in."""
    deadline = time.monotonic() + ARRIVAL_LIMIT_SECONDS
    failures = []
    for trace, spans in expected.items():
        found = wait_for(lambda trace=trace: langfuse_trace(trace), lambda one, spans=spans: is_whole(one, spans), deadline)
        names = sorted(span["name"] for span in found.get("observations", []))
        scores = len(found.get("scores", []))
        print(f"smoke: trace {trace}: {names}, {scores} scores", flush=True)
        if names != sorted(spans) or scores != 1:
            failures.append(f"trace {trace} has {names} and {scores} scores, not {sorted(spans)} and 1")
    return failures


def is_whole(trace: dict, spans: set[str]) -> bool:
    return {span["name"] for span in trace.get("observations", [])} >= spans and bool(trace.get("scores"))


def wait_for(ask: Callable[[], dict], enough: Callable[[dict], bool], deadline: float) -> dict:
    while not enough(answer := ask()) and time.monotonic() < deadline:
        time.sleep(5)
    return answer


def langfuse_trace(trace: str) -> dict:
    keys = f"{os.environ['LANGFUSE_PUBLIC_KEY']}:{os.environ['LANGFUSE_SECRET_KEY']}"
    headers = {"Authorization": f"Basic {base64.b64encode(keys.encode()).decode()}"}
    request = urllib.request.Request(f"{BASE_URL}/api/public/traces/{trace}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return {}
        raise


def call(url: str, body: str | None = None) -> str:
    """Calls a Function URL, signed by curl with the credentials that the AWS CLI uses."""
    exported = subprocess.run(["aws", "configure", "export-credentials"], check=True, stdout=subprocess.PIPE).stdout
    keys = json.loads(exported)
    region = url.split(".")[2]
    lines = [f'user = "{keys["AccessKeyId"]}:{keys["SecretAccessKey"]}"', f'aws-sigv4 = "aws:amz:{region}:lambda"']
    if keys.get("SessionToken"):
        lines.append(f'header = "x-amz-security-token: {keys["SessionToken"]}"')
    data = ["--header", "content-type: application/json", "--data", body] if body else []
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--no-buffer", "--config", "-", *data, url]
    return subprocess.run(command, check=True, input="\n".join(lines), text=True, stdout=subprocess.PIPE).stdout


def aws(*arguments: str) -> dict:
    out = subprocess.run(["aws", *arguments, "--output", "json"], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out) if out.strip() else {}


def private(state: Path, value: str) -> str:
    """A secret as a file that the AWS CLI reads, so that it stands on no command line."""
    path = state / f"value-{secrets.token_hex(4)}"
    path.touch(mode=0o600)
    path.write_text(value)
    return f"file://{path}"


if __name__ == "__main__":
    main()
