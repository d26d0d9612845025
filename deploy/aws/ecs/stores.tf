# PostgreSQL and Valkey, where none of your own are named.

locals {
  make_database = var.database_secret_arn == null
  make_cache    = var.redis_secret_arn == null
}

resource "aws_db_subnet_group" "weir" {
  count = local.make_database ? 1 : 0

  name_prefix = "${var.name}-"
  subnet_ids  = local.private_subnets
}

# Its log is PostgreSQL's own, in CloudWatch.
resource "aws_db_instance" "weir" {
  count = local.make_database ? 1 : 0

  identifier_prefix = "${var.name}-"
  engine            = "postgres"
  engine_version    = "17"
  instance_class    = var.database.class
  multi_az          = var.database.multi_az

  allocated_storage     = var.database.storage
  max_allocated_storage = var.database.storage * 5
  storage_type          = "gp3"
  storage_encrypted     = true

  db_name  = "weir"
  username = "weir"
  # RDS makes the password, keeps it in a secret of its own and changes it every week.
  manage_master_user_password = true

  db_subnet_group_name   = aws_db_subnet_group.weir[0].name
  vpc_security_group_ids = [aws_security_group.stores.id]
  publicly_accessible    = false
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  auto_minor_version_upgrade      = true
  backup_retention_period         = 7
  copy_tags_to_snapshot           = true
  enabled_cloudwatch_logs_exports = ["postgresql"]

  deletion_protection       = var.deletion_protection
  skip_final_snapshot       = !var.deletion_protection
  final_snapshot_identifier = var.deletion_protection ? "${var.name}-last-${formatdate("YYYYMMDDhhmmss", timestamp())}" : null

  lifecycle {
    ignore_changes = [final_snapshot_identifier]
  }
}

resource "aws_elasticache_subnet_group" "weir" {
  count = local.make_cache ? 1 : 0

  name       = var.name
  subnet_ids = local.private_subnets
}

resource "aws_elasticache_parameter_group" "weir" {
  count = local.make_cache ? 1 : 0

  name   = var.name
  family = "valkey8"

  # When it is full, what was used least goes first: mostly cached answers.
  parameter {
    name  = "maxmemory-policy"
    value = "volatile-lru"
  }
}

# Without a password: one would stand in Terraform's state. TLS, and only the tasks can reach it.
resource "aws_elasticache_replication_group" "weir" {
  count = local.make_cache ? 1 : 0

  replication_group_id = var.name
  description          = "Cache, limits and flights of ${var.name}"
  engine               = "valkey"
  engine_version       = "8.0"
  node_type            = var.cache.type
  num_cache_clusters   = var.cache.nodes
  parameter_group_name = aws_elasticache_parameter_group.weir[0].name
  port                 = 6379

  automatic_failover_enabled = var.cache.nodes > 1
  multi_az_enabled           = var.cache.nodes > 1
  at_rest_encryption_enabled = true
  transit_encryption_enabled = true
  apply_immediately          = true

  subnet_group_name  = aws_elasticache_subnet_group.weir[0].name
  security_group_ids = [aws_security_group.stores.id]

  lifecycle {
    # Set by hand, as docs/deploying/ecs.md shows.
    ignore_changes = [auth_token, auth_token_update_strategy]
  }
}

# AWS's own key encrypts it: one of your own costs by the month.
resource "aws_secretsmanager_secret" "redis" {
  count = local.make_cache ? 1 : 0

  name_prefix             = "${var.name}/redis-"
  description             = "REDIS_URL of ${var.name}"
  recovery_window_in_days = 7
}

resource "aws_secretsmanager_secret_version" "redis" {
  count = local.make_cache ? 1 : 0

  secret_id = aws_secretsmanager_secret.redis[0].id
  secret_string_wo = jsonencode({
    REDIS_URL = "rediss://${aws_elasticache_replication_group.weir[0].primary_endpoint_address}:6379/0"
  })
  secret_string_wo_version = 1
}
