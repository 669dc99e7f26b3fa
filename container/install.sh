#!/bin/sh
# install.sh cpu|cuda: put spac-repro into /opt/spac-repro, from the locks and nothing else. Run in a copy of the checkout, by both the
# Dockerfile and apptainer.def. With a folder wheels/ (which `spac-repro image build` fills) nothing is fetched; without, pip's own sources are asked.
#
# Equal input gives equal files: no clock time, no random name and no order of directory entries gets into them.
set -eu
variant=$1
prefix=/opt/spac-repro
tools=$(mktemp -d)
export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
[ -d wheels ] && { export PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheels"; }

# What builds is not what ships: pip and the tools stay outside.
python3 -m venv "$tools"
pip="$tools/bin/python -m pip --quiet"
$pip install --no-compile --no-deps --require-hashes -r requirements/image.lock
$pip wheel --no-deps --no-build-isolation --require-hashes -w wheelhouse -r requirements/base.lock -r "requirements/$variant.lock"
$pip wheel --no-deps --no-build-isolation -w wheelhouse .

# Four packages have no wheel, so the ones built here have hashes of their own; what they were built from was checked just above.
sed -n 's/^\([A-Za-z0-9][^\\]*==[^\\]*\) \\$/\1/p' requirements/base.lock "requirements/$variant.lock" >pins.txt
python3 -m venv --without-pip "$prefix"
PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheelhouse" $pip --python "$prefix/bin/python" install --no-compile --no-deps -r pins.txt spac-repro

# A third of all files, which nothing here imports: the libraries' own tests, and headers for a compiler that is not there.
site="$prefix/lib/python3.11/site-packages"
find "$site" -type d -name tests -prune -exec rm -r {} +
rm -r "$site/torch/include"

# Bytecode, since a read-only image cannot keep any, and importing without it takes several times as long. It is valid by
# declaration, not by time stamp. Two processes, each with an order of its own: one pool of two would give other bytes each time.
compile() { "$prefix/bin/python" -m compileall -q -j 1 --invalidation-mode unchecked-hash "$@" >/dev/null || true; } # some files are for a later Python
(cd "$site" && compile torch transformers) &
compile -x "$site/(torch|transformers)/" "$site"
wait

mkdir "$prefix/share/spac-repro"
"$tools/bin/cyclonedx-py" environment --output-reproducible --output-format JSON --output-file "$prefix/share/spac-repro/sbom.cdx.json" "$prefix/bin/python"
"$tools/bin/pip-licenses" --python="$prefix/bin/python" --with-system --order=name --format=markdown >"$prefix/share/spac-repro/licences.md"
dpkg-query --show --showformat '${Package} ${Version} ${Architecture}\n' >"$prefix/share/spac-repro/debian-packages.txt"
rm -rf "$tools" wheelhouse
