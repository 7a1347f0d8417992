# What the module hands out, for each way to use it.

mock_provider "aws" {
  override_data {
    target = data.aws_partition.current
    values = { partition = "aws" }
  }
  override_data {
    target = data.aws_region.current
    values = { id = "eu-west-1" }
  }
  override_data {
    target = data.aws_caller_identity.current
    values = { account_id = "123456789012" }
  }
}

run "without_any_variable_the_app_finds_the_extension_and_keeps_its_own_keys" {
  assert {
    condition = output.environment == tomap({
      LANGFUSE_BASE_URL           = "http://localhost:4318"
      LANGFUSE_FLUSH_AT           = "1"
      LANGFUSE_TRACING_ENABLED    = "true"
      NO_PROXY                    = "localhost,127.0.0.1"
      LANGFUSE_EXTENSION_BASE_URL = "https://cloud.langfuse.com"
    })
    error_message = "The smallest environment is ${jsonencode(output.environment)}"
  }

  assert {
    condition     = output.policy_json == null && length(output.layer_arns) == 0 && output.loss_alarm_arn == null && output.tracing_enabled
    error_message = "Nothing is made and nothing is permitted that was not asked for."
  }

  assert {
    condition     = output.endpoint == "http://localhost:4318"
    error_message = "The endpoint is ${output.endpoint}"
  }
}

run "the_kill_switch_reaches_sdk_and_extension" {
  variables {
    tracing_enabled = false
  }

  assert {
    condition     = output.environment.LANGFUSE_TRACING_ENABLED == "false" && output.tracing_enabled == false
    error_message = "SDKs read only the word false as off."
  }
}

run "every_setting_reaches_the_extension_under_its_name" {
  variables {
    base_url         = "https://langfuse.example.com/base"
    listen           = "127.0.0.1:4320"
    flush            = "background"
    flush_budget_ms  = 1500
    max_data_age_ms  = 5000
    buffer_bytes     = 1048576
    spool_bytes      = 0
    spool_dir        = "/tmp/spool"
    resend_ambiguous = false
    passthrough      = "off"
    prompt_cache     = false
    accept           = "langfuse"
    route_headers    = ["x-tenant", "x-region"]
    settings         = { SAMPLE = "0.5" }
    ca_file          = "/var/task/ca.pem"
    log_level        = "debug"
  }

  assert {
    condition = { for name, value in output.environment : name => value if startswith(name, "LANGFUSE_EXTENSION_") } == {
      LANGFUSE_EXTENSION_BASE_URL         = "https://langfuse.example.com/base"
      LANGFUSE_EXTENSION_LISTEN           = "127.0.0.1:4320"
      LANGFUSE_EXTENSION_FLUSH            = "background"
      LANGFUSE_EXTENSION_FLUSH_BUDGET_MS  = "1500"
      LANGFUSE_EXTENSION_MAX_DATA_AGE_MS  = "5000"
      LANGFUSE_EXTENSION_BUFFER_BYTES     = "1048576"
      LANGFUSE_EXTENSION_SPOOL_BYTES      = "0"
      LANGFUSE_EXTENSION_SPOOL_DIR        = "/tmp/spool"
      LANGFUSE_EXTENSION_RESEND_AMBIGUOUS = "false"
      LANGFUSE_EXTENSION_PASSTHROUGH      = "off"
      LANGFUSE_EXTENSION_PROMPT_CACHE     = "false"
      LANGFUSE_EXTENSION_ACCEPT           = "langfuse"
      LANGFUSE_EXTENSION_ROUTE_HEADERS    = "x-tenant,x-region"
      LANGFUSE_EXTENSION_SAMPLE           = "0.5"
      LANGFUSE_EXTENSION_CA_FILE          = "/var/task/ca.pem"
      LANGFUSE_EXTENSION_LOG_LEVEL        = "debug"
    }
    error_message = "The settings are ${jsonencode(output.environment)}"
  }

  assert {
    condition     = output.environment.LANGFUSE_BASE_URL == "http://localhost:4320" && output.endpoint == "http://localhost:4320"
    error_message = "The app follows the extension to another port."
  }
}

