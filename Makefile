# `make run` and `make test` are all that a newcomer needs; each is a script of
# the same name, for machines without make.

.PHONY: run test check faults bench

run: ## Build and start server and client, until Ctrl-C
	@scripts/run

test: ## Every test: on SQLite alone, then on PostgreSQL and Redis
	@scripts/test

check: ## Formatting, lints, documentation, licences
	@scripts/check

faults: ## Some minutes of faults under load; ARGUMENTS='--help' says what it takes
	@scripts/faults $(ARGUMENTS)

bench: ## How fast it is, against bare parts; ARGUMENTS='--help' says what it takes
	@scripts/bench $(ARGUMENTS)
