variable "name" {
  description = "The function's name, also the prefix of what belongs to it."
  type        = string
  default     = "langfuse-zip-python"
}

variable "architecture" {
  description = "The function's architecture; app and layer must be built for the same one."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture must be x86_64 or arm64."
  }
}

variable "function_zip" {
  description = "The app, packaged by ./package.sh."
  type        = string
  default     = "build/function.zip"

  validation {
    condition     = fileexists(var.function_zip)
    error_message = "function_zip does not exist: run ./package.sh in this folder first."
  }
}

variable "layer_zip" {
  description = "The extension's layer, built by `make layer` or downloaded from a release."
  type        = string
}

variable "base_url" {
  description = "Langfuse's address."
  type        = string
  default     = "https://cloud.langfuse.com"
}

variable "langfuse_secret_arn" {
  description = "A Secrets Manager secret, {\"public_key\": \"pk-lf-…\", \"secret_key\": \"sk-lf-…\"}."
  type        = string
}

variable "tracing_enabled" {
  description = "The kill switch."
  type        = bool
  default     = true
}
