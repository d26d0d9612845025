# Workers: tasks that run the lines of batches and jobs, as many as there are lines for.

locals {
  workers = var.workers == null || var.image_tag == null ? [] : [var.workers]
  worker  = "${var.name}-worker"

  # Each process that works on batches logs once a minute how many lines wait, all the same number.
  waiting = { namespace = "Weir/${var.name}", name = "WaitingLines" }
}

resource "aws_ecs_task_definition" "worker" {
  count = length(local.workers)

  family                   = local.worker
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.workers.cpu
  memory                   = var.workers.memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  skip_destroy             = true

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  # It has no port that a health check could ask. Of one that hangs, others get the lines once its
  # heartbeats are missing.
  container_definitions = jsonencode([merge(local.container, {
    command      = ["flask", "worker"]
    portMappings = []
  })])
}

resource "aws_ecs_service" "worker" {
  count = length(local.workers)

  name             = local.worker
  cluster          = aws_ecs_cluster.weir.id
  task_definition  = aws_ecs_task_definition.worker[0].arn
  desired_count    = var.workers.min
  launch_type      = "FARGATE"
  platform_version = "1.4.0"

  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  availability_zone_rebalancing      = "ENABLED"
  enable_ecs_managed_tags            = true
  propagate_tags                     = "SERVICE"

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = local.private_subnets
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }

  lifecycle {
    # Autoscaling decides.
    ignore_changes = [desired_count]
  }

  depends_on = [
    aws_iam_role_policy.execution,
    aws_iam_role_policy.task,
    aws_secretsmanager_secret_version.generated,
    aws_secretsmanager_secret_version.redis,
    # While the service ends, its tasks still need their way out.
    aws_route_table_association.private,
  ]
}

resource "aws_cloudwatch_log_metric_filter" "waiting_lines" {
  count = length(local.workers)

  name           = "${var.name}-waiting-lines"
  log_group_name = aws_cloudwatch_log_group.weir.name
  pattern        = "{ $.waiting_lines = * }"

  # Without a default: a minute whose line comes late is no minute without lines that wait.
  metric_transformation {
    namespace = local.waiting.namespace
    name      = local.waiting.name
    value     = "$.waiting_lines"
  }

  lifecycle {
    precondition {
      condition     = contains(["info", "debug"], lower(lookup(var.settings, "LOG_LEVEL", "info")))
      error_message = "Workers are scaled by a line of the log at the level info: leave LOG_LEVEL there."
    }
  }
}

resource "aws_appautoscaling_target" "workers" {
  count = length(local.workers)

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.weir.name}/${aws_ecs_service.worker[0].name}"
  min_capacity       = var.workers.min
  max_capacity       = var.workers.max
}

# By steps, as tracking a target cannot begin at no task: the lines of each would be a division by zero.
resource "aws_appautoscaling_policy" "lines" {
  count = length(local.workers)

  name               = "${local.worker}-lines"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.workers[0].service_namespace
  scalable_dimension = aws_appautoscaling_target.workers[0].scalable_dimension
  resource_id        = aws_appautoscaling_target.workers[0].resource_id

  step_scaling_policy_configuration {
    adjustment_type         = "ExactCapacity"
    metric_aggregation_type = "Maximum"
    cooldown                = 60

    # A task for each `lines`, from the alarm's threshold on; the last step has no end.
    dynamic "step_adjustment" {
      for_each = range(var.workers.max)

      content {
        scaling_adjustment          = step_adjustment.value + 1
        metric_interval_lower_bound = step_adjustment.value * var.workers.lines
        metric_interval_upper_bound = step_adjustment.value + 1 == var.workers.max ? null : (step_adjustment.value + 1) * var.workers.lines
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "lines" {
  count = length(local.workers)

  alarm_name          = "${local.worker}-lines"
  alarm_description   = "Lines wait: scales the workers, and is no cause for concern."
  namespace           = local.waiting.namespace
  metric_name         = local.waiting.name
  statistic           = "Maximum"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  period              = 60
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.lines[0].arn]
}

resource "aws_appautoscaling_policy" "no_lines" {
  count = length(local.workers)

  name               = "${local.worker}-no-lines"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.workers[0].service_namespace
  scalable_dimension = aws_appautoscaling_target.workers[0].scalable_dimension
  resource_id        = aws_appautoscaling_target.workers[0].resource_id

  step_scaling_policy_configuration {
    adjustment_type         = "ExactCapacity"
    metric_aggregation_type = "Maximum"
    cooldown                = 60

    step_adjustment {
      scaling_adjustment          = var.workers.min
      metric_interval_upper_bound = 0
    }
  }
}

# As long as a line may run: when the last worker goes, none runs any more. Without figures all stays
# as it is.
resource "aws_cloudwatch_metric_alarm" "no_lines" {
  count = length(local.workers)

  alarm_name          = "${local.worker}-no-lines"
  alarm_description   = "No line waits: ends the workers that are not needed, and is no cause for concern."
  namespace           = local.waiting.namespace
  metric_name         = local.waiting.name
  statistic           = "Maximum"
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  period              = 60
  evaluation_periods  = ceil(var.llm_deadline / 60) + 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.no_lines[0].arn]
}
