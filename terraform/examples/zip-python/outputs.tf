output "function_name" {
  description = "For `aws lambda invoke`."
  value       = aws_lambda_function.this.function_name
}

output "layer_arn" {
  description = "The layer that the function runs with."
  value       = module.langfuse.layer_arns[var.architecture]
}

output "environment" {
  description = "What the function runs with; its keys are references."
  value       = module.langfuse.environment
}
