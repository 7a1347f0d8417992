#!/bin/sh
# AWS's emulator starts this in place of the bootstrap of AWS's images, which is what starts a wrapper there.
exec "$AWS_LAMBDA_EXEC_WRAPPER" /var/task/function.py
