# What can be set. Only domain, and zone_id or certificate_arn, have no default.

variable "name" {
  description = "Name of the service and of what belongs to it."
  type        = string
  default     = "weir"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.name))
    error_message = "The name must be 2 to 20 lower-case letters, digits and hyphens."
  }
}

variable "domain" {
  description = "Host name under which clients reach Weir, such as weir.example.com."
  type        = string
}

variable "zone_id" {
  description = "Hosted zone of Route 53 for the certificate's and the domain's records. Null: the DNS is elsewhere; then certificate_arn is needed."
  type        = string
  default     = null
}

variable "certificate_arn" {
  description = "Certificate of ACM in this region for the domain. Null: one is made and validated through zone_id."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn != null || var.zone_id != null
    error_message = "Set zone_id, or certificate_arn if the domain's DNS is not in Route 53."
  }
}

variable "validation_record" {
  description = "False in a second region: its certificate for the same domain has the same record, which belongs to the first."
  type        = bool
  default     = true
}

variable "image_tag" {
  description = "Tag of the image in the repository. Null: everything but the service is made, so that there is a repository to push to."
  type        = string
  default     = null

  validation {
    condition     = var.image_tag != "latest"
    error_message = "Name a version: latest does not say what runs."
  }
}

variable "architecture" {
  description = "Architecture that the image was built for."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.architecture)
    error_message = "The architecture must be X86_64 or ARM64."
  }
}

variable "network" {
  description = "A VPC of your own: its id, public subnets for the load balancer, private ones with a way to the internet for the tasks. Null: one is made."
  type = object({
    vpc_id          = string
    public_subnets  = list(string)
    private_subnets = list(string)
  })
  default = null

  validation {
    condition     = var.network == null ? true : min(length(var.network.public_subnets), length(var.network.private_subnets)) >= 2
    error_message = "Name at least two public and two private subnets, in different zones."
  }
}

variable "cidr" {
  description = "Addresses of the VPC that is made."
  type        = string
  default     = "10.20.0.0/16"
}

variable "nat_gateways" {
  description = "1, or 2: one for each zone, so that one zone's failure leaves the other its way to the providers."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 2], var.nat_gateways)
    error_message = "There can be 1 or 2."
  }
}

variable "task" {
  description = "CPU units (1024 are one vCPU) and memory (MiB) of a task. It gets a worker process for each whole vCPU, at least one."
  type = object({
    cpu    = number
    memory = number
  })
  default = {
    cpu    = 512
    memory = 1024
  }
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

  validation {
    condition     = var.tasks.min >= 1 && var.tasks.max >= var.tasks.min
    error_message = "There must be at least one task, and not less of the most than of the least."
  }
}

variable "workers" {
  description = "Tasks that run the lines of batches and jobs: the least and the most, for how many waiting lines there is one, and its size (CPU units, MiB). Null: the service's own tasks run them."
  type = object({
    min    = number
    max    = number
    lines  = number
    cpu    = number
    memory = number
  })
  default = null

  validation {
    condition     = var.workers == null ? true : var.workers.min >= 0 && var.workers.max >= max(1, var.workers.min) && var.workers.max <= 20 && var.workers.lines >= 1
    error_message = "There must be 0 or more of the least, at most 20 of the most (a policy has no more steps), and a line or more for each."
  }
}

variable "rolling_service" {
  description = "Whether the service is made here, with rolling deployments. The canary module makes its own."
  type        = bool
  default     = true
}

variable "database_secret_arn" {
  description = "Secret with the field DATABASE_URL of a PostgreSQL of your own. Null: RDS PostgreSQL is made."
  type        = string
  default     = null
}

variable "database" {
  description = "The RDS instance: its class, its storage (GiB, grows by itself up to five times that), whether a second zone has a standby."
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
  description = "Secret with the field REDIS_URL of a Redis or Valkey of your own. Null: ElastiCache Valkey is made."
  type        = string
  default     = null
}

variable "cache" {
  description = "The ElastiCache nodes: their type and number. Two or more fail over between zones."
  type = object({
    type  = string
    nodes = number
  })
  default = {
    type  = "cache.t4g.micro"
    nodes = 1
  }
}

variable "secret_settings" {
  description = "Names of secret settings that you keep as fields of the settings secret, such as OPENAI_API_KEY or API_KEYS."
  type        = set(string)
  default     = []
}

variable "settings" {
  description = "Further settings of Weir that are no secrets (docs/settings.md)."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for name in keys(var.settings) :
      !can(regex("_KEY$|_KEYS$|_PASSWORD$|_SECRET$|_TOKEN$|^DATABASE_URL$|^REDIS_URL$|^BROKER_URL$|^OTEL_EXPORTER_OTLP_HEADERS$", name))
    ])
    error_message = "Secrets belong into the settings secret: name them in secret_settings."
  }
}

variable "llm_deadline" {
  description = "LLM_DEADLINE: seconds that an answer which is no stream may take. The load balancer waits a little longer."
  type        = number
  default     = 120

  validation {
    condition     = var.llm_deadline >= 30 && var.llm_deadline <= 900
    error_message = "It must be between 30 and 900."
  }
}

variable "log_retention_days" {
  description = "Days for which the log is kept."
  type        = number
  default     = 30
}

variable "alarm_email" {
  description = "Address that the alarms are sent to, after it has confirmed. Null: they are only shown."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Refuse to delete the load balancer and the database, and keep a last snapshot of the database. Turn it off, apply, then destroy."
  type        = bool
  default     = true
}

variable "github" {
  description = "The repository and the environment that may deploy (docs/deploying/pipelines.md). provider_arn: that of the account's OIDC provider for GitHub, where there is one. Null: none may."
  type = object({
    owner         = string
    owner_id      = number
    name          = string
    repository_id = number
    environment   = string
    provider_arn  = optional(string)
  })
  default = null
}
