# The role of deploy.yml: trusts one environment of one repository on GitHub, and may push the image
# and update the service. docs/deploying/pipelines.md.

locals {
  issuer = "token.actions.githubusercontent.com"
  github = var.github == null ? [] : [var.github]
}

# There can be one in an account.
resource "aws_iam_openid_connect_provider" "github" {
  count = length([for github in local.github : github if github.provider_arn == null])

  url            = "https://${local.issuer}"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "github" {
  count = length(local.github)

  name_prefix = "${var.name}-github-"
  description = "Deploys ${var.name} from GitHub"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = coalesce(var.github.provider_arn, one(aws_iam_openid_connect_provider.github[*].arn)) }
      Condition = {
        StringEquals = {
          "${local.issuer}:aud" = "sts.amazonaws.com"
          # Repositories made since 2026-07-15 have the second form.
          "${local.issuer}:sub" = [
            "repo:${var.github.owner}/${var.github.name}:environment:${var.github.environment}",
            "repo:${var.github.owner}@${var.github.owner_id}/${var.github.name}@${var.github.repository_id}:environment:${var.github.environment}",
          ]
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "github" {
  count = length(local.github)

  name = "deploy"
  role = aws_iam_role.github[0].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        # No narrower resource can be named: a new task definition has no ARN yet.
        Action = [
          "ecr:GetAuthorizationToken",
          "ecs:DescribeTaskDefinition",
          "ecs:RegisterTaskDefinition",
        ]
        Resource = "*"
      },
      {
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability",
          "ecr:BatchGetImage",
          "ecr:CompleteLayerUpload",
          "ecr:GetDownloadUrlForLayer",
          "ecr:InitiateLayerUpload",
          "ecr:PutImage",
          "ecr:UploadLayerPart",
        ]
        Resource = aws_ecr_repository.weir.arn
      },
      {
        Effect = "Allow"
        Action = [
          "ecs:DescribeServiceDeployments",
          "ecs:DescribeServices",
          "ecs:ListServiceDeployments",
          "ecs:StopServiceDeployment",
          "ecs:UpdateService",
        ]
        Resource = [
          "${replace(aws_ecs_cluster.weir.arn, ":cluster/", ":service/")}/${var.name}",
          "${replace(aws_ecs_cluster.weir.arn, ":cluster/", ":service/")}/${local.worker}",
          "${replace(aws_ecs_cluster.weir.arn, ":cluster/", ":service-deployment/")}/${var.name}/*",
        ]
      },
      {
        # A task definition names these two, and no role that may do more.
        Effect    = "Allow"
        Action    = "iam:PassRole"
        Resource  = [aws_iam_role.execution.arn, aws_iam_role.task.arn]
        Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
      },
    ]
  })
}
