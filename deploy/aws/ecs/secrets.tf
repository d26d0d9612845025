# Secrets. Their values pass through Terraform as write-only values or not at all, so neither a plan
# nor the state has them. The task gets references, which Weir reads itself, again and again: a
# rotation needs no deployment.

locals {
  generated = toset(["SECRET_KEY", "ADMIN_PASSWORD", "METRICS_TOKEN"])

  database_secret_arn = var.database_secret_arn != null ? var.database_secret_arn : aws_db_instance.weir[0].master_user_secret[0].secret_arn
  redis_secret_arn    = var.redis_secret_arn != null ? var.redis_secret_arn : aws_secretsmanager_secret.redis[0].arn

  secret_arns = [
    aws_secretsmanager_secret.generated.arn,
    aws_secretsmanager_secret.settings.arn,
    local.database_secret_arn,
    local.redis_secret_arn,
  ]
  secret_references = merge(
    {
      REDIS_URL = "aws-sm://${local.redis_secret_arn}#REDIS_URL"
    },
    local.make_database ? {
      DATABASE_PASSWORD = "aws-sm://${local.database_secret_arn}#password"
      } : {
      DATABASE_URL = "aws-sm://${local.database_secret_arn}#DATABASE_URL"
    },
    {
      for setting in local.generated :
      setting => "aws-sm://${aws_secretsmanager_secret.generated.arn}#${setting}"
    },
    {
      for setting in var.secret_settings :
      setting => "aws-sm://${aws_secretsmanager_secret.settings.arn}#${setting}"
    },
  )
}

# Names have a random end: for a week after it was deleted, a secret's name cannot be used again.

# AWS's own key encrypts it: one of your own costs by the month.
resource "aws_secretsmanager_secret" "generated" {
  name_prefix             = "${var.name}/generated-"
  description             = "Made when ${var.name} was"
  recovery_window_in_days = 7
}

ephemeral "aws_secretsmanager_random_password" "generated" {
  for_each = local.generated

  password_length     = 40
  exclude_punctuation = true
}

resource "aws_secretsmanager_secret_version" "generated" {
  secret_id = aws_secretsmanager_secret.generated.id
  secret_string_wo = jsonencode({
    for name, made in ephemeral.aws_secretsmanager_random_password.generated : name => made.random_password
  })
  secret_string_wo_version = 1
}

# Yours: a JSON object with the fields that secret_settings names. Terraform never sees its value.
# AWS's own key encrypts it, too.
resource "aws_secretsmanager_secret" "settings" {
  name_prefix             = "${var.name}/settings-"
  description             = "Secret settings of ${var.name}: ${join(", ", var.secret_settings)}"
  recovery_window_in_days = 7
}
