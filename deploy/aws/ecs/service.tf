# Cluster, log, task and service. Workers: worker.tf.

locals {
  # SIGTERM normally follows the balancer's delay, but not where a task is stopped by hand or its
  # host is retired. So Weir gets as long as Fargate allows, and SIGKILL comes after SHUTDOWN_GRACE.
  shutdown_grace = 110
  stop_timeout   = 120

  settings = merge(
    {
      APP_ENV         = "production"
      HOST            = "0.0.0.0"
      PORT            = tostring(local.port)
      TRUSTED_PROXIES = "1"
      SHUTDOWN_GRACE  = tostring(local.shutdown_grace)
      LLM_DEADLINE    = tostring(var.llm_deadline)
      # A task's container sees neither its share of CPU nor its memory as limits of its own.
      WEB_CONCURRENCY = tostring(max(1, floor(var.task.cpu / 1024)))
    },
    # Without its password, which is a secret.
    local.make_database ? { DATABASE_URL = "postgresql://weir@${aws_db_instance.weir[0].address}:5432/weir?sslmode=require" } : {},
    var.settings,
    local.secret_references,
  )

  # Of a task that serves and of one that works.
  container = {
    name                   = "weir"
    image                  = "${aws_ecr_repository.weir.repository_url}:${coalesce(var.image_tag, "none-yet")}"
    essential              = true
    user                   = "10001:10001"
    readonlyRootFilesystem = true
    stopTimeout            = local.stop_timeout
    environment            = [for name, value in local.settings : { name = name, value = value }]
    # Each open stream holds two file descriptors.
    ulimits = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    linuxParameters = {
      capabilities = { drop = ["ALL"] }
      tmpfs        = [{ containerPath = "/tmp", size = 128, mountOptions = ["uid=10001", "gid=10001"] }]
    }
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.weir.name
        awslogs-region        = local.region
        awslogs-stream-prefix = "weir"
        # A log service that is slow must not stop Weir: lines beyond the buffer are lost instead.
        mode            = "non-blocking"
        max-buffer-size = "16m"
      }
    }
    mountPoints    = []
    systemControls = []
    volumesFrom    = []
  }
}

# AWS's own key encrypts it. Weir writes neither keys nor prompts into its log.
resource "aws_cloudwatch_log_group" "weir" {
  name              = "/ecs/${var.name}"
  retention_in_days = var.log_retention_days
}

resource "aws_ecs_cluster" "weir" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_task_definition" "weir" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.task.cpu
  memory                   = var.task.memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  # A deployment that fails goes back to the revision before, which must still be there.
  skip_destroy = true

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture
  }

  container_definitions = jsonencode([merge(local.container, {
    portMappings = [{ containerPort = local.port, hostPort = local.port, protocol = "tcp" }]
    # The image's own command; ECS does not read it from the image. Whether Weir is ready is what the
    # load balancer asks; this one only finds a process that hangs.
    healthCheck = {
      command     = ["CMD", "python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:${local.port}/liveness', timeout=4)"]
      interval    = 30
      timeout     = 5
      retries     = 3
      startPeriod = 60
    }
  })])
}

# Each task migrates at its start, under a lock in the database, before it is ready. Migrations only
# add, so the tasks of the version before go on meanwhile.
resource "aws_ecs_service" "weir" {
  count = var.rolling_service && var.image_tag != null ? 1 : 0

  name             = var.name
  cluster          = aws_ecs_cluster.weir.id
  task_definition  = aws_ecs_task_definition.weir.arn
  desired_count    = var.tasks.min
  launch_type      = "FARGATE"
  platform_version = "1.4.0"

  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 120
  availability_zone_rebalancing      = "ENABLED"
  enable_ecs_managed_tags            = true
  propagate_tags                     = "SERVICE"
  wait_for_steady_state              = true

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  alarms {
    enable      = true
    rollback    = true
    alarm_names = [aws_cloudwatch_metric_alarm.errors.alarm_name]
  }

  network_configuration {
    subnets          = local.private_subnets
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.weir["blue"].arn
    container_name   = "weir"
    container_port   = local.port
  }

  lifecycle {
    # Autoscaling decides.
    ignore_changes = [desired_count]
  }

  depends_on = [
    aws_iam_role_policy.execution,
    aws_iam_role_policy.task,
    aws_lb_listener.https,
    aws_secretsmanager_secret_version.generated,
    aws_secretsmanager_secret_version.redis,
    # While the service ends, its tasks still need their way out.
    aws_route_table_association.private,
  ]
}

module "autoscaling" {
  source = "./autoscaling"
  count  = length(aws_ecs_service.weir)

  cluster = aws_ecs_cluster.weir.name
  service = aws_ecs_service.weir[0].name
  tasks   = var.tasks
}
