"""Moto's SSM, Secrets Manager, KMS, IAM and STS on a free loopback port, with what the credentials' tests look for.

Prints one line of JSON once everything is there, and serves until its standard input ends. From that line on, moto checks
every request's signature and the caller's IAM policy.
"""

import json
import logging
import sys

import boto3
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.server import ThreadedMotoServer

REGION = "eu-west-1"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["ssm:GetParameter", "secretsmanager:GetSecretValue"],
            "Resource": "*",
        }
    ],
}
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}


def clients(endpoint):
    def client(service):
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=endpoint,
            aws_access_key_id="seed",
            aws_secret_access_key="seed",
        )

    return client


def put_parameters(ssm, key_id):
    def put(name, value, **options):
        ssm.put_parameter(Name=name, Value=value, Type="SecureString", KeyId=key_id, **options)
        return ssm.get_parameter(Name=name)["Parameter"]["ARN"]

    put("langfuse-public", "pk-lf-named")
    put("/langfuse/versions", "sk-lf-first")
    put("/langfuse/versions", "sk-lf-second", Overwrite=True)
    ssm.label_parameter_version(Name="/langfuse/versions", ParameterVersion=1, Labels=["old"])
    put("/langfuse/newline", "sk-lf-newline\n")
    return put("/langfuse/secret", "sk-lf-path")


def put_secrets(secrets, key_id):
    pair = json.dumps({"public": "pk-lf-json", "secret": "sk-lf-json", "number": 7})
    return {
        "pair": secrets.create_secret(Name="langfuse/pair", SecretString=pair, KmsKeyId=key_id)["ARN"],
        "bare": secrets.create_secret(Name="langfuse/bare", SecretString="sk-lf-bare")["ARN"],
        "binary": secrets.create_secret(Name="langfuse/binary", SecretBinary=b"sk-lf-binary")["ARN"],
    }


def make_callers(iam, sts):
    for name in ("reader", "stranger"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.put_role_policy(RoleName="reader", PolicyName="read", PolicyDocument=json.dumps(POLICY))
    return {
        name: sts.assume_role(
            RoleArn=f"arn:aws:iam::123456789012:role/{name}", RoleSessionName="function"
        )["Credentials"]
        for name in ("reader", "stranger")
    }


def main():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = clients(endpoint)
    key_id = client("kms").create_key()["KeyMetadata"]["KeyId"]
    ready = {
        "endpoint": endpoint,
        "parameter": put_parameters(client("ssm"), key_id),
        "secrets": put_secrets(client("secretsmanager"), key_id),
        "callers": make_callers(client("iam"), client("sts")),
    }
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    ActionAuthenticatorMixin.request_count = 0
    print(json.dumps(ready, default=str), flush=True)
    sys.stdin.read()
    server.stop()


main()
