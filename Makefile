# Each target is a script of the same name in scripts/, for machines without make.

.PHONY: run test check chaos interop soak bench

run: ## Build and start server and client, until Ctrl-C
	@scripts/run

test: ## All tests: on SQLite, then on PostgreSQL and Redis
	@scripts/test

check: ## Formatting, lints, documentation, language, licenses
	@scripts/check

chaos: ## Minutes of faults under load; ARGUMENTS='--help' lists the options
	@scripts/chaos $(ARGUMENTS)

interop: ## Unmodified OAuth libraries against the server; ARGUMENTS='--short' takes minutes
	@scripts/interop $(ARGUMENTS)

soak: ## An hour of unmodified OAuth clients under faults; ARGUMENTS=3 takes 3 minutes
	@scripts/interop --soak $(ARGUMENTS)

bench: ## Benchmarks against the bare components; ARGUMENTS='--help' lists the options
	@scripts/bench $(ARGUMENTS)
