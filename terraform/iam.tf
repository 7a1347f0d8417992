data "aws_partition" "current" {}
data "aws_region" "current" {}
data "aws_caller_identity" "current" {}

locals {
  # ssm:NAME is a parameter of this account and region; IAM and KMS know it by its ARN, without a doubled slash
  # and without the version or label that may come after its name.
  here       = "${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}"
  references = distinct([for from in [var.public_key_from, var.secret_key_from] : from if from != null])
  parameter_arns = [
    for from in local.references :
    startswith(from, "ssm:") ? "arn:${data.aws_partition.current.partition}:ssm:${local.here}:parameter/${trimprefix(split(":", trimprefix(from, "ssm:"))[0], "/")}" : join(":", slice(split(":", from), 0, 6))
    if startswith(from, "ssm:") || can(regex("^arn:[a-z-]+:ssm:", from))
  ]

  # Secrets Manager appends a hyphen and six characters to the name. An ARN without them is right to ask for, but not to
  # permit; and a name may itself end so ("my-secret"), which nobody can tell from a whole ARN: then both are permitted.
  secrets = distinct([for from in local.references : split("#", from)[0] if can(regex("^arn:[a-z-]+:secretsmanager:", from))])
  secret_arns = flatten([
    for arn in local.secrets : can(regex("-[A-Za-z0-9]{6}$", arn)) ? [arn, "${arn}-??????"] : ["${arn}-??????"]
  ])

  reads_parameters = length(local.parameter_arns) > 0
  reads_secrets    = length(local.secret_arns) > 0
  kms_key_arns     = distinct(concat(var.kms_key_arn == null ? [] : [var.kms_key_arn], var.kms_key_arns))
  has_own_kms_key  = length(local.kms_key_arns) > 0

  statements = [for one in [
    {
      needed = local.reads_parameters
      statement = {
        Sid      = "ReadLangfuseParameters"
        Effect   = "Allow"
        Action   = "ssm:GetParameter"
        Resource = local.parameter_arns
      }
    },
    {
      needed = local.reads_secrets
      statement = {
        Sid      = "ReadLangfuseSecrets"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = local.secret_arns
      }
    },
    # The keys may decrypt these parameters and secrets only, and only when their own service asks for it.
    {
      needed = local.reads_parameters && local.has_own_kms_key
      statement = {
        Sid      = "DecryptLangfuseParameters"
        Effect   = "Allow"
        Action   = "kms:Decrypt"
        Resource = local.kms_key_arns
        Condition = {
          StringLike   = { "kms:ViaService" = "ssm.*" }
          StringEquals = { "kms:EncryptionContext:PARAMETER_ARN" = local.parameter_arns }
        }
      }
    },
    {
      needed = local.reads_secrets && local.has_own_kms_key
      statement = {
        Sid      = "DecryptLangfuseSecrets"
        Effect   = "Allow"
        Action   = "kms:Decrypt"
        Resource = local.kms_key_arns
        Condition = {
          StringLike = { "kms:ViaService" = "secretsmanager.*", "kms:EncryptionContext:SecretARN" = local.secret_arns }
        }
      }
    },
  ] : one.statement if one.needed]

  policy_json = length(local.statements) == 0 ? null : jsonencode({ Version = "2012-10-17", Statement = local.statements })
}

resource "aws_iam_role_policy" "this" {
  count = length(local.references) > 0 && var.role_name != null ? 1 : 0

  name   = "${var.name}-keys"
  role   = var.role_name
  policy = local.policy_json
}
