#!/usr/bin/env python3
"""terraform/attach and terraform/detach, with the AWS CLI, on functions of a local AWS (moto).

Usage: make attach-test
"""

import importlib.machinery
import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
import unittest
import zipfile
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
REGION, ACCOUNT = "eu-west-1", "123456789012"
ROLE = "function"
SECRET = "sk-lf-nobody-may-see-this"
OWN = {"LANGFUSE_BASE_URL": "https://us.cloud.langfuse.com", "LANGFUSE_SECRET_KEY": SECRET, "TABLE": "things"}


class Attach(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        cls.server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)
        cls.url = "http://{}:{}".format(*cls.server.get_host_and_port())
        cls.awslambda, cls.iam = cls.client("lambda"), cls.client("iam")
        trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}]}
        cls.role = cls.iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]

    @classmethod
    def client(cls, service: str):
        return boto3.client(service, endpoint_url=cls.url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")

    def layer(self, name: str) -> str:
        content = {"ZipFile": zipped("extensions/x")}
        return self.awslambda.publish_layer_version(LayerName=name, Content=content)["LayerVersionArn"]

    def function(self, environment: dict = OWN, layers: tuple[str, ...] = (), runtime: str = "python3.12") -> str:
        name = self.id().rsplit(".", 1)[1][:60]
        self.awslambda.create_function(
            FunctionName=name, Role=self.role, Runtime=runtime, Handler="app.handler", Code={"ZipFile": zipped("app.py")},
            Environment={"Variables": environment}, Layers=list(layers),
        )
        self.addCleanup(self.awslambda.delete_function, FunctionName=name)
        return name

    def run_script(self, script: str, *words: str, answer: str | None = None) -> subprocess.CompletedProcess:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AWS_ENDPOINT_URL": self.url, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        }
        options = {"input": answer} if answer is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run([ROOT / "terraform" / script, *words], env=env, capture_output=True, text=True, **options)
        self.assertNotIn(SECRET, done.stdout + done.stderr)
        return done

    def state(self, name: str) -> tuple[list[str], dict]:
        config = self.awslambda.get_function_configuration(FunctionName=name)
        return [one["Arn"] for one in config.get("Layers", [])], config.get("Environment", {}).get("Variables", {})

    def policies(self) -> list[str]:
        return self.iam.list_role_policies(RoleName=ROLE)["PolicyNames"]

    def test_attach_adds_the_layer_and_one_variable_and_detach_takes_them_away(self) -> None:
        layer, other = self.layer("langfuse-extension-x86_64"), self.layer("other")
        name = self.function(layers=(other,))
        done = self.run_script("attach", name, "--layer", layer, "--yes")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.state(name), ([other, layer], {**OWN, "AWS_LAMBDA_EXEC_WRAPPER": "/opt/langfuse"}))
        self.assertEqual(self.policies(), [])
        done = self.run_script("detach", name, "--yes")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.state(name), ([other], OWN))

    def test_keys_kept_elsewhere_are_permitted_exactly_and_no_longer_than_needed(self) -> None:
        layer, name = self.layer("langfuse-extension-x86_64"), self.function()
        secret = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:langfuse"
        keys = {"LANGFUSE_EXTENSION_PUBLIC_KEY": "ssm:/langfuse/public-key", "LANGFUSE_EXTENSION_SECRET_KEY": f"{secret}#secret"}
        words = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
        done = self.run_script("attach", name, "--layer", layer, "--yes", *words)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.state(name)[1], {**OWN, **keys, "AWS_LAMBDA_EXEC_WRAPPER": "/opt/langfuse"})
        (policy,) = self.policies()
        document = self.iam.get_role_policy(RoleName=ROLE, PolicyName=policy)["PolicyDocument"]
        permitted = {(one["Action"], *one["Resource"]) for one in document["Statement"]}
        parameter = f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/langfuse/public-key"
        self.assertEqual(permitted, {("ssm:GetParameter", parameter), ("secretsmanager:GetSecretValue", f"{secret}-??????")})
        self.run_script("detach", name, "--yes")
        self.assertEqual((self.state(name), self.policies()), (([], OWN), []))

    def test_a_newer_version_takes_the_place_of_the_older_one(self) -> None:
        older, newer = self.layer("langfuse-extension-arm64"), self.layer("langfuse-extension-arm64")
        name = self.function(layers=(older,))
        self.run_script("attach", name, "--layer", newer, "--yes")
        self.assertEqual(self.state(name)[0], [newer])

    def test_another_wrapper_goes_on_to_run_and_comes_back(self) -> None:
        layer, adapter = self.layer("langfuse-extension-x86_64"), {**OWN, "AWS_LAMBDA_EXEC_WRAPPER": "/opt/bootstrap"}
        name = self.function(adapter)
        self.run_script("attach", name, "--layer", layer, "--yes")
        both = {"AWS_LAMBDA_EXEC_WRAPPER": "/opt/langfuse", "LANGFUSE_EXTENSION_THEN_EXEC": "/opt/bootstrap"}
        self.assertEqual(self.state(name)[1], {**OWN, **both})
        again = self.run_script("attach", name, "--layer", layer, "--yes")
        self.assertIn("nothing to change", again.stdout)
        self.run_script("detach", name, "--yes")
        self.assertEqual(self.state(name), ([], adapter))

    def test_it_shows_names_and_asks_and_changes_nothing_without_a_yes(self) -> None:
        layer, name = self.layer("langfuse-extension-x86_64"), self.function()
        before = self.state(name)
        for answer in ("n\n", "", None):
            done = self.run_script("attach", name, "--layer", layer, "--set", f"LANGFUSE_EXTENSION_SECRET_KEY={SECRET}", answer=answer)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"+ layer {layer}", done.stdout)
            self.assertIn("+ LANGFUSE_EXTENSION_SECRET_KEY=(hidden)", done.stdout)
            self.assertEqual(self.state(name), before)
        self.run_script("attach", name, "--layer", layer, answer="y\n")
        self.assertEqual(self.state(name)[0], [layer])

    def refused(self, reason: str, name: str, layer: str, *words: str) -> None:
        before = self.state(name)
        done = self.run_script("attach", name, "--layer", layer, "--yes", *words)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(reason, done.stderr)
        self.assertEqual(self.state(name), before)

    def test_a_sixth_layer_is_refused_before_lambda_refuses_it(self) -> None:
        name = self.function(layers=tuple(self.layer(f"layer{number}") for number in range(5)))
        self.refused("it has 5 layers already", name, self.layer("langfuse-extension-x86_64"))

    def test_more_than_four_kilobytes_of_variables_are_refused(self) -> None:
        room = 4096 - len("BIG" + "AWS_LAMBDA_EXEC_WRAPPER" + "/opt/langfuse")
        layer, name = self.layer("langfuse-extension-x86_64"), self.function({"BIG": "x" * room})
        done = self.run_script("attach", name, "--layer", layer, "--yes")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.run_script("detach", name, "--yes")
        self.awslambda.update_function_configuration(FunctionName=name, Environment={"Variables": {"BIG": "x" * (room + 1)}})
        self.refused("would take 4,097 bytes", name, layer)

    def test_what_is_no_layer_or_starts_no_wrapper_is_refused(self) -> None:
        name = self.function(runtime="provided.al2023")
        self.refused("starts no wrapper", name, self.layer("langfuse-extension-x86_64"))
        self.refused("is no layer's version", name, "langfuse-extension")

    def test_a_function_that_somebody_has_changed_meanwhile_is_not_written_over(self) -> None:
        loader = importlib.machinery.SourceFileLoader("attach", str(ROOT / "terraform" / "attach"))
        attach = importlib.util.module_from_spec(importlib.util.spec_from_loader("attach", loader))
        loader.exec_module(attach)
        calls = []
        attach.aws = lambda *words, **parameters: calls.append((words, parameters))
        attach.apply({"FunctionArn": "f", "RevisionId": "as-read"}, [], {})
        self.assertEqual([parameters["RevisionId"] for _, parameters in calls], ["as-read"])

    def test_a_function_that_is_not_there_is_said(self) -> None:
        done = self.run_script("attach", "nobody", "--layer", self.layer("langfuse-extension-x86_64"), "--yes")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("nothing was changed", done.stderr)


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, "x")
    return buffer.getvalue()


if __name__ == "__main__":
    unittest.main()
