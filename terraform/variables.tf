# ---- The extension itself -------------------------------------------------------------------------------------------

variable "name" {
  description = "Prefix of the names of everything that this module makes: layers, the policy, the alarm."
  type        = string
  default     = "langfuse-extension"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,100}$", var.name))
    error_message = "name becomes part of layer and policy names: use 1 to 100 letters, digits, hyphens and underscores."
  }
}

variable "layer_arn" {
  description = "Published layer versions by architecture, e.g. { arm64 = \"arn:aws:lambda:eu-west-1:123456789012:layer:langfuse-extension-arm64:3\" }. Leave out for container images, which cannot have layers."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.layer_arn), ["x86_64", "arm64"])) == 0
    error_message = "layer_arn is a map by architecture: its keys can be x86_64 and arm64, as in { arm64 = \"arn:aws:lambda:…\" }."
  }

  validation {
    condition     = alltrue([for arn in values(var.layer_arn) : can(regex("^arn:[a-z-]+:lambda:[a-z0-9-]+:[0-9]{12}:layer:[A-Za-z0-9_-]+:[0-9]+$", arn))])
    error_message = "layer_arn takes ARNs of layer versions, with the version number at the end: arn:aws:lambda:REGION:ACCOUNT:layer:NAME:VERSION."
  }
}

variable "layer_zip" {
  description = "Zip files to publish as layers, by architecture, e.g. { x86_64 = \"dist/langfuse-extension-layer-x86_64.zip\" }: built by `make layer`, or downloaded from a release."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setsubtract(keys(var.layer_zip), ["x86_64", "arm64"])) == 0
    error_message = "layer_zip is a map by architecture: its keys can be x86_64 and arm64, as in { x86_64 = \"dist/langfuse-extension-layer-x86_64.zip\" }."
  }

  validation {
    condition     = alltrue([for path in values(var.layer_zip) : fileexists(path)])
    error_message = "layer_zip names a file that does not exist: build it with `make layer ARCH=x86_64` (or arm64), or download it from a release."
  }

  validation {
    condition     = length(setintersection(keys(var.layer_zip), keys(var.layer_arn))) == 0
    error_message = "layer_zip and layer_arn both name a layer for the same architecture: keep one of the two."
  }
}

variable "keep_layer_versions" {
  description = "true keeps a layer's old versions when a new one is published or the module is destroyed, for functions elsewhere that still use them."
  type        = bool
  default     = false
  nullable    = false
}

# ---- Where data goes, and with which keys ---------------------------------------------------------------------------

variable "base_url" {
  description = "Langfuse's address, to which the extension ships: https://cloud.langfuse.com (EU), https://us.cloud.langfuse.com, or your own with its base path."
  type        = string
  default     = "https://cloud.langfuse.com"
  nullable    = false

  validation {
    condition     = can(regex("^https?://[^/?#\\s]+(/[^?#\\s]*[^/?#\\s])?$", var.base_url))
    error_message = "base_url must be like https://cloud.langfuse.com: http or https, a host, at most a path, no slash at the end."
  }

  validation {
    condition     = !can(regex("^https?://(localhost|127\\.|\\[::1\\]|0\\.0\\.0\\.0)", var.base_url))
    error_message = "base_url is where the extension ships to, so it cannot be this sandbox itself: give Langfuse's address. The app gets its localhost address from the output `environment`."
  }
}

variable "public_key" {
  description = "The project's public key (pk-lf-…), which is no secret. With it the extension puts its own keys in place of the app's."
  type        = string
  default     = null

  validation {
    condition     = var.public_key == null || can(regex("^pk-lf-[A-Za-z0-9-]+$", var.public_key))
    error_message = "public_key must begin with pk-lf-. For a parameter or secret that holds it, use public_key_from."
  }
}

