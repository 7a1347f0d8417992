# A layer of its own for each architecture: the extension is one native binary.
resource "aws_lambda_layer_version" "this" {
  for_each = var.layer_zip

  layer_name               = "${var.name}-${each.key}"
  description              = "Ships Langfuse traces and scores without the handler waiting."
  license_info             = "Apache-2.0"
  filename                 = each.value
  source_code_hash         = filebase64sha256(each.value)
  compatible_architectures = [each.key]
  skip_destroy             = var.keep_layer_versions
}

locals {
  layer_arns = tomap(merge(var.layer_arn, { for arch, layer in aws_lambda_layer_version.this : arch => layer.arn }))

  # The SDK needs some keys or it switches itself off. These stand for "the extension's own": it puts the real ones in.
  # A public key that is known here is used as it is, so that another project's keys in the same app still pass unchanged.
  owns_keys        = var.secret_key_from != null || nonsensitive(var.secret_key != null)
  placeholder_keys = { public = "pk-lf-extension", secret = "sk-lf-extension" }
  app_keys = {
    LANGFUSE_PUBLIC_KEY = var.public_key != null ? var.public_key : local.placeholder_keys.public
    LANGFUSE_SECRET_KEY = local.placeholder_keys.secret
  }

  # 127.0.0.1 would do as well, but `localhost` is what people look for.
  port    = var.listen == null ? "4318" : regex("[0-9]+$", var.listen)
  address = "http://localhost:${local.port}"

  app_settings = {
    LANGFUSE_BASE_URL        = local.address
    LANGFUSE_FLUSH_AT        = "1" # Poison with a remote address, right with a local one: no span waits in the SDK.
    LANGFUSE_TRACING_ENABLED = tostring(var.tracing_enabled)
  }

  extension_settings = {
    BASE_URL         = var.base_url
    PUBLIC_KEY       = var.public_key_from != null ? var.public_key_from : var.public_key
    LISTEN           = var.listen
    FLUSH            = var.flush
    FLUSH_BUDGET_MS  = var.flush_budget_ms
    MAX_DATA_AGE_MS  = var.max_data_age_ms
    BUFFER_BYTES     = var.buffer_bytes
    SPOOL_BYTES      = var.spool_bytes
    SPOOL_DIR        = var.spool_dir
    RESEND_AMBIGUOUS = var.resend_ambiguous
    PASSTHROUGH      = var.passthrough
    PROMPT_CACHE     = var.prompt_cache
    ACCEPT           = var.accept
    ROUTE_HEADERS    = var.route_headers == null ? null : join(",", var.route_headers)
    CA_FILE          = var.ca_file
    LOG_LEVEL        = var.log_level
  }
  secret_setting = merge(
    var.secret_key_from != null ? { LANGFUSE_EXTENSION_SECRET_KEY = var.secret_key_from } : {},
    nonsensitive(var.secret_key != null) ? { LANGFUSE_EXTENSION_SECRET_KEY = var.secret_key } : {},
  )

  # A proxy for the outer world must not be asked for this sandbox. Both spellings are read, the lower case one first.
  no_proxy = {
    for name in distinct(concat(["NO_PROXY"], [for key in keys(var.app_environment) : key if key == "no_proxy"])) :
    name => join(",", distinct(concat(compact(split(",", lookup(var.app_environment, name, ""))), ["localhost", "127.0.0.1"])))
  }

  environment = tomap(merge(
    local.app_settings,
    local.owns_keys ? local.app_keys : {},
    var.app_environment,
    local.no_proxy,
    { for name, value in local.extension_settings : "LANGFUSE_EXTENSION_${name}" => tostring(value) if value != null },
    { for name, value in var.settings : "LANGFUSE_EXTENSION_${name}" => value },
    local.secret_setting,
  ))
}
