#!/bin/sh
# install.sh cpu|cuda: install spac-repro into /opt/spac-repro, from the lock files alone. The Dockerfile and apptainer.def run it in a
# copy of the checkout. With a folder wheels/ (which `spac-repro image build` fills) nothing is downloaded. Without it, pip uses its index.
#
# The cuda variant also gets a C compiler, which Triton needs (container/compiler.sh). The cpu variant has none.
#
# Equal input gives equal files: they contain no clock time, no random name and no order of directory entries.
set -eu
variant=$1
prefix=/opt/spac-repro
tools=$(mktemp -d)
locks="requirements/base.lock requirements/$variant.lock"
[ "$variant" = cpu ] || locks="$locks requirements/compiler.lock"
export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
[ -d wheels ] && { export PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheels"; }

# pip and the build tools are not in the image.
python3 -m venv "$tools"
pip="$tools/bin/python -m pip --quiet"
$pip install --no-compile --no-deps --require-hashes -r requirements/image.lock
# shellcheck disable=SC2086 # each lock is a word of its own
$pip wheel --no-deps --no-build-isolation --require-hashes -w wheelhouse $(printf ' -r %s' $locks)
$pip wheel --no-deps --no-build-isolation -w wheelhouse .

# Four packages have no wheel, so their wheels are built here and have other hashes. Their sources were checked just above.
# shellcheck disable=SC2086
sed -n 's/^\([A-Za-z0-9][^\\]*==[^\\]*\) \\$/\1/p' $locks >pins.txt
python3 -m venv --without-pip "$prefix"
PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheelhouse" $pip --python "$prefix/bin/python" install --no-compile --no-deps -r pins.txt spac-repro

# A third of all files, which nothing here imports: the libraries' tests, and torch's headers, against which nothing is compiled.
site="$prefix/lib/python3.11/site-packages"
find "$site" -path "$site/ziglang" -prune -o -type d -name tests -prune -exec rm -r {} + # the compiler's library needs its own
rm -r "$site/torch/include"
[ "$variant" = cpu ] || sh container/compiler.sh "$prefix"

# Compile to bytecode: a read-only image cannot cache any, and imports without it take several times as long. unchecked-hash needs no time
# stamps. Two processes with a fixed order each: one pool of two workers would give other bytes each time.
compile() { "$prefix/bin/python" -m compileall -q -j 1 --invalidation-mode unchecked-hash "$@" >/dev/null || true; } # some files need a later Python
(cd "$site" && compile torch transformers) &
compile -x "$site/(torch|transformers)/" "$site"
wait

mkdir "$prefix/share/spac-repro"
"$tools/bin/cyclonedx-py" environment --output-reproducible --output-format JSON --output-file "$prefix/share/spac-repro/sbom.cdx.json" "$prefix/bin/python"
"$tools/bin/pip-licenses" --python="$prefix/bin/python" --with-system --order=name --format=markdown >"$prefix/share/spac-repro/licences.md"
dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' >"$prefix/share/spac-repro/debian-packages.txt"
rm -rf "$tools" wheelhouse
