#!/bin/bash
# release.sh REPOSITORY [--push]: build the images of this commit, ready for signing.
#
#   container/release.sh registry.example/team/spac-repro            build, test, tag
#   container/release.sh registry.example/team/spac-repro --push     push, too; dist/digests.txt lists the digests to sign
#
# Writes to dist/, for each variant: the bill of materials, the licences, and for cpu the SIF with its hash.
# VARIANTS="cpu" skips cuda. BASE names another base image. SOURCE is the URL of the published source, for the label.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=${1:?the repository to name the images after, e.g. registry.example/team/spac-repro}
push=${2:-}
spac() { .venv/bin/spac-repro "$@"; }
version=$(.venv/bin/python -c 'import spac_repro; print(spac_repro.__version__)')
[ -z "$(git status --porcelain)" ] || { echo "release.sh: the working tree has uncommitted changes; commit or remove them" >&2; exit 2; }

mkdir -p dist && : >dist/digests.txt
for variant in ${VARIANTS:-cpu cuda}; do
  name=$repository:$version-$variant
  spac image build --runtime podman --variant "$variant" --tag "$name" ${BASE:+--base "$BASE"} ${SOURCE:+--source "$SOURCE"}
  spac image inspect "podman:$name" --sbom "dist/sbom-$variant.cdx.json"
  spac image inspect "podman:$name" --licences >"dist/licences-$variant.md"
  if [ "$variant" = cpu ]; then # the build machine has no GPU to test the cuda variant on
    spac train --in "podman:$name" --out "dist/run-$version" --until 0
    podman save --format docker-archive --output dist/image.tar "$name"
    if command -v apptainer >/dev/null; then
      spac image build --runtime apptainer --base docker-archive:dist/image.tar --out "dist/spac-repro-$version-cpu.sif"
    fi
  fi
  if [ "$push" = --push ]; then
    podman push --digestfile "dist/digest-$variant" "$name"
    echo "$repository@$(cat "dist/digest-$variant")" >>dist/digests.txt
  fi
done
cat dist/digests.txt
