variable "name" {
  description = "The function's name, also the prefix of what belongs to it."
  type        = string
  default     = "langfuse-container-fastapi"
}

variable "image_uri" {
  description = "The app's image in ECR, built from the Dockerfile beside this file."
  type        = string
}

variable "architecture" {
  description = "The image's architecture."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture must be x86_64 or arm64."
  }
}

variable "base_url" {
  description = "Langfuse's address."
  type        = string
  default     = "https://cloud.langfuse.com"
}

variable "public_key_parameter" {
  description = "The SSM parameter that holds the public key."
  type        = string
  default     = "/langfuse/public-key"
}

variable "secret_key_parameter" {
  description = "The SSM parameter (SecureString) that holds the secret key."
  type        = string
  default     = "/langfuse/secret-key"
}

variable "kms_key_arn" {
  description = "The KMS key of the secret parameter, where it is one of your own."
  type        = string
  default     = null
}

variable "url_authorization" {
  description = "Who may call the function's URL: AWS_IAM, or NONE for everybody."
  type        = string
  default     = "AWS_IAM"

  validation {
    condition     = contains(["AWS_IAM", "NONE"], var.url_authorization)
    error_message = "url_authorization must be AWS_IAM or NONE."
  }
}

variable "tracing_enabled" {
  description = "The kill switch."
  type        = bool
  default     = true
}
