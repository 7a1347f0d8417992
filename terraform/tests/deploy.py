"""Applies both examples with the real AWS provider against moto, checks what was deployed, and destroys them again.

The examples' own roles are tried, too, with moto verifying signatures and IAM policies: the function may read its keys and
nothing else. (Not during the apply: moto 5.2 miscalculates the signature of REST calls such as Lambda's.) What was deployed
is left in target/terraform/deployed/EXAMPLE, laid out as Lambda would lay it out. Run by terraform/test.sh.
"""

import base64
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import run_deployed
from botocore.exceptions import ClientError
from moto.awslambda.models import lambda_backends
from moto.iam.access_control import IAMPolicyStatement
from moto.secretsmanager.responses import SecretsManagerResponse
from moto.server import ThreadedMotoServer
from moto.ssm.responses import SimpleSystemManagerResponse
from run_deployed import ARCH, LAYER

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "terraform" / "examples"
WORK = ROOT / "target" / "terraform"
REGION, ACCOUNT = "eu-west-1", "123456789012"
KEYS = ("pk-lf-example", "sk-lf-example")

# moto asks its services which resource a call is about before it reads the policies; these two do not say it yet.
SecretsManagerResponse._determine_resource = lambda call: call._get_param("SecretId")
SimpleSystemManagerResponse._determine_resource = lambda call: f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{call._get_param('Name')}"


# To IAM `?` is any one character and a dot is a dot; moto reads both as a regular expression does, and fails on `??`.
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_resource.html
def matches(pattern: str, text: str) -> re.Match | None:
    wild = {"*": ".*", "?": "."}
    return re.fullmatch("".join(wild.get(character, re.escape(character)) for character in pattern), text)


IAMPolicyStatement._match = staticmethod(matches)


class Cloud:
    """A local AWS."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self.server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self.server.start()
        host, port = self.server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.keys = {"AccessKeyId": "deployer", "SecretAccessKey": "deployer"}

    def client(self, service: str, keys: dict | None = None):
        keys = keys or self.keys
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys.get("SessionToken"),
        )

    @contextmanager
    def as_function(self, name: str, service: str) -> Iterator:
        """A client with the rights of the function's role, while moto checks every call."""
        keys = self.keys_of_function(name)
        with self.checked():
            yield self.client(service, keys)

    def keys_of_function(self, name: str) -> dict:
        role = self.client("iam").get_role(RoleName=name)["Role"]["Arn"]
        return self.client("sts").assume_role(RoleArn=role, RoleSessionName=name)["Credentials"]

    @contextmanager
    def checked(self) -> Iterator:
        self.check_after("0")
        try:
            yield
        finally:
            self.check_after("inf")

    def check_after(self, calls: str) -> None:
        request = urllib.request.Request(f"{self.url}/moto-api/reset-auth", calls.encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=10).close()

    def terraform_environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_VAR_"))},
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": self.keys["SecretAccessKey"],
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Deployment:
    """One example, applied on entry and destroyed on exit, with its state outside the sources."""

    def __init__(self, cloud: Cloud, example: str, **variables: str) -> None:
        self.cloud, self.example = cloud, example
        self.state = WORK / f"{example}.tfstate"
        self.variables = [f"-var={name}={value}" for name, value in variables.items()]

    def terraform(self, *arguments: str, **options) -> subprocess.CompletedProcess:
        data = WORK / "data" / "examples" / self.example
        environment = {**self.cloud.terraform_environment(), "TF_DATA_DIR": str(data)}
        return subprocess.run(["terraform", f"-chdir={EXAMPLES / self.example}", *arguments], check=True, env=environment, **options)

    def change(self, command: str) -> None:
        started = time.monotonic()
        state = [f"-state={self.state}", "-backup=-", "-auto-approve", "-compact-warnings"]
        done = self.terraform(command, *state, *self.variables, stdout=subprocess.PIPE, text=True)
        said = [line for line in done.stdout.splitlines() if line.startswith(("Apply complete", "Destroy complete"))]
        print(f"deploy: {self.example}: {''.join(said)} ({time.monotonic() - started:.0f} s)", flush=True)

    def __enter__(self) -> dict:
        self.state.unlink(missing_ok=True)
        self.change("apply")
        shown = self.terraform("output", f"-state={self.state}", "-json", stdout=subprocess.PIPE).stdout
        return {name: output["value"] for name, output in json.loads(shown).items()}

    def __exit__(self, *_) -> None:
        self.change("destroy")


