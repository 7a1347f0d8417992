locals {
  # The log group is the function's own, so that two functions with modules of the same name have alarms of their own.
  losses_of = var.loss_alarm == null ? "" : replace(trimprefix(var.loss_alarm.log_group_name, "/"), "/", "-")

  # The extension's report: one line of JSON per environment, with what it had to drop since it started.
  loss_pattern = "{ ($.message = \"langfuse-extension report\") && ($.dropped > 0) }"
  loss_value   = "$.dropped"
}

resource "aws_cloudwatch_log_metric_filter" "losses" {
  count = var.loss_alarm == null ? 0 : 1

  name           = "${var.name}-dropped"
  log_group_name = var.loss_alarm.log_group_name
  pattern        = local.loss_pattern

  metric_transformation {
    namespace = "LangfuseExtension"
    name      = "Dropped-${local.losses_of}"
    value     = local.loss_value
  }
}

resource "aws_cloudwatch_metric_alarm" "losses" {
  count = var.loss_alarm == null ? 0 : 1

  alarm_name          = substr("${var.name}-dropped-${local.losses_of}", 0, 255)
  alarm_description   = "langfuse-extension dropped spans or scores. Its report in ${var.loss_alarm.log_group_name} says why."
  namespace           = aws_cloudwatch_log_metric_filter.losses[0].metric_transformation[0].namespace
  metric_name         = aws_cloudwatch_log_metric_filter.losses[0].metric_transformation[0].name
  statistic           = "Sum"
  period              = var.loss_alarm.period_seconds
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.loss_alarm.actions
  tags                = var.tags
}