variable "public_key_from" {
  description = "Where the extension reads the public key: an SSM parameter (its ARN, or ssm:NAME) or a Secrets Manager secret (its ARN, with #json-key for one value of a JSON secret)."
  type        = string
  default     = null

  validation {
    condition     = var.public_key_from == null || can(regex("^(ssm:/?[A-Za-z0-9._/-]+(:[A-Za-z0-9._-]+)?|arn:[a-z-]+:ssm:[a-z0-9-]+:[0-9]{12}:parameter/[A-Za-z0-9._/-]+(:[A-Za-z0-9._-]+)?|arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+(#.+)?)$", var.public_key_from))
    error_message = "public_key_from must be ssm:NAME, the ARN of an SSM parameter, or the ARN of a Secrets Manager secret with an optional #json-key."
  }

  validation {
    condition     = var.public_key == null || var.public_key_from == null
    error_message = "Set public_key or public_key_from, not both."
  }

  validation {
    condition     = (var.public_key == null && var.public_key_from == null) == (var.secret_key_from == null && nonsensitive(var.secret_key == null))
    error_message = "Keys come in pairs: give a public one (public_key or public_key_from) and a secret one (secret_key_from or secret_key), or neither, and the keys that the app sends are used."
  }
}

variable "secret_key" {
  description = "The project's secret key itself (sk-lf-…). It becomes readable in the function's configuration and in the state: prefer secret_key_from."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.secret_key == null || can(regex("^sk-lf-[A-Za-z0-9-]+$", var.secret_key))
    error_message = "secret_key must begin with sk-lf-. For a parameter or secret that holds it, use secret_key_from."
  }
}

variable "secret_key_from" {
  description = "Where the extension reads the secret key: an SSM parameter (its ARN, or ssm:NAME) or a Secrets Manager secret (its ARN, with #json-key for one value of a JSON secret)."
  type        = string
  default     = null

  validation {
    condition     = var.secret_key_from == null || can(regex("^(ssm:/?[A-Za-z0-9._/-]+(:[A-Za-z0-9._-]+)?|arn:[a-z-]+:ssm:[a-z0-9-]+:[0-9]{12}:parameter/[A-Za-z0-9._/-]+(:[A-Za-z0-9._-]+)?|arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+(#.+)?)$", var.secret_key_from))
    error_message = "secret_key_from must be ssm:NAME, the ARN of an SSM parameter, or the ARN of a Secrets Manager secret with an optional #json-key."
  }

  validation {
    condition     = nonsensitive(var.secret_key == null) || var.secret_key_from == null
    error_message = "Set secret_key or secret_key_from, not both."
  }
}

variable "kms_key_arn" {
  description = "The customer managed KMS key that encrypts those parameters or secrets. Leave out for AWS's own keys, which need no permission."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, arn:aws:kms:REGION:ACCOUNT:key/ID: IAM does not look through an alias."
  }

  validation {
    condition     = var.kms_key_arn == null || var.public_key_from != null || var.secret_key_from != null
    error_message = "kms_key_arn has nothing to decrypt: set public_key_from or secret_key_from as well, or leave it out."
  }
}

variable "kms_key_arns" {
  description = "Further such keys, where the two references are encrypted with different ones."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for arn in var.kms_key_arns : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", arn))])
    error_message = "kms_key_arns are ARNs of keys, arn:aws:kms:REGION:ACCOUNT:key/ID: IAM does not look through an alias."
  }

  validation {
    condition     = length(var.kms_key_arns) == 0 || var.public_key_from != null || var.secret_key_from != null
    error_message = "kms_key_arns have nothing to decrypt: set public_key_from or secret_key_from as well, or leave them out."
  }
}

variable "role_name" {
  description = "An existing role of the function, to which the module attaches the policy. Leave out to attach the output policy_json yourself."
  type        = string
  default     = null

  validation {
    condition     = var.role_name == null || can(regex("^[A-Za-z0-9+=,.@_-]{1,64}$", var.role_name))
    error_message = "role_name is the name of a role, not its ARN: use aws_iam_role.NAME.name."
  }
}

# ---- How it behaves -------------------------------------------------------------------------------------------------
# One variable per setting. null, the default, leaves the choice to the extension.

variable "tracing_enabled" {
  description = "The kill switch: false ships nothing. SDK and extension stay in place and answer everything."
  type        = bool
  default     = true
  nullable    = false
}

