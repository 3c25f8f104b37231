#!/usr/bin/env bash
# Ensures that a Docker Engine answers: uses the running one, or installs the
# distribution's package and starts it (with systemd if it runs, else directly).
# A directly started engine keeps running when the script ends; its pid is in
# /run/evenkeel-dockerd.pid.
set -euo pipefail

engine_answers() { docker version --format '{{.Server.APIVersion}}' >/dev/null 2>&1; }

if command -v docker >/dev/null && engine_answers; then exit 0; fi

if [ "$(id -u)" != 0 ]; then
  echo "No Docker Engine answers for this user. Run as root to install and start one, or start Docker and try again." >&2
  exit 1
fi

if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
  echo "Installing the Docker Engine from the distribution (docker.io)..."
  command -v apt-get >/dev/null || { echo "No apt-get here: install a Docker Engine by hand." >&2; exit 1; }
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >/dev/null
  packages=(docker.io iptables ca-certificates)
  # Newer releases have the client in a separate package, which docker.io only recommends.
  if apt-cache show docker-cli >/dev/null 2>&1; then packages+=(docker-cli); fi
  # With AppArmor in the kernel the engine needs its parser to start any container.
  if grep -qs Y /sys/module/apparmor/parameters/enabled; then packages+=(apparmor); fi
  apt-get install -yq --no-install-recommends "${packages[@]}" >/dev/null
  # The package may have started it, or only the client was missing.
  if engine_answers; then exit 0; fi
fi

if [ -d /run/systemd/system ]; then
  systemctl start docker
else
  # A stale pid file of a killed engine stops the next one from starting.
  if [ -f /var/run/docker.pid ] && ! kill -0 "$(cat /var/run/docker.pid)" 2>/dev/null; then rm -f /var/run/docker.pid; fi
  setsid nohup dockerd >/var/log/evenkeel-dockerd.log 2>&1 </dev/null &
  echo $! >/run/evenkeel-dockerd.pid
fi

for _ in $(seq 1 60); do
  if engine_answers; then exit 0; fi
  sleep 0.5
done
echo "The Docker Engine did not answer within 30 s. The end of its log:" >&2
tail -n 20 /var/log/evenkeel-dockerd.log >&2 2>/dev/null || journalctl -u docker -n 20 --no-pager >&2 || true
exit 1
