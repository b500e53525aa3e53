#!/usr/bin/env bash
# Copy the parts lists (SBOM) out of images that infra/docker/build.sh made: infra/docker/sbom.sh [NAME ...], by default
# that of `serve`, into dist/stlm-NAME.cdx.json. IMAGE_PREFIX as for build.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

docker=${DOCKER:-docker}
prefix=${IMAGE_PREFIX:-localhost/stlm-}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
names=("$@")
[ $# -gt 0 ] || names=(serve)

mkdir -p dist
for name in "${names[@]}"; do
	image=$prefix$name:$version
	"$docker" image inspect "$image" >/dev/null 2>&1 || { echo "sbom.sh: no image $image: run \`make images\`" >&2; exit 2; }
	list=dist/stlm-$name.cdx.json
	"$docker" run --rm --network none "$image" cat /opt/stlm/sbom.cdx.json >"$list.partial" || {
		rm -f "$list.partial"
		echo "sbom.sh: $image has no parts list: build it again" >&2
		exit 2
	}
	mv "$list.partial" "$list"
	echo "$list"
done
