# The load balancer with TLS, its certificate and the domain's record.

locals {
  port = 8000
  # Longer than the longest plain answer; Weir's own idle connections (keepalive in
  # gunicorn.conf.py) last longer still, so that the balancer closes first and never sends a request
  # into a connection that Weir is closing. Streams send something every 15 s.
  idle_timeout     = var.llm_deadline + 10
  make_certificate = var.certificate_arn == null
}

# Clients are on the internet.
#trivy:ignore:AWS-0053
resource "aws_lb" "weir" {
  name                       = var.name
  internal                   = false
  load_balancer_type         = "application"
  security_groups            = [aws_security_group.balancer.id]
  subnets                    = local.public_subnets
  idle_timeout               = local.idle_timeout
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "defensive"
  enable_deletion_protection = var.deletion_protection
}

# One; a canary moves between two.
resource "aws_lb_target_group" "weir" {
  for_each = toset(var.rolling_service ? ["blue"] : ["blue", "green"])

  name        = "${var.name}-${each.key}"
  vpc_id      = local.vpc_id
  target_type = "ip"
  port        = local.port
  protocol    = "HTTP"

  # A task that goes keeps its connections this long; then it gets SIGTERM. No plain answer is cut.
  deregistration_delay = var.llm_deadline

  # ECS replaces what the balancer calls unhealthy, and without its database no task is ready: after
  # 100 s a fail-over of the database (1 to 2 minutes, of which Weir bridges 30 s) is over.
  health_check {
    path                = "/readiness"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 10
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.weir.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"

    redirect {
      port        = "443"
      protocol    = "HTTPS"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.weir.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = local.make_certificate ? aws_acm_certificate_validation.weir[0].certificate_arn : var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.weir["blue"].arn
  }
}

resource "aws_acm_certificate" "weir" {
  count = local.make_certificate ? 1 : 0

  domain_name       = var.domain
  validation_method = "DNS"

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  # One domain, one option.
  validation = one(flatten([for certificate in aws_acm_certificate.weir : tolist(certificate.domain_validation_options)]))
}

resource "aws_route53_record" "validation" {
  count = local.make_certificate && var.validation_record ? 1 : 0

  zone_id = var.zone_id
  name    = local.validation.resource_record_name
  type    = local.validation.resource_record_type
  records = [local.validation.resource_record_value]
  ttl     = 60
}

resource "aws_acm_certificate_validation" "weir" {
  count = local.make_certificate ? 1 : 0

  certificate_arn         = aws_acm_certificate.weir[0].arn
  validation_record_fqdns = var.validation_record ? aws_route53_record.validation[*].fqdn : null
}

# By latency from the start: with one region it is the only answer, and a second region adds its own
# record beside it, without a moment in which there is none.
resource "aws_route53_record" "weir" {
  count = var.zone_id == null ? 0 : 1

  zone_id        = var.zone_id
  name           = var.domain
  type           = "A"
  set_identifier = local.region

  latency_routing_policy {
    region = local.region
  }

  alias {
    name                   = aws_lb.weir.dns_name
    zone_id                = aws_lb.weir.zone_id
    evaluate_target_health = true
  }
}
