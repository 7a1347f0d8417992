# What the module refuses at plan time, one mistake at a time.

mock_provider "aws" {}

run "a_name_that_aws_would_refuse_is_refused" {
  command = plan

  variables {
    name = "has spaces"
  }

  expect_failures = [var.name]
}

run "a_layer_for_an_unknown_architecture_is_refused" {
  command = plan

  variables {
    layer_arn = { amd64 = "arn:aws:lambda:eu-west-1:123456789012:layer:langfuse:3" }
  }

  expect_failures = [var.layer_arn]
}

run "a_layer_without_its_version_is_refused" {
  command = plan

  variables {
    layer_arn = { arm64 = "arn:aws:lambda:eu-west-1:123456789012:layer:langfuse" }
  }

  expect_failures = [var.layer_arn]
}

run "a_zip_for_an_unknown_architecture_is_refused" {
  command = plan

  variables {
    layer_zip = { aarch64 = "tests/fixtures/layer.zip" }
  }

  expect_failures = [var.layer_zip]
}

run "a_zip_that_does_not_exist_is_refused" {
  command = plan

  variables {
    layer_zip = { arm64 = "tests/fixtures/missing.zip" }
  }

  expect_failures = [var.layer_zip]
}

run "a_zip_and_an_arn_for_the_same_architecture_is_refused" {
  command = plan

  variables {
    layer_zip = { arm64 = "tests/fixtures/layer.zip" }
    layer_arn = { arm64 = "arn:aws:lambda:eu-west-1:123456789012:layer:langfuse:3" }
  }

  expect_failures = [var.layer_zip]
}

run "an_address_without_a_scheme_is_refused" {
  command = plan

  variables {
    base_url = "cloud.langfuse.com"
  }

  expect_failures = [var.base_url]
}

run "an_address_with_a_slash_at_its_end_is_refused" {
  command = plan

  variables {
    base_url = "https://cloud.langfuse.com/"
  }

  expect_failures = [var.base_url]
}

run "the_sandbox_itself_as_langfuse_is_refused" {
  command = plan

  variables {
    base_url = "http://localhost:4318"
  }

  expect_failures = [var.base_url]
}

run "a_secret_key_as_the_public_one_is_refused" {
  command = plan

  variables {
    public_key      = "sk-lf-1234"
    secret_key_from = "ssm:secret"
  }

  expect_failures = [var.public_key]
}

run "two_public_keys_are_refused" {
  command = plan

  variables {
    public_key      = "pk-lf-1234"
    public_key_from = "ssm:public"
    secret_key_from = "ssm:secret"
  }

  expect_failures = [var.public_key_from]
}

run "a_public_key_without_a_secret_one_is_refused" {
  command = plan

  variables {
    public_key = "pk-lf-1234"
  }

  expect_failures = [var.public_key_from]
}

run "a_secret_key_without_a_public_one_is_refused" {
  command = plan

  variables {
    secret_key_from = "ssm:secret"
  }

  expect_failures = [var.public_key_from]
}

run "a_public_key_value_as_a_reference_is_refused" {
  command = plan

  variables {
    public_key_from = "pk-lf-1234"
    secret_key_from = "ssm:secret"
  }

  expect_failures = [var.public_key_from]
}

run "a_public_key_as_the_secret_one_is_refused" {
  command = plan

  variables {
    public_key = "pk-lf-1234"
    secret_key = "pk-lf-1234"
  }

  expect_failures = [var.secret_key]
}

run "a_secret_key_value_as_a_reference_is_refused" {
  command = plan

  variables {
    public_key      = "pk-lf-1234"
    secret_key_from = "sk-lf-1234"
  }

  expect_failures = [var.secret_key_from]
}

run "two_secret_keys_are_refused" {
  command = plan

  variables {
    public_key      = "pk-lf-1234"
    secret_key      = "sk-lf-5678"
    secret_key_from = "ssm:secret"
  }

  expect_failures = [var.secret_key_from]
}

run "an_alias_in_place_of_a_kms_key_is_refused" {
  command = plan

  variables {
    public_key      = "pk-lf-1234"
    secret_key_from = "ssm:secret"
    kms_key_arn     = "arn:aws:kms:eu-west-1:123456789012:alias/langfuse"
  }

  expect_failures = [var.kms_key_arn]
}

run "a_kms_key_with_nothing_to_decrypt_is_refused" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/1"
  }

  expect_failures = [var.kms_key_arn]
}

