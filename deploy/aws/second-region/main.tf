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

variable "name" {
  description = "As in the first region."
  type        = string
  default     = "weir"
}

variable "domain" {
  description = "The domain of the first region."
  type        = string
}

variable "zone_id" {
  description = "The hosted zone of the first region."
  type        = string
}

variable "certificate_arn" {
  description = "Certificate of ACM in this region for the domain. Null: one is made and validated through zone_id."
  type        = string
  default     = null
}

variable "image_tag" {
  description = "Tag of the image in this region's repository. Null: everything but the service is made."
  type        = string
  default     = null
}

variable "architecture" {
  description = "As in the first region."
  type        = string
  default     = "X86_64"
}

variable "network" {
  description = "A VPC of your own in this region. Null: one is made."
  type = object({
    vpc_id          = string
    public_subnets  = list(string)
    private_subnets = list(string)
  })
  default = null
}

variable "nat_gateways" {
  description = "As in the first region."
  type        = number
  default     = 1
}

variable "task" {
  description = "As in the first region."
  type = object({
    cpu    = number
    memory = number
  })
  default = {
    cpu    = 512
    memory = 1024
  }
}

variable "database_secret_arn" {
  description = "Secret in this region with the field DATABASE_URL of a PostgreSQL of your own. Null: RDS PostgreSQL is made."
  type        = string
  default     = null
}

variable "database" {
  description = "As in the first region."
  type = object({
    class    = string
    storage  = number
    multi_az = bool
  })
  default = {
    class    = "db.t4g.small"
    storage  = 20
    multi_az = false
  }
}

variable "redis_secret_arn" {
  description = "Secret in this region with the field REDIS_URL of a Redis or Valkey of your own. Null: ElastiCache Valkey is made."
  type        = string
  default     = null
}

variable "cache" {
  description = "As in the first region."
  type = object({
    type  = string
    nodes = number
  })
  default = {
    type  = "cache.t4g.micro"
    nodes = 1
  }
}

variable "llm_deadline" {
  description = "As in the first region."
  type        = number
  default     = 120
}

variable "log_retention_days" {
  description = "As in the first region."
  type        = number
  default     = 30
}

variable "alarm_email" {
  description = "Address that this region's alarms are sent to, after it has confirmed. Null: they are only shown."
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

variable "workers" {
  description = "As in the first region."
  type = object({
    min    = number
    max    = number
    lines  = number
    cpu    = number
    memory = number
  })
  default = null
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

  name                = var.name
  domain              = var.domain
  zone_id             = var.zone_id
  certificate_arn     = var.certificate_arn
  validation_record   = false
  image_tag           = var.image_tag
  architecture        = var.architecture
  network             = var.network
  nat_gateways        = var.nat_gateways
  task                = var.task
  database_secret_arn = var.database_secret_arn
  database            = var.database
  redis_secret_arn    = var.redis_secret_arn
  cache               = var.cache
  llm_deadline        = var.llm_deadline
  log_retention_days  = var.log_retention_days
  alarm_email         = var.alarm_email
  secret_settings     = var.secret_settings
  settings            = var.settings
  tasks               = var.tasks
  workers             = var.workers
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
