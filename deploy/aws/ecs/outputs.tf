# What the commands in docs/deploying/ecs.md and the canary need.

output "url" {
  description = "Where Weir answers."
  value       = "https://${var.domain}"
}

output "repository" {
  description = "Where the image is pushed to."
  value       = aws_ecr_repository.weir.repository_url
}

output "settings_secret" {
  description = "The secret with the settings that secret_settings names."
  value       = aws_secretsmanager_secret.settings.arn
}

output "generated_secret" {
  description = "The secret with ADMIN_PASSWORD, SECRET_KEY and METRICS_TOKEN."
  value       = aws_secretsmanager_secret.generated.arn
}

output "balancer" {
  description = "The load balancer's own name, for a CNAME where the domain's DNS is not in Route 53."
  value       = aws_lb.weir.dns_name
}

output "task_definition" {
  description = "The task definition, with its revision."
  value       = aws_ecs_task_definition.weir.arn
}

output "github_role" {
  description = "The role that GitHub deploys with."
  value       = one(aws_iam_role.github[*].arn)
}

output "canary" {
  description = "What ../canary needs to know."
  value = {
    name            = var.name
    cluster         = aws_ecs_cluster.weir.name
    task_definition = aws_ecs_task_definition.weir.arn
    subnets         = local.private_subnets
    security_groups = [aws_security_group.tasks.id]
    port            = local.port
    listener        = aws_lb_listener.https.arn
    target_groups   = { for name, group in aws_lb_target_group.weir : name => group.arn }
    errors_alarm    = aws_cloudwatch_metric_alarm.errors.alarm_name
    tasks           = var.tasks
  }
}
