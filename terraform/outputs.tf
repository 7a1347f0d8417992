output "layer_arns" {
  description = "The layer's version by architecture, for `layers` of a zip function: [module.NAME.layer_arns[\"arm64\"]]. Empty for container images."
  value       = local.layer_arns
}

output "environment" {
  description = "The function's whole environment: the app's own variables, where it finds the extension, and the extension's settings. Sensitive where secret_key is given as a value."
  value       = local.environment
}

output "policy_json" {
  description = "What the function's role must be allowed: to read exactly the parameters and secrets given here. null where there are none."
  value       = local.policy_json
}

output "endpoint" {
  description = "The extension's address in the sandbox, for anything that does not read the environment; OpenTelemetry exporters append /v1/traces."
  value       = local.address
}

output "tracing_enabled" {
  description = "Whether anything is shipped."
  value       = var.tracing_enabled
}

output "loss_alarm_arn" {
  description = "The alarm on losses, or null."
  value       = one(aws_cloudwatch_metric_alarm.losses[*].arn)
}
