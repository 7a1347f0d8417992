#!/bin/sh
# What an image's CMD is: the app of terraform/examples/container-fastapi, behind the Lambda Web Adapter.
exec "$APP_PYTHON" -m uvicorn app:app --host 127.0.0.1 --port "$AWS_LWA_PORT" --no-access-log
