# The service with canary deployments, in place of the one in ../ecs: a new version gets a share of
# the traffic first, then all of it, and goes back by itself while the errors' alarm rings. ECS does
# it, without CodeDeploy. Needs version 6 of the provider.
#
# What it needs to know comes from ../ecs (docs/deploying/ecs.md):
#   terraform -chdir=deploy/aws/ecs output -json canary > deploy/aws/canary/ecs.auto.tfvars.json
terraform {
  required_version = ">= 1.11.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.24.0, < 7.0.0"
    }
  }
}

variable "name" {
  description = "Name of the service."
  type        = string
}

variable "cluster" {
  description = "Name of the cluster."
  type        = string
}

variable "task_definition" {
  description = "ARN of the task definition that the service begins with."
  type        = string
}

variable "subnets" {
  description = "Private subnets of the tasks."
  type        = list(string)
}

variable "security_groups" {
  description = "Security groups of the tasks."
  type        = list(string)
}

variable "port" {
  description = "Port of the container."
  type        = number
}

variable "listener" {
  description = "ARN of the load balancer's listener for HTTPS."
  type        = string
}

variable "target_groups" {
  description = "ARNs of the two target groups that the traffic moves between."
  type = object({
    blue  = string
    green = string
  })
}

variable "errors_alarm" {
  description = "Name of the alarm that takes a deployment back."
  type        = string
}

variable "tasks" {
  description = "The least and the most tasks."
  type = object({
    min = number
    max = number
  })
}

variable "percent" {
  description = "Share of the traffic that a new version gets first."
  type        = number
  default     = 10
}

variable "canary_minutes" {
  description = "Minutes for which it gets no more than that."
  type        = number
  default     = 10
}

variable "bake_minutes" {
  description = "Minutes for which the version before is kept after the new one got all."
  type        = number
  default     = 15
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

# ECS moves the traffic with this role.
resource "aws_iam_role" "balancer" {
  name_prefix = "${var.name}-balancer-"
  description = "Lets ECS move the traffic of ${var.name} between its target groups"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id }
      }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "balancer" {
  role       = aws_iam_role.balancer.name
  policy_arn = "arn:${data.aws_partition.current.partition}:iam::aws:policy/AmazonECSInfrastructureRolePolicyForLoadBalancers"
}

# All paths. The weights are ECS's from the first deployment on.
resource "aws_lb_listener_rule" "all" {
  listener_arn = var.listener
  priority     = 1

  action {
    type = "forward"

    forward {
      target_group {
        arn    = var.target_groups.blue
        weight = 100
      }

      target_group {
        arn    = var.target_groups.green
        weight = 0
      }
    }
  }

  condition {
    path_pattern {
      values = ["/*"]
    }
  }

  lifecycle {
    ignore_changes = [action]
  }
}

resource "aws_ecs_service" "weir" {
  name             = var.name
  cluster          = var.cluster
  task_definition  = var.task_definition
  desired_count    = var.tasks.min
  launch_type      = "FARGATE"
  platform_version = "1.4.0"

  health_check_grace_period_seconds = 120
  availability_zone_rebalancing     = "ENABLED"
  enable_ecs_managed_tags           = true
  propagate_tags                    = "SERVICE"
  wait_for_steady_state             = true

  deployment_configuration {
    strategy             = "CANARY"
    bake_time_in_minutes = var.bake_minutes

    canary_configuration {
      canary_percent              = var.percent
      canary_bake_time_in_minutes = var.canary_minutes
    }
  }

  # The circuit breaker is for rolling deployments only.
  alarms {
    enable      = true
    rollback    = true
    alarm_names = [var.errors_alarm]
  }

  network_configuration {
    subnets          = var.subnets
    security_groups  = var.security_groups
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = var.target_groups.blue
    container_name   = "weir"
    container_port   = var.port

    advanced_configuration {
      alternate_target_group_arn = var.target_groups.green
      production_listener_rule   = aws_lb_listener_rule.all.arn
      role_arn                   = aws_iam_role.balancer.arn
    }
  }

  lifecycle {
    # Autoscaling decides how many. Deployments are made with `aws ecs update-service`: those that
    # Terraform makes do not change between the target groups (hashicorp/terraform-provider-aws
    # issue 45678).
    ignore_changes = [desired_count, load_balancer, task_definition]
  }

  depends_on = [aws_iam_role_policy_attachment.balancer]
}

module "autoscaling" {
  source = "../ecs/autoscaling"

  cluster = var.cluster
  service = aws_ecs_service.weir.name
  tasks   = var.tasks
}