run "a_roles_arn_as_its_name_is_refused" {
  command = plan

  variables {
    role_name = "arn:aws:iam::123456789012:role/app"
  }

  expect_failures = [var.role_name]
}

run "an_address_outside_the_sandbox_to_listen_on_is_refused" {
  command = plan

  variables {
    listen = "0.0.0.0:4318"
  }

  expect_failures = [var.listen]
}

run "a_port_without_a_host_is_refused" {
  command = plan

  variables {
    listen = "4318"
  }

  expect_failures = [var.listen]
}

run "a_port_above_the_last_is_refused" {
  command = plan

  variables {
    listen = "127.0.0.1:65536"
  }

  expect_failures = [var.listen]
}

run "lambdas_own_port_is_refused" {
  command = plan

  variables {
    listen = "127.0.0.1:9001"
  }

  expect_failures = [var.listen]
}

run "an_unknown_flush_strategy_is_refused" {
  command = plan

  variables {
    flush = "always"
  }

  expect_failures = [var.flush]
}

run "a_negative_flush_budget_is_refused" {
  command = plan

  variables {
    flush_budget_ms = -1
  }

  expect_failures = [var.flush_budget_ms]
}

run "a_flush_budget_longer_than_any_function_is_refused" {
  command = plan

  variables {
    flush_budget_ms = 900001
  }

  expect_failures = [var.flush_budget_ms]
}

run "a_fractional_data_age_is_refused" {
  command = plan

  variables {
    max_data_age_ms = 0.5
  }

  expect_failures = [var.max_data_age_ms]
}

run "a_buffer_too_small_for_a_trace_is_refused" {
  command = plan

  variables {
    buffer_bytes = 65535
  }

  expect_failures = [var.buffer_bytes]
}

run "a_negative_spool_is_refused" {
  command = plan

  variables {
    spool_bytes = -1
  }

  expect_failures = [var.spool_bytes]
}

run "a_spool_where_nothing_can_be_written_is_refused" {
  command = plan

  variables {
    spool_dir = "/var/task/spool"
  }

  expect_failures = [var.spool_dir]
}

run "an_unknown_passthrough_is_refused" {
  command = plan

  variables {
    passthrough = "some"
  }

  expect_failures = [var.passthrough]
}

run "a_relative_ca_file_is_refused" {
  command = plan

  variables {
    ca_file = "ca.pem"
  }

  expect_failures = [var.ca_file]
}

run "a_further_setting_that_has_a_variable_of_its_own_is_refused" {
  command = plan

  variables {
    settings = { FLUSH = "end" }
  }

  expect_failures = [var.settings]
}

run "a_further_setting_under_its_whole_name_is_refused" {
  command = plan

  variables {
    settings = { LANGFUSE_EXTENSION_SAMPLE = "0.5" }
  }

  expect_failures = [var.settings]
}

run "an_unknown_accept_is_refused" {
  command = plan

  variables {
    accept = "some"
  }

  expect_failures = [var.accept]
}

run "an_unknown_log_level_is_refused" {
  command = plan

  variables {
    log_level = "verbose"
  }

  expect_failures = [var.log_level]
}

run "an_environment_that_leads_the_app_past_the_extension_is_refused" {
  command = plan

  variables {
    app_environment = { LANGFUSE_BASE_URL = "https://cloud.langfuse.com" }
  }

  expect_failures = [var.app_environment]
}

run "an_environment_that_sets_the_extension_is_refused" {
  command = plan

  variables {
    app_environment = { LANGFUSE_EXTENSION_FLUSH = "end" }
  }

  expect_failures = [var.app_environment]
}

run "a_log_groups_arn_as_its_name_is_refused" {
  command = plan

  variables {
    loss_alarm = { log_group_name = "arn:aws:logs:eu-west-1:123456789012:log-group:app" }
  }

  expect_failures = [var.loss_alarm]
}

run "an_alarm_period_that_cloudwatch_lacks_is_refused" {
  command = plan

  variables {
    loss_alarm = { log_group_name = "/aws/lambda/app", period_seconds = 90 }
  }

  expect_failures = [var.loss_alarm]
}

run "an_alarm_action_that_is_no_arn_is_refused" {
  command = plan

  variables {
    loss_alarm = { log_group_name = "/aws/lambda/app", actions = ["ops"] }
  }

  expect_failures = [var.loss_alarm]
}