run "keys_from_parameters_stay_out_of_the_environment_and_get_the_least_policy" {
  variables {
    public_key_from = "ssm:/app/langfuse/public"
    secret_key_from = "arn:aws:ssm:eu-west-1:123456789012:parameter/app/langfuse/secret"
  }

  assert {
    condition = { for name, value in output.environment : name => value if endswith(name, "_KEY") } == {
      LANGFUSE_PUBLIC_KEY           = "pk-lf-extension"
      LANGFUSE_SECRET_KEY           = "sk-lf-extension"
      LANGFUSE_EXTENSION_PUBLIC_KEY = "ssm:/app/langfuse/public"
      LANGFUSE_EXTENSION_SECRET_KEY = "arn:aws:ssm:eu-west-1:123456789012:parameter/app/langfuse/secret"
    }
    error_message = "The keys are ${jsonencode(output.environment)}"
  }

  assert {
    condition = jsondecode(output.policy_json) == {
      Version = "2012-10-17"
      Statement = [{
        Sid      = "ReadLangfuseParameters"
        Effect   = "Allow"
        Action   = "ssm:GetParameter"
        Resource = ["arn:aws:ssm:eu-west-1:123456789012:parameter/app/langfuse/public", "arn:aws:ssm:eu-west-1:123456789012:parameter/app/langfuse/secret"]
      }]
    }
    error_message = "The policy is ${output.policy_json}"
  }

  assert {
    condition     = length(aws_iam_role_policy.this) == 0
    error_message = "Without role_name, attaching the policy is the caller's."
  }
}

run "keys_from_one_secret_with_an_own_kms_key" {
  variables {
    public_key      = "pk-lf-1234"
    secret_key_from = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf#secret_key"
    kms_key_arn     = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
    role_name       = "app"
  }

  assert {
    condition     = output.environment.LANGFUSE_PUBLIC_KEY == "pk-lf-1234" && output.environment.LANGFUSE_EXTENSION_PUBLIC_KEY == "pk-lf-1234"
    error_message = "A known public key is the app's own, too."
  }

  assert {
    condition = jsondecode(output.policy_json) == {
      Version = "2012-10-17"
      Statement = [
        {
          Sid      = "ReadLangfuseSecrets"
          Effect   = "Allow"
          Action   = "secretsmanager:GetSecretValue"
          Resource = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf-??????"]
        },
        {
          Sid      = "DecryptLangfuseSecrets"
          Effect   = "Allow"
          Action   = "kms:Decrypt"
          Resource = ["arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"]
          Condition = {
            StringLike = {
              "kms:ViaService"                  = "secretsmanager.*"
              "kms:EncryptionContext:SecretARN" = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf-??????"]
            }
          }
        },
      ]
    }
    error_message = "The policy is ${output.policy_json}"
  }

  assert {
    condition     = aws_iam_role_policy.this[0].role == "app" && aws_iam_role_policy.this[0].policy == output.policy_json
    error_message = "With role_name the policy is attached."
  }
}

