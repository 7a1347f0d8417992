terraform {
  required_version = ">= 1.9" # Validations that look at more than one variable.

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}