def main() -> None:
    build()
    cloud = Cloud()
    try:
        zip_python(cloud)
        container_fastapi(cloud)
        nothing_is_left(cloud)
    finally:
        cloud.server.stop()
    print("deploy: both examples applied, checked and destroyed")


def build() -> None:
    """The layer and the app's package as a user would build them; the package only where the app has changed since."""
    subprocess.run(["make", "-f", "layer/layer.mk", "layer", f"ARCH={ARCH}"], cwd=ROOT, check=True)
    run_deployed.build()
    sources = [EXAMPLES / "zip-python/package.sh", *(EXAMPLES / "zip-python/app").glob("*")]
    package = EXAMPLES / "zip-python/build/function.zip"
    if not package.exists() or package.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        # For this machine's Python, so that what was deployed can be run here.
        version = {"PYTHON_VERSION": "{}.{}".format(*sys.version_info)}
        subprocess.run([EXAMPLES / "zip-python/package.sh", ARCH], check=True, env={**os.environ, **version})


def zip_python(cloud: Cloud) -> None:
    secret = dict(zip(("public_key", "secret_key"), KEYS, strict=True))
    arn = cloud.client("secretsmanager").create_secret(Name="langfuse", SecretString=json.dumps(secret))["ARN"]
    other = cloud.client("secretsmanager").create_secret(Name="other", SecretString="no business of ours")["ARN"]
    with Deployment(cloud, "zip-python", architecture=ARCH, layer_zip=str(LAYER), langfuse_secret_arn=arn) as outputs:
        function = cloud.client("lambda").get_function_configuration(FunctionName=outputs["function_name"])
        same("environment", function["Environment"]["Variables"], outputs["environment"])
        same("keys", keys_of(outputs["environment"]), {
            "LANGFUSE_EXTENSION_PUBLIC_KEY": f"{arn}#public_key",
            "LANGFUSE_EXTENSION_SECRET_KEY": f"{arn}#secret_key",
            "LANGFUSE_PUBLIC_KEY": "pk-lf-extension",
            "LANGFUSE_SECRET_KEY": "sk-lf-extension",
        })
        same("layers", [layer["Arn"] for layer in function["Layers"]], [outputs["layer_arn"]])
        same("architectures", function["Architectures"], [ARCH])
        code, layer = deployed_code(function)
        same("function zip", code, (EXAMPLES / "zip-python/build/function.zip").read_bytes())
        same("layer zip", layer, LAYER.read_bytes())
        lay_out("zip-python", function, code, layer)

        with cloud.as_function(outputs["function_name"], "secretsmanager") as role:
            same("secret as the function reads it", json.loads(role.get_secret_value(SecretId=arn)["SecretString"]), secret)
            denied("another secret", lambda: role.get_secret_value(SecretId=other))
            denied("writing the secret", lambda: role.put_secret_value(SecretId=arn, SecretString="{}"))

        delivers(cloud, "zip-python", function, run_deployed.invoke, observations=2, scores=1)


