# Targets for developers and CI. Each one installs its missing prerequisites (see scripts/ensure-*.sh).
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(PATH):$(HOME)/.cargo/bin

TRIPLE = $(shell rustc -vV | sed -n 's/^host: //p')
DEBUG = target/$(TRIPLE)/debug/evenkeel
RELEASE = target/$(TRIPLE)/release/evenkeel
ROUNDS ?= 10
SECONDS_IDLE ?= 60
REQUESTS ?= 20000
HEAL_ROUNDS ?= 15
BALANCER_ROUNDS ?= 5
ONLY ?=
MINUTES ?= 10
PARALLEL ?= 2
SEED ?=
KIND ?= postgres
DEEPER ?= 1
PREVIOUS ?= c6a138f
SECONDS ?= 60
FILE ?=
BINARY ?=
# Cargo limits its own parallelism: inside `make -j` it would use make's job tokens.
CARGO = env -u MAKEFLAGS -u MFLAGS cargo
# Cargo with the development profile and progress lines.
BUILD = env -u MAKEFLAGS -u MFLAGS scripts/build.sh
FMT = $(CARGO) fmt --check
LINT = $(BUILD) clippy --all-targets -- -D warnings

.PHONY: help demo test deps static fmt lint deny deny-advisories fuzz upgrade unit e2e model-deep chaos chaos-short lab lab-quick bench-failover bench-idle bench-hosts bench-operators bench-rollout bench-heal bench-hang bench-balancer bench-siege bench-redis bench-redis-cluster bench-backup images operator-image deb crds clean

help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## Demo: a PostgreSQL and a Redis, kills the primary and the master, counts lost writes (KEEP=1 leaves the first running)
	@KEEP="$(KEEP)" scripts/demo.sh

test: ## All checks and tests: format, clippy, unit, property, contract, in-process, real Docker
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory -j2 images static
	@$(MAKE) --no-print-directory unit e2e chaos-short lab-quick

deps:
	@scripts/ensure-build-deps.sh
	@scripts/ensure-docker.sh

# One target with both in order, so that `make -j2` builds images at the same time.
static:
	$(FMT)
	@$(MAKE) --no-print-directory deny
	$(LINT)

fmt: ## Formatting check
	$(FMT)

lint: ## Clippy with warnings denied
	$(LINT)

# It reads the sources of all crates, also of those for other systems, which a build does not fetch.
deny: ## Licences, sources and banned crates among the dependencies; fetches missing sources
	$(CARGO) fetch --locked --quiet
	$$(scripts/ensure-cargo-deny.sh) --offline --locked --log-level error check bans licenses sources

deny-advisories: ## Known vulnerabilities and yanked versions among the dependencies; fetches the RustSec database
	$$(scripts/ensure-cargo-deny.sh) --locked check advisories

unit: images ## Cargo's tests, including those on a real Docker Engine
	@scripts/ensure-sshd.sh
	@scripts/ensure-s3-servers.sh
	@scripts/ensure-etcd.sh
	@$(BUILD) test --no-run
	EVENKEEL_TEST_DOCKER=1 $(CARGO) test --locked

e2e: images ## The real-Docker suite (ONLY="words": scenarios whose name contains one of them)
	@$(BUILD) build
	tests/e2e/run.sh $(DEBUG) $(ONLY)

fuzz: ## Inputs that break a property of what others may send, searched for by libFuzzer (SECONDS=60 per target, ONLY="some targets")
	@scripts/ensure-build-deps.sh c++
	@FILE="$(FILE)" scripts/fuzz.sh $(SECONDS) $(ONLY)

upgrade: images ## A running installation of the version before (PREVIOUS=revision) is taken over by this one
	scripts/upgrade.sh "$(PREVIOUS)"

model-deep: ## The model checker, DEEPER events further than in `make test`, with one more fault
	EVENKEEL_MODEL_DEEPER=$(DEEPER) $(CARGO) test --release --locked --lib model::checks -- --nocapture

chaos: images ## Random faults from a seed on a private Docker Engine, with clients and a history checker (MINUTES=10 SEED=n KIND=redis ONLY="some;words" PARALLEL=2)
	$(CARGO) build --release --locked
	tests/chaos/run.sh $(RELEASE) --minutes $(MINUTES) --parallel $(PARALLEL) --kind $(KIND) $(if $(SEED),--seed $(SEED)) --only="$(ONLY)"

