#!/usr/bin/env bash
# Build the project's images: `make images`, or infra/docker/build.sh [NAME ...]. Prints name, size and seconds of each.
#
# IMAGE_PREFIX  before the names, for example registry.example.org/team/stlm- (default localhost/stlm-)
# BASE_IMAGE    Debian 12 with Python 3.11 (default: the public image that the Dockerfile names); `local` makes one
# BUILD_CA      file of certificates that pip needs to reach its index, passed as a build secret
# TORCH_WHEELS  folder with a wheel of PyTorch to take instead of downloading it from TORCH_INDEX
set -euo pipefail
cd "$(dirname "$0")/../.."

docker=${DOCKER:-docker}
prefix=${IMAGE_PREFIX:-localhost/stlm-}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || revision=$revision-dirty
names=("$@")
[ $# -gt 0 ] || names=(data train-cpu serve launch mlflow postgres seaweedfs)

arguments=(--build-arg "VERSION=$version" --build-arg "GIT_REVISION=$revision")
[ -z "${BUILD_NETWORK:-}" ] || arguments+=(--network "$BUILD_NETWORK")
[ -z "${BUILD_CA:-}" ] || arguments+=(--secret "id=ca,src=$BUILD_CA")
if [ "${BASE_IMAGE:-}" = local ]; then
	BASE_IMAGE=localhost/stlm-base:bookworm
	"$docker" image inspect "$BASE_IMAGE" >/dev/null 2>&1 || infra/docker/local-base.sh "$BASE_IMAGE" >/dev/null
fi
[ -z "${BASE_IMAGE:-}" ] || arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
if [ -n "${TORCH_WHEELS:-}" ]; then
	cp --update "$TORCH_WHEELS"/torch-*.whl infra/docker/wheels/
fi

for name in "${names[@]}"; do
	file=infra/docker/Dockerfile target=$name more=()
	case $name in
	mlflow | postgres | seaweedfs) file=infra/docker/services.Dockerfile ;;
	train-cpu) target=train ;;
	train-cuda) target=train more=(--build-arg "TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cu130}" --build-arg TORCH_WHEELS=none) ;;
	data | serve | launch) ;;
	*)
		echo "build.sh: no image $name" >&2
		exit 2
		;;
	esac
	began=$SECONDS
	DOCKER_BUILDKIT=1 "$docker" build --quiet --file "$file" --target "$target" "${arguments[@]}" ${more[@]+"${more[@]}"} \
		--tag "$prefix$name:$version" . >/dev/null
	size=$("$docker" image inspect --format '{{.Size}}' "$prefix$name:$version")
	printf '%-34s %5d MB %5d s\n' "$prefix$name:$version" $((size / 1000000)) $((SECONDS - began))
done
