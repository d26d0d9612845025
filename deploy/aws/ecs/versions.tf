# Runs with either major version of the provider. Secrets are passed as write-only values, which
# need Terraform 1.11 or OpenTofu 1.11.
terraform {
  required_version = ">= 1.11.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100.0, < 7.0.0"
    }
  }
}
