#!/bin/sh
# compiler.sh PREFIX: make the package ziglang, installed in the environment PREFIX, a C compiler for Triton: PREFIX/bin/clang.
#
# Triton builds one module in C when training starts on a GPU (triton/runtime/build.py). It looks for gcc, then for clang, and needs
# Python's headers, which the base image has. What the compiler writes goes beside Triton's own cache.
set -eu
prefix=$1
site="$prefix/lib/python3.11/site-packages"
headers=$("$prefix/bin/python" -c 'import sysconfig; print(sysconfig.get_paths("posix_prefix")["include"])')
[ -f "$headers/Python.h" ] || {
  echo "compiler.sh: there is no $headers/Python.h; use the pinned base, or one with Python's headers (Debian: libpython3.11-dev)" >&2
  exit 3
}

# Two fifths of its files: C++, other systems and other processors.
(
  cd "$site/ziglang/lib"
  rm -rf docs init libcxx libcxxabi libtsan libunwind
  find libc -mindepth 1 -maxdepth 1 ! -name include ! -name glibc -exec rm -r {} +
  find libc/include -mindepth 1 -maxdepth 1 ! -name generic-glibc ! -name any-linux-any ! -name 'x86*-linux-any' \
    ! -name 'x86*-linux-gnu' -exec rm -r {} +
)

cat >"$prefix/bin/clang" <<END
#!/bin/sh
# clang of the package ziglang, with its own headers and stubs of glibc 2.28, which is older than the image's. Debian's Python.h
# includes a file by its path below /usr/include, which comes last.
cache="\${TRITON_CACHE_DIR:-\$HOME/.triton/cache}/zig"
export ZIG_GLOBAL_CACHE_DIR="\$cache" ZIG_LOCAL_CACHE_DIR="\$cache"
exec "$site/ziglang/zig" cc -target x86_64-linux-gnu.2.28 -Wno-macro-redefined -idirafter /usr/include "\$@"
END
chmod 755 "$prefix/bin/clang" "$site/ziglang/zig"

# It compiles Triton's module, or the build fails. There is no GPU's library here to link with.
check=$(mktemp -d)
nvidia="$site/triton/backends/nvidia"
TRITON_CACHE_DIR="$check" "$prefix/bin/clang" "$nvidia/driver.c" -O3 -shared -fPIC -Wno-psabi -o "$check/module.so" \
  "-I$nvidia/include" "-I$headers"
rm -r "$check"
