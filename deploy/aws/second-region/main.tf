# A second Weir in another region, under the same domain. Route 53 answers with the region that is
# nearer to the client, and with the other one while a region has no healthy task.
#
# Nothing is shared but the domain and the zone: docs/deploying/ecs.md says what that means for keys,
# budgets, limits and the cache.
terraform {
  required_version = ">= 1.11.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100.0, < 7.0.0"
    }
  }
}

variable "region" {
  description = "The second region, such as us-east-1."
  type        = string
}

variable "domain" {
  description = "The domain of the first region."
  type        = string
}

variable "zone_id" {
  description = "The hosted zone of the first region."
  type        = string
}

variable "image_tag" {
  description = "Tag of the image in this region's repository. Null: everything but the service is made."
  type        = string
  default     = null
}

variable "secret_settings" {
  description = "As in the first region, API_KEYS among them."
  type        = set(string)
  default     = ["API_KEYS"]
}

variable "settings" {
  description = "As in the first region."
  type        = map(string)
  default     = {}
}

variable "tasks" {
  description = "The least and the most tasks."
  type = object({
    min = number
    max = number
  })
  default = {
    min = 1
    max = 10
  }
}

variable "rolling_service" {
  description = "As in the first region: false where the canary module makes the service."
  type        = bool
  default     = true
}

variable "deletion_protection" {
  description = "As in the first region."
  type        = bool
  default     = true
}

provider "aws" {
  region = var.region
}

module "weir" {
  source = "../ecs"

  domain              = var.domain
  zone_id             = var.zone_id
  validation_record   = false
  image_tag           = var.image_tag
  secret_settings     = var.secret_settings
  settings            = var.settings
  tasks               = var.tasks
  rolling_service     = var.rolling_service
  deletion_protection = var.deletion_protection
  # Others than in the first region, so that the two can be peered one day.
  cidr = "10.21.0.0/16"
}

output "repository" {
  description = "Where the image is pushed to."
  value       = module.weir.repository
}

output "settings_secret" {
  description = "The secret with the settings that secret_settings names."
  value       = module.weir.settings_secret
}

output "canary" {
  description = "What ../canary needs to know."
  value       = module.weir.canary
}
