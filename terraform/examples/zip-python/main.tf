# A zip function with the extension as a layer, its keys in one JSON secret, and an alarm on losses.

module "langfuse" {
  source = "../.."

  name            = var.name
  layer_zip       = { (var.architecture) = var.layer_zip }
  base_url        = var.base_url
  public_key_from = "${var.langfuse_secret_arn}#public_key"
  secret_key_from = "${var.langfuse_secret_arn}#secret_key"
  role_name       = aws_iam_role.function.name
  tracing_enabled = var.tracing_enabled
  app_environment = { MODEL = "example-1" }
  loss_alarm      = { log_group_name = aws_cloudwatch_log_group.function.name }
}

resource "aws_lambda_function" "this" {
  function_name    = var.name
  filename         = var.function_zip
  source_code_hash = filebase64sha256(var.function_zip)
  runtime          = "python3.13"
  handler          = "handler.handler"
  architectures    = [var.architecture]
  layers           = [module.langfuse.layer_arns[var.architecture]]
  role             = aws_iam_role.function.arn
  timeout          = 10
  memory_size      = 512

  environment {
    variables = module.langfuse.environment
  }

  # Without its permissions the first invocations would find no keys.
  depends_on = [module.langfuse, aws_iam_role_policy.logs]
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
