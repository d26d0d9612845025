# The repository of the image.

# AWS's own key encrypts it. A key of your own costs by the month, and an image holds no secret.
resource "aws_ecr_repository" "weir" {
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  force_delete         = !var.deletion_protection

  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "weir" {
  repository = aws_ecr_repository.weir.name

  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "Keep the last 30 images: one for two architectures, with its records, counts as five"
      selection = {
        tagStatus   = "any"
        countType   = "imageCountMoreThan"
        countNumber = 150
      }
      action = { type = "expire" }
    }]
  })
}
