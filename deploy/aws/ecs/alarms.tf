# Alarms, and whom they tell.

locals {
  balancer = { LoadBalancer = aws_lb.weir.arn_suffix }
  database = { DBInstanceIdentifier = one(aws_db_instance.weir[*].identifier) }
  cache    = { ReplicationGroupId = one(aws_elasticache_replication_group.weir[*].id) }

  alarms = merge(
    {
      balancer-errors = {
        description = "The load balancer itself answers with errors: no task, or one that hung up."
        namespace   = "AWS/ApplicationELB", metric = "HTTPCode_ELB_5XX_Count", statistic = "Sum"
        dimensions  = local.balancer, below = false, threshold = 10, minutes = 3
      }
      cpu = {
        description = "The tasks are busy although there are as many as allowed: raise tasks.max or task.cpu."
        namespace   = "AWS/ECS", metric = "CPUUtilization", statistic = "Average"
        dimensions  = { ClusterName = aws_ecs_cluster.weir.name, ServiceName = var.name }
        below       = false, threshold = 90, minutes = 15
      }
      memory = {
        description = "The tasks are short of memory."
        namespace   = "AWS/ECS", metric = "MemoryUtilization", statistic = "Maximum"
        dimensions  = { ClusterName = aws_ecs_cluster.weir.name, ServiceName = var.name }
        below       = false, threshold = 90, minutes = 5
      }
    },
    # A canary moves between two target groups; balancer-errors covers it.
    var.rolling_service ? {
      no-healthy-task = {
        description = "No task is ready: clients get 503."
        namespace   = "AWS/ApplicationELB", metric = "HealthyHostCount", statistic = "Maximum"
        dimensions  = merge(local.balancer, { TargetGroup = aws_lb_target_group.weir["blue"].arn_suffix })
        below       = true, threshold = 1, minutes = 3
      }
    } : {},
    local.make_database ? {
      database-cpu = {
        description = "PostgreSQL is busy: take a larger database.class."
        namespace   = "AWS/RDS", metric = "CPUUtilization", statistic = "Average"
        dimensions  = local.database, below = false, threshold = 85, minutes = 15
      }
      database-storage = {
        description = "PostgreSQL has less than 2 GiB of free storage, and has not grown by itself."
        namespace   = "AWS/RDS", metric = "FreeStorageSpace", statistic = "Minimum"
        dimensions  = local.database, below = true, threshold = 2147483648, minutes = 5
      }
    } : {},
    local.make_cache ? {
      cache-memory = {
        description = "Valkey evicts what it holds: take a larger cache.type."
        namespace   = "AWS/ElastiCache", metric = "DatabaseMemoryUsagePercentage", statistic = "Maximum"
        dimensions  = local.cache, below = false, threshold = 90, minutes = 15
      }
      cache-cpu = {
        description = "Valkey is busy: take a larger cache.type."
        namespace   = "AWS/ElastiCache", metric = "EngineCPUUtilization", statistic = "Maximum"
        dimensions  = local.cache, below = false, threshold = 85, minutes = 15
      }
    } : {},
  )
}

# Without encryption of its own: CloudWatch cannot publish to a topic under AWS's own key, and a key
# of one's own costs by the month. A message holds the alarm's name and its figures.
#trivy:ignore:AWS-0095
resource "aws_sns_topic" "alarms" {
  name = "${var.name}-alarms"
}

resource "aws_sns_topic_subscription" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

resource "aws_cloudwatch_metric_alarm" "weir" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = each.value.statistic
  dimensions          = each.value.dimensions
  comparison_operator = each.value.below ? "LessThanThreshold" : "GreaterThanThreshold"
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = each.value.minutes
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}

# A share and no number, so that it means the same at any traffic. It also ends a deployment: what
# goes wrong while it runs takes it back, an outage of the provider too.
resource "aws_cloudwatch_metric_alarm" "errors" {
  alarm_name          = "${var.name}-errors"
  alarm_description   = "More than 5 % of the answers are errors (5xx)."
  comparison_operator = "GreaterThanThreshold"
  threshold           = 5
  evaluation_periods  = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]

  metric_query {
    id          = "share"
    label       = "Errors, % of answers"
    expression  = "IF(requests >= 20, 100 * FILL(errors, 0) / requests, 0)"
    return_data = true
  }

  metric_query {
    id = "requests"

    metric {
      namespace   = "AWS/ApplicationELB"
      metric_name = "RequestCount"
      dimensions  = local.balancer
      period      = 60
      stat        = "Sum"
    }
  }

  metric_query {
    id = "errors"

    metric {
      namespace   = "AWS/ApplicationELB"
      metric_name = "HTTPCode_Target_5XX_Count"
      dimensions  = local.balancer
      period      = 60
      stat        = "Sum"
    }
  }
}