run "a_parameter_and_a_secret_together_with_an_own_kms_key" {
  variables {
    public_key_from = "ssm:public"
    secret_key_from = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse"
    kms_key_arn     = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  assert {
    condition     = [for one in jsondecode(output.policy_json).Statement : one.Sid] == ["ReadLangfuseParameters", "ReadLangfuseSecrets", "DecryptLangfuseParameters", "DecryptLangfuseSecrets"]
    error_message = "The policy is ${output.policy_json}"
  }

  assert {
    condition     = jsondecode(output.policy_json).Statement[1].Resource == ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-??????"]
    error_message = "A secret's name without its six characters is permitted with any six, and nothing longer."
  }

  assert {
    condition     = jsondecode(output.policy_json).Statement[2].Condition.StringEquals["kms:EncryptionContext:PARAMETER_ARN"] == ["arn:aws:ssm:eu-west-1:123456789012:parameter/public"]
    error_message = "The key decrypts this parameter only."
  }
}

run "both_keys_in_one_json_secret_need_one_permission" {
  variables {
    public_key_from = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf#public"
    secret_key_from = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf#secret"
  }

  assert {
    condition     = jsondecode(output.policy_json).Statement[0].Resource == ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:langfuse-AbCdEf-??????"]
    error_message = "The policy is ${output.policy_json}"
  }
}

run "a_secret_key_given_as_a_value_needs_no_policy_and_is_sensitive" {
  module {
    source = "./tests/fixtures/secret-value"
  }

  assert {
    condition     = output.is_sensitive && output.setting == "sk-lf-5678" && output.app_secret_key == "sk-lf-extension" && output.policy_json == null
    error_message = "The value reaches the extension, marked sensitive, and not the app."
  }
}

run "the_apps_own_environment_is_kept_and_its_proxy_exceptions_extended" {
  variables {
    app_environment = {
      TABLE             = "things"
      LANGFUSE_FLUSH_AT = "5"
      NO_PROXY          = "10.0.0.1,localhost"
      no_proxy          = "internal"
    }
  }

  assert {
    condition     = output.environment.TABLE == "things" && output.environment.LANGFUSE_FLUSH_AT == "5"
    error_message = "The app's own variables win where the extension does not depend on them."
  }

  assert {
    condition     = output.environment.NO_PROXY == "10.0.0.1,localhost,127.0.0.1" && output.environment.no_proxy == "internal,localhost,127.0.0.1"
    error_message = "Both spellings except this sandbox: ${jsonencode(output.environment)}"
  }
}

run "layers_are_published_for_each_architecture_beside_given_ones" {
  variables {
    name      = "langfuse"
    layer_zip = { x86_64 = "tests/fixtures/layer.zip" }
    layer_arn = { arm64 = "arn:aws:lambda:eu-west-1:123456789012:layer:langfuse-arm64:3" }
  }

  assert {
    condition     = aws_lambda_layer_version.this["x86_64"].layer_name == "langfuse-x86_64" && contains(aws_lambda_layer_version.this["x86_64"].compatible_architectures, "x86_64")
    error_message = "One layer for each architecture."
  }

  assert {
    condition     = output.layer_arns == tomap({ x86_64 = aws_lambda_layer_version.this["x86_64"].arn, arm64 = "arn:aws:lambda:eu-west-1:123456789012:layer:langfuse-arm64:3" })
    error_message = "Both are handed out: ${jsonencode(output.layer_arns)}"
  }
}

run "losses_raise_an_alarm" {
  variables {
    loss_alarm = { log_group_name = "/aws/lambda/app", actions = ["arn:aws:sns:eu-west-1:123456789012:ops"] }
  }

  assert {
    condition     = aws_cloudwatch_log_metric_filter.losses[0].log_group_name == "/aws/lambda/app" && strcontains(aws_cloudwatch_log_metric_filter.losses[0].pattern, "$.dropped > 0")
    error_message = "The report's dropped field is counted."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.losses[0].metric_name == "Dropped-aws-lambda-app" && aws_cloudwatch_metric_alarm.losses[0].period == 300 && contains(aws_cloudwatch_metric_alarm.losses[0].alarm_actions, "arn:aws:sns:eu-west-1:123456789012:ops")
    error_message = "The alarm watches that metric and tells those topics."
  }

  assert {
    condition     = output.loss_alarm_arn == aws_cloudwatch_metric_alarm.losses[0].arn
    error_message = "The alarm is handed out."
  }
}

run "a_parameters_version_is_read_and_not_part_of_what_is_permitted" {
  variables {
    public_key_from = "ssm:/app/langfuse/public:3"
    secret_key_from = "arn:aws:ssm:eu-west-1:123456789012:parameter/app/langfuse/secret:prod"
  }

  assert {
    condition     = output.environment.LANGFUSE_EXTENSION_PUBLIC_KEY == "ssm:/app/langfuse/public:3" && !strcontains(output.policy_json, ":3\"") && strcontains(output.policy_json, "parameter/app/langfuse/secret\"")
    error_message = "The policy is ${output.policy_json}"
  }
}

run "a_secret_whose_name_looks_like_the_end_of_an_arn_is_permitted_too" {
  variables {
    public_key      = "pk-lf-1234"
    secret_key_from = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:my-secret"
  }

  assert {
    condition     = contains(jsondecode(output.policy_json).Statement[0].Resource, "arn:aws:secretsmanager:eu-west-1:123456789012:secret:my-secret-??????")
    error_message = "The policy is ${output.policy_json}"
  }
}

run "two_references_with_a_kms_key_each" {
  variables {
    public_key_from = "ssm:public"
    secret_key_from = "ssm:secret"
    kms_key_arn     = "arn:aws:kms:eu-west-1:123456789012:key/1"
    kms_key_arns    = ["arn:aws:kms:eu-west-1:123456789012:key/2", "arn:aws:kms:eu-west-1:123456789012:key/1"]
  }

  assert {
    condition     = jsondecode(output.policy_json).Statement[1].Resource == ["arn:aws:kms:eu-west-1:123456789012:key/1", "arn:aws:kms:eu-west-1:123456789012:key/2"]
    error_message = "The policy is ${output.policy_json}"
  }
}

run "old_layer_versions_stay_where_that_is_wanted" {
  variables {
    layer_zip           = { arm64 = "versions.tf" }
    keep_layer_versions = true
  }

  assert {
    condition     = aws_lambda_layer_version.this["arm64"].skip_destroy
    error_message = "The layer's old versions would go."
  }
}
