# Attacks on the extension's doors. Included by the root Makefile.

.PHONY: attack-tools
attack-tools: ## Install what the attacks go through: nginx (Debian, root; skipped elsewhere)
	@[ -e /usr/sbin/nginx ] || command -v nginx >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install --no-install-recommends -qq nginx >/dev/null; } || \
	  echo "attack-tools: nginx is missing, and what needs it will be skipped"

.PHONY: attack
attack: build attack-tools ## Attack the doors: forged paths behind nginx, echoes, loops, bombs, slow clients, mutated bodies
	python3 -B tests/attack/attack.py
