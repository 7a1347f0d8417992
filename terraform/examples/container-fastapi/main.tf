# A FastAPI app in a container image behind the Lambda Web Adapter: streamed answers by a Function URL, keys in SSM.
# Images cannot have layers: the extension is copied into the image, and the module gives settings and permissions.

module "langfuse" {
  source = "../.."

  name            = var.name
  base_url        = var.base_url
  public_key_from = "ssm:${var.public_key_parameter}"
  secret_key_from = "ssm:${var.secret_key_parameter}"
  kms_key_arn     = var.kms_key_arn
  role_name       = aws_iam_role.function.name
  tracing_enabled = var.tracing_enabled
  loss_alarm      = { log_group_name = aws_cloudwatch_log_group.function.name }

  app_environment = {
    AWS_LWA_PORT                 = "8080"
    AWS_LWA_READINESS_CHECK_PATH = "/healthz"
    AWS_LWA_INVOKE_MODE          = "response_stream"

    # Unnecessary from langfuse 4.7.0 on: see the app's /team.
    LANGFUSE_OBSERVE_DECORATOR_IO_CAPTURE_ENABLED = "false"
  }
}

resource "aws_lambda_function" "this" {
  function_name = var.name
  package_type  = "Image"
  image_uri     = var.image_uri
  architectures = [var.architecture]
  role          = aws_iam_role.function.arn
  timeout       = 60
  memory_size   = 512

  environment {
    variables = module.langfuse.environment
  }

  # Without its permissions the first invocations would find no keys.
  depends_on = [module.langfuse, aws_iam_role_policy.logs]
}

resource "aws_lambda_function_url" "this" {
  function_name      = aws_lambda_function.this.function_name
  authorization_type = var.url_authorization
  invoke_mode        = "RESPONSE_STREAM"
}

resource "aws_lambda_permission" "everybody" {
  count = var.url_authorization == "NONE" ? 1 : 0

  statement_id           = "everybody"
  action                 = "lambda:InvokeFunctionUrl"
  function_name          = aws_lambda_function.this.function_name
  principal              = "*"
  function_url_auth_type = "NONE"
}

resource "aws_cloudwatch_log_group" "function" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = 14
}

resource "aws_iam_role" "function" {
  name = var.name
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "logs" {
  name = "logs"
  role = aws_iam_role.function.name
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = "${aws_cloudwatch_log_group.function.arn}:*" }]
  })
}