variable "listen" {
  description = "Where the extension listens, as host:port; for functions in which something else has taken 4318."
  type        = string
  default     = null

  validation {
    condition     = var.listen == null || can(regex("^(localhost|127\\.0\\.0\\.1|\\[::1\\]):[0-9]{4,5}$", var.listen))
    error_message = "listen must be a loopback host and a port from 1024, e.g. 127.0.0.1:4319."
  }

  validation {
    condition     = try(tonumber(regex("[0-9]+$", var.listen)) >= 1024 && tonumber(regex("[0-9]+$", var.listen)) <= 65535 && !contains([9001], tonumber(regex("[0-9]+$", var.listen))), var.listen == null)
    error_message = "listen needs a port from 1024 to 65535, and not 9001, which Lambda keeps for its Runtime API."
  }
}

variable "flush" {
  description = "When the sandbox is held until data is sent: adaptive (in sparse traffic only), end (after each invocation), background (never)."
  type        = string
  default     = null

  validation {
    condition     = var.flush == null || contains(["adaptive", "end", "background"], coalesce(var.flush, "-"))
    error_message = "flush must be adaptive, end or background."
  }
}

variable "flush_budget_ms" {
  description = "The longest that the sandbox is held after an invocation, in milliseconds."
  type        = number
  default     = null

  validation {
    condition     = var.flush_budget_ms == null || try(var.flush_budget_ms >= 0 && var.flush_budget_ms <= 900000 && floor(var.flush_budget_ms) == var.flush_budget_ms, false)
    error_message = "flush_budget_ms must be a whole number of milliseconds from 0 to 900000, a function's longest timeout."
  }
}

variable "max_data_age_ms" {
  description = "How old unsent data may grow in dense traffic, in milliseconds."
  type        = number
  default     = null

  validation {
    condition     = var.max_data_age_ms == null || try(var.max_data_age_ms >= 0 && var.max_data_age_ms <= 86400000 && floor(var.max_data_age_ms) == var.max_data_age_ms, false)
    error_message = "max_data_age_ms must be a whole number of milliseconds from 0 to 86400000, a day."
  }
}

variable "buffer_bytes" {
  description = "How much unsent data is kept in memory, in bytes."
  type        = number
  default     = null

  validation {
    condition     = var.buffer_bytes == null || try(var.buffer_bytes >= 65536 && floor(var.buffer_bytes) == var.buffer_bytes, false)
    error_message = "buffer_bytes must be a whole number of at least 65536 bytes: less would not hold one trace."
  }
}

variable "spool_bytes" {
  description = "How much unsent data is kept on disk, in bytes; 0 turns the spool off."
  type        = number
  default     = null

  validation {
    condition     = var.spool_bytes == null || try((var.spool_bytes == 0 || var.spool_bytes >= 262144) && floor(var.spool_bytes) == var.spool_bytes, false)
    error_message = "spool_bytes must be a whole number of bytes, at least 262144, or 0, which turns the spool off."
  }
}

variable "spool_dir" {
  description = "The spool's directory."
  type        = string
  default     = null

  validation {
    condition     = var.spool_dir == null || can(regex("^/(tmp|mnt)(/|$)", var.spool_dir))
    error_message = "spool_dir must be under /tmp or a mounted /mnt: nothing else in the sandbox can be written."
  }
}

variable "resend_ambiguous" {
  description = "Whether data whose arrival is unknown is sent again, once Langfuse is healthy: true may double it, false may lose it."
  type        = bool
  default     = null
}

variable "passthrough" {
  description = "Which other calls to Langfuse pass through with the extension's keys: sdk (what SDKs need at run time), write (prompts and datasets as well), all, off."
  type        = string
  default     = null

  validation {
    condition     = var.passthrough == null || contains(["sdk", "write", "all", "off"], coalesce(var.passthrough, "-"))
    error_message = "passthrough must be sdk, write, all or off."
  }
}

variable "prompt_cache" {
  description = "Whether prompts are kept in memory, so that fetching one again waits for nobody."
  type        = bool
  default     = null
}

variable "accept" {
  description = "Whose spans are shipped: all, or langfuse (those of clients that were set up for Langfuse)."
  type        = string
  default     = null

  validation {
    condition     = var.accept == null || contains(["all", "langfuse"], coalesce(var.accept, "-"))
    error_message = "accept must be all or langfuse."
  }
}

variable "route_headers" {
  description = "Headers of clients that travel on with spans and scores and keep them apart, for masking callbacks of a Langfuse of your own."
  type        = list(string)
  default     = null

  validation {
    condition     = var.route_headers == null || alltrue([for name in coalesce(var.route_headers, []) : can(regex("^[A-Za-z0-9-]+$", name))])
    error_message = "route_headers takes names of headers: letters, digits and hyphens."
  }
}