chaos-short: images ## The chaos tests for a minute and a half, as in `make test`
	@$(BUILD) build
	tests/chaos/run.sh $(DEBUG) --minutes 1.5 --parallel 2 --seed 1

lab: images ## Several Docker hosts on this machine: hosts without power, cut networks, lost engines (BINARY=path ONLY="words")
	@scripts/ensure-etcd.sh
	@$(if $(BINARY),,$(BUILD) build)
	tests/lab/run.sh $(or $(BINARY),$(DEBUG)) $(ONLY)

lab-quick: images ## The lab's short part
	@scripts/ensure-etcd.sh
	@$(if $(BINARY),,$(BUILD) build)
	tests/lab/run.sh $(or $(BINARY),$(DEBUG)) --quick

bench-failover: images ## Write outage seen by a client, compared with a hand-made failover of the same run (ROUNDS=10)
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/failover.py $(RELEASE) $(ROUNDS)

bench-idle: images ## CPU and memory of an idle operator and its supervisors
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/idle.py $(RELEASE) $(SECONDS_IDLE)

bench-hosts: deps ## What 100 simulated Docker hosts of 100 containers cost the operator, also with 10 that never answer
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/hosts.py $(RELEASE) $(SECONDS_IDLE)

bench-operators: images ## What three operators over etcd cost, also beside Patroni, and how fast their API is
	@scripts/ensure-etcd.sh
	@scripts/ensure-patroni.sh
	@scripts/ensure-lab.sh
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/operators.py $(RELEASE) $(SECONDS_IDLE)

bench-rollout: images ## Failed requests while replicas and balancers change under load (REQUESTS=20000 per row)
	@scripts/ensure-load-tools.sh
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/rollout.py $(RELEASE) $(REQUESTS) $(ONLY)

bench-heal: images ## Time to replace a dead replica, to start 100, to fail over through the balancer; compared with doing it by hand
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/heal.py $(RELEASE) $(HEAL_ROUNDS) $(ONLY)

bench-hang: images ## Servers that hang (frozen postmaster, frozen disk) and servers that are only slow (ROUNDS=10)
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/hang.py $(RELEASE) $(ROUNDS)

bench-balancer: images ## Throughput of pgbench through a LoadBalancer, by its published port and by its own address, compared with none (BALANCER_ROUNDS=5)
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/balancer.py $(RELEASE) $(BALANCER_ROUNDS)

bench-siege: images ## Failovers of an operator under attack: port taken, idle connections, full audit disk, hostile supervisor
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/siege.py $(RELEASE)

bench-redis: images ## Write outage and lost writes of a Redis Sentinel client, compared with plain Sentinel in the same run (ROUNDS=10)
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/redis_sentinel.py $(RELEASE) $(ROUNDS)

bench-redis-cluster: images ## Killed masters and moved slots of a RedisCluster under a cluster client (ROUNDS=10)
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh 5) tests/bench/redis_cluster.py $(RELEASE) $(ROUNDS)

bench-backup: images ## WAL archive, base backups and recoveries, compared with pg_basebackup, pgBackRest and archive_mode=on of the same run; faults (ROUNDS=10, ONLY="gaps latency")
	@scripts/ensure-s3-servers.sh
	$(CARGO) build --release --locked
	PYTHONDONTWRITEBYTECODE=1 $$(scripts/ensure-python.sh) tests/bench/backup.py $(RELEASE) $(ROUNDS) $(ONLY)

images: deps ## Images for tests and demo: pulled, or built if no registry answers
	@scripts/ensure-images.sh postgres:15 haproxy:2.6 nginx:1.22 redis:7 valkey/valkey:8
	@scripts/ensure-test-images.sh

deb: ## Debian package of the release build, or of BINARY=path, into target/deb
	@$(if $(BINARY),,$(BUILD) build --release)
	@scripts/deb.sh $(or $(BINARY),$(RELEASE)) target/deb

operator-image: deps ## Image evenkeel:latest of the release build, or of BINARY=path; deploy/compose.yaml runs it
	@$(if $(BINARY),,$(BUILD) build --release)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cp $(or $(BINARY),$(RELEASE)) "$$folder/evenkeel" \
	    && DOCKER_BUILDKIT=0 docker build -q -t evenkeel:latest -f deploy/container/Dockerfile "$$folder"

crds: ## Generates crds/ from the types (a test compares them)
	UPDATE_CRDS=1 $(CARGO) test --locked --test it crds

clean: ## Removes build results (images and clusters in Docker stay)
	rm -rf target