def container_fastapi(cloud: Cloud) -> None:
    ssm = cloud.client("ssm")
    ssm.put_parameter(Name="/langfuse/public-key", Value=KEYS[0], Type="String")
    ssm.put_parameter(Name="/langfuse/secret-key", Value=KEYS[1], Type="SecureString")
    ssm.put_parameter(Name="/langfuse/secret-key-of-others", Value="no business of ours", Type="SecureString")
    image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/app:1"
    with Deployment(cloud, "container-fastapi", architecture=ARCH, image_uri=image) as outputs:
        found = cloud.client("lambda").get_function(FunctionName=outputs["function_name"])
        function = found["Configuration"]
        same("environment", function["Environment"]["Variables"], outputs["environment"])
        same("web adapter", outputs["environment"]["AWS_LWA_INVOKE_MODE"], "response_stream")
        same("package", (function["PackageType"], found["Code"]["ImageUri"]), ("Image", image))
        same("layers of an image", function.get("Layers", []), [])
        url = cloud.client("lambda").get_function_url_config(FunctionName=outputs["function_name"])
        same("url", (url["InvokeMode"], url["AuthType"], url["FunctionUrl"]), ("RESPONSE_STREAM", "AWS_IAM", outputs["url"]))
        lay_out("container-fastapi", function)

        with cloud.as_function(outputs["function_name"], "ssm") as role:
            for name, value in zip(("/langfuse/public-key", "/langfuse/secret-key"), KEYS, strict=True):
                same(name, role.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"], value)
            denied("another parameter", lambda: role.get_parameter(Name="/langfuse/secret-key-of-others", WithDecryption=True))
            denied("writing the parameter", lambda: role.put_parameter(Name="/langfuse/secret-key", Value="x", Overwrite=True))

        delivers(cloud, "container-fastapi", function, run_deployed.stream, observations=3, scores=1)

    off = Deployment(cloud, "container-fastapi", architecture=ARCH, image_uri=image, tracing_enabled="false")
    with off as outputs:
        same("kill switch", outputs["environment"]["LANGFUSE_TRACING_ENABLED"], "false")


def delivers(cloud: Cloud, example: str, function: dict, ask: Callable, **expected: int) -> None:
    """The deployed function runs, with its role's rights while moto checks every call, and its trace arrives."""
    role = cloud.keys_of_function(function["FunctionName"])
    aws = {
        "AWS_ENDPOINT_URL": cloud.url,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": role["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
        "AWS_SESSION_TOKEN": role["SessionToken"],
    }
    with cloud.checked():
        counted = run_deployed.run(WORK / "deployed" / example, aws, KEYS, ask)
    same(f"what the deployed {example} delivered", {name: counted[name] for name in expected}, expected)
    print(f"deploy: {example}: the deployed function ran, and its trace arrived", flush=True)


def keys_of(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.endswith("_KEY")}


def deployed_code(configuration: dict) -> tuple[bytes, bytes]:
    """The bytes that moto holds for a function and its one layer, checked against the digests that it reports."""
    backend = lambda_backends[ACCOUNT][REGION]
    function = backend.get_function(configuration["FunctionName"])
    name, version = configuration["Layers"][0]["Arn"].split(":")[-2:]
    layer = backend.get_layer_version(name, int(version))
    same("digest of the function", base64.b64encode(hashlib.sha256(function.code_bytes).digest()).decode(), configuration["CodeSha256"])
    return function.code_bytes, layer.code_bytes


def lay_out(example: str, function: dict, code: bytes | None = None, layer: bytes | None = None) -> None:
    """Leaves the deployed function as Lambda would start it: task/, opt/ and its configuration."""
    folder = WORK / "deployed" / example
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wanted = {name: function.get(name) for name in ("FunctionName", "Handler", "Runtime", "Timeout", "MemorySize", "PackageType")}
    configuration = {**wanted, "Environment": function["Environment"]["Variables"]}
    (folder / "function.json").write_text(json.dumps(configuration, indent=1, sort_keys=True) + "\n")
    for name, content in (("task", code), ("opt", layer)):
        if content is not None:
            unzip(content, folder / name)


def unzip(content: bytes, folder: Path) -> None:
    folder.mkdir()
    archive = folder.with_suffix(".zip")
    archive.write_bytes(content)
    with zipfile.ZipFile(archive) as entries:
        for entry in entries.infolist():
            path = Path(entries.extract(entry, folder))
            if mode := stat.S_IMODE(entry.external_attr >> 16):
                path.chmod(mode)
    archive.unlink()


def nothing_is_left(cloud: Cloud) -> None:
    same("functions left", cloud.client("lambda").list_functions()["Functions"], [])
    same("layers left", cloud.client("lambda").list_layers()["Layers"], [])
    same("roles left", cloud.client("iam").list_roles()["Roles"], [])
    same("log groups left", cloud.client("logs").describe_log_groups()["logGroups"], [])


def same(what: str, found: object, expected: object) -> None:
    if found != expected:
        shown = [value if len(repr(value)) < 2000 else "(too long to show)" for value in (found, expected)]
        sys.exit(f"deploy: {what} is {shown[0]!r}, not {shown[1]!r}")


def denied(what: str, call) -> None:
    try:
        call()
    except ClientError as error:
        if "AccessDenied" in str(error):  # moto wraps it in XML, whatever the service's own protocol is.
            return
        raise
    sys.exit(f"deploy: {what} was permitted to the function's role")


if __name__ == "__main__":
    main()