variable "ca_file" {
  description = "A PEM file in the function with the certificate authorities of a Langfuse of your own."
  type        = string
  default     = null

  validation {
    condition     = var.ca_file == null || can(regex("^/.+", var.ca_file))
    error_message = "ca_file must be an absolute path in the function, e.g. /var/task/ca.pem."
  }
}

variable "log_level" {
  description = "How much the extension logs: error, warn, info, debug or trace."
  type        = string
  default     = null

  validation {
    condition     = var.log_level == null || contains(["error", "warn", "info", "debug", "trace"], coalesce(var.log_level, "-"))
    error_message = "log_level must be error, warn, info, debug or trace."
  }
}

variable "settings" {
  description = "Further settings of the extension (docs/settings.md) that have no variable here, by their names without LANGFUSE_EXTENSION_, e.g. { SAMPLE = \"0.1\" }."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.settings) : can(regex("^[A-Z][A-Z0-9_]*$", name)) && !startswith(name, "LANGFUSE_")])
    error_message = "settings takes names in capitals without LANGFUSE_EXTENSION_ in front, as in { SAMPLE = \"0.1\" }."
  }

  validation {
    condition     = length(setintersection(keys(var.settings), ["BASE_URL", "PUBLIC_KEY", "LISTEN", "FLUSH", "FLUSH_BUDGET_MS", "MAX_DATA_AGE_MS", "BUFFER_BYTES", "SPOOL_BYTES", "SPOOL_DIR", "RESEND_AMBIGUOUS", "PASSTHROUGH", "PROMPT_CACHE", "ACCEPT", "ROUTE_HEADERS", "CA_FILE", "LOG_LEVEL", "SECRET_KEY"])) == 0
    error_message = "settings is for what has no variable of its own: use that one, e.g. flush for FLUSH."
  }
}

variable "app_environment" {
  description = "The app's own environment variables, merged into the output `environment`; its NO_PROXY is kept and extended."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = length(setintersection(keys(var.app_environment), ["LANGFUSE_BASE_URL", "LANGFUSE_HOST", "LANGFUSE_TRACING_ENABLED"])) == 0
    error_message = "app_environment cannot set LANGFUSE_BASE_URL, LANGFUSE_HOST or LANGFUSE_TRACING_ENABLED: the app must find the extension. Use base_url and tracing_enabled."
  }

  validation {
    condition     = alltrue([for key in keys(var.app_environment) : !startswith(key, "LANGFUSE_EXTENSION_")])
    error_message = "app_environment cannot set LANGFUSE_EXTENSION_…: use the variables of this module, e.g. flush for LANGFUSE_EXTENSION_FLUSH, and settings for those that have none."
  }
}

# ---- Watching it ----------------------------------------------------------------------------------------------------

variable "loss_alarm" {
  description = "An alarm on data that the extension had to drop, read from its report in the function's log group. `actions` are ARNs, e.g. of SNS topics."
  type = object({
    log_group_name = string
    actions        = optional(list(string), [])
    period_seconds = optional(number, 300)
  })
  default = null

  validation {
    condition     = var.loss_alarm == null || can(regex("^[A-Za-z0-9_/.#-]{1,512}$", var.loss_alarm.log_group_name))
    error_message = "loss_alarm.log_group_name must be the name of the function's log group, e.g. /aws/lambda/NAME, not its ARN."
  }

  validation {
    condition     = var.loss_alarm == null || try(contains([10, 30], var.loss_alarm.period_seconds) || (var.loss_alarm.period_seconds >= 60 && var.loss_alarm.period_seconds % 60 == 0), false)
    error_message = "loss_alarm.period_seconds must be 10, 30 or a multiple of 60."
  }

  validation {
    condition     = var.loss_alarm == null || alltrue([for arn in try(var.loss_alarm.actions, []) : startswith(arn, "arn:")])
    error_message = "loss_alarm.actions must be ARNs, e.g. of SNS topics."
  }
}

variable "tags" {
  description = "Tags of what this module makes and what can carry them."
  type        = map(string)
  default     = {}
  nullable    = false
}
