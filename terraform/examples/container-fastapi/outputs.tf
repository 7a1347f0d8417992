output "url" {
  description = "The function's URL: POST /chat streams, GET /team answers at once."
  value       = aws_lambda_function_url.this.function_url
}

output "function_name" {
  description = "The function's name."
  value       = aws_lambda_function.this.function_name
}

output "environment" {
  description = "What the function runs with; its keys are references."
  value       = module.langfuse.environment
}
