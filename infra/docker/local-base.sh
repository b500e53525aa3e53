#!/usr/bin/env bash
# Make the base image from Debian's packages, for machines that reach no image registry. Needs root and debootstrap.
#   infra/docker/local-base.sh localhost/stlm-base:bookworm
set -euo pipefail

tag=${1:?usage: local-base.sh IMAGE}
docker=${DOCKER:-docker}
[ "$(id -u)" = 0 ] || { echo "local-base.sh: debootstrap needs root" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "local-base.sh: debootstrap not found: apt-get install debootstrap" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
debootstrap --variant=minbase --include=ca-certificates,python3.11-minimal,python3-minimal,python3-venv,python3-pip \
	bookworm "$root" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
# Nothing at run time reads these.
rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/usr/share/{doc,man,info,locale} "$root"/var/log/*
mkdir -p "$root"/var/cache/apt "$root"/var/lib/apt/lists
find "$root"/usr/lib/python3* -name __pycache__ -type d -prune -exec rm -rf {} +
tar -C "$root" --numeric-owner -c . | "$docker" import --change 'CMD ["python3.11"]' - "$tag"
