# The VPC: two zones, public subnets for the load balancer, private ones for tasks and stores.

data "aws_region" "current" {}

data "aws_caller_identity" "current" {}

data "aws_availability_zones" "available" {
  state = "available"

  # No local zones: they have neither load balancers nor databases.
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

locals {
  make_network = var.network == null
  zones        = local.make_network ? slice(data.aws_availability_zones.available.names, 0, 2) : []
  nat_gateways = local.make_network ? var.nat_gateways : 0

  vpc_id          = local.make_network ? aws_vpc.weir[0].id : var.network.vpc_id
  public_subnets  = local.make_network ? aws_subnet.public[*].id : var.network.public_subnets
  private_subnets = local.make_network ? aws_subnet.private[*].id : var.network.private_subnets

  region = data.aws_region.current.id
}

# Flow logs cost by the gigabyte, and of a stream of tokens there are many. Turn them on where your
# rules ask for them.
resource "aws_vpc" "weir" {
  count = local.make_network ? 1 : 0

  cidr_block           = var.cidr
  enable_dns_hostnames = true
  enable_dns_support   = true
  tags                 = { Name = var.name }
}

# Nothing uses it: it is emptied, as its default lets members reach each other.
resource "aws_default_security_group" "unused" {
  count = local.make_network ? 1 : 0

  vpc_id = aws_vpc.weir[0].id
  tags   = { Name = "${var.name}-unused" }
}

resource "aws_internet_gateway" "weir" {
  count = local.make_network ? 1 : 0

  vpc_id = aws_vpc.weir[0].id
  tags   = { Name = var.name }
}

resource "aws_subnet" "public" {
  count = length(local.zones)

  vpc_id            = aws_vpc.weir[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.cidr, 4, count.index)
  tags              = { Name = "${var.name}-public-${local.zones[count.index]}" }
}

resource "aws_subnet" "private" {
  count = length(local.zones)

  vpc_id            = aws_vpc.weir[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.cidr, 4, count.index + 8)
  tags              = { Name = "${var.name}-private-${local.zones[count.index]}" }
}

resource "aws_route_table" "public" {
  count = local.make_network ? 1 : 0

  vpc_id = aws_vpc.weir[0].id
  tags   = { Name = "${var.name}-public" }

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.weir[0].id
  }
}

resource "aws_route_table_association" "public" {
  count = length(local.zones)

  subnet_id      = aws_subnet.public[count.index].id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_eip" "nat" {
  count = local.nat_gateways

  domain = "vpc"
  tags   = { Name = "${var.name}-nat-${count.index}" }
}

resource "aws_nat_gateway" "weir" {
  count = local.nat_gateways

  allocation_id = aws_eip.nat[count.index].id
  subnet_id     = aws_subnet.public[count.index].id
  tags          = { Name = "${var.name}-${count.index}" }

  depends_on = [aws_internet_gateway.weir]
}

resource "aws_route_table" "private" {
  count = length(local.zones)

  vpc_id = aws_vpc.weir[0].id
  tags   = { Name = "${var.name}-private-${local.zones[count.index]}" }

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.weir[min(count.index, var.nat_gateways - 1)].id
  }
}

resource "aws_route_table_association" "private" {
  count = length(local.zones)

  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private[count.index].id
}

# Free, and the image's layers come from S3: they need not pass the NAT gateway.
resource "aws_vpc_endpoint" "s3" {
  count = local.make_network ? 1 : 0

  vpc_id          = aws_vpc.weir[0].id
  service_name    = "com.amazonaws.${local.region}.s3"
  route_table_ids = aws_route_table.private[*].id
  tags            = { Name = "${var.name}-s3" }
}

# -- who may reach whom --

resource "aws_security_group" "balancer" {
  name_prefix = "${var.name}-balancer-"
  description = "The load balancer of ${var.name}"
  vpc_id      = local.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

# An API for clients anywhere: every request needs a key, and HTTP is redirected to HTTPS.
resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = toset(["80", "443"])

  security_group_id = aws_security_group.balancer.id
  description       = "Clients, port ${each.key}"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = tonumber(each.key)
  to_port           = tonumber(each.key)
}

resource "aws_vpc_security_group_egress_rule" "balancer_to_tasks" {
  security_group_id            = aws_security_group.balancer.id
  description                  = "Tasks"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
}

resource "aws_security_group" "tasks" {
  name_prefix = "${var.name}-tasks-"
  description = "The tasks of ${var.name}"
  vpc_id      = local.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "tasks_from_balancer" {
  security_group_id            = aws_security_group.tasks.id
  description                  = "The load balancer only: it is the one proxy that TRUSTED_PROXIES counts"
  referenced_security_group_id = aws_security_group.balancer.id
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
}

# Providers may be anywhere, and at any port: a server of your own is one.
#trivy:ignore:AWS-0104
resource "aws_vpc_security_group_egress_rule" "tasks_to_all" {
  security_group_id = aws_security_group.tasks.id
  description       = "Providers, AWS, the stores"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

resource "aws_security_group" "stores" {
  name_prefix = "${var.name}-stores-"
  description = "PostgreSQL and Valkey of ${var.name}"
  vpc_id      = local.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "stores_from_tasks" {
  for_each = { PostgreSQL = 5432, Valkey = 6379 }

  security_group_id            = aws_security_group.stores.id
  description                  = "${each.key} from the tasks"
  referenced_security_group_id = aws_security_group.tasks.id
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
}
