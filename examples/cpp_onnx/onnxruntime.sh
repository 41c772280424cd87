#!/bin/sh
# Puts ONNX Runtime for C++ into a folder, where the system has no package of it:
#
#     sh onnxruntime.sh PREFIX [PYTHON]
#
# The library is that of the Python package `onnxruntime`. The headers, which that lacks, are those of Debian's package
# libonnxruntime-dev; an older interface than the library's is part of every newer one.
set -eu
mkdir -p "$1/lib" "$1/include"
prefix=$(cd "$1" && pwd)
capi=$("${2:-python3}" -c 'import os, onnxruntime; print(os.path.join(os.path.dirname(onnxruntime.__file__), "capi"))')
cp "$capi"/libonnxruntime.so.* "$prefix/lib/libonnxruntime.so.1"
ln -sf libonnxruntime.so.1 "$prefix/lib/libonnxruntime.so"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Debian 13 is the first that has the package. Its list is read into a folder of its own, so that nothing else of it is
# installed on an older system.
mkdir -p lists/partial cache/archives/partial
sed 's/bookworm/trixie/g' /etc/apt/sources.list.d/debian.sources > debian.sources
from_debian_13() {
    apt-get -qq -o Dir::Etc::sourcelist="$work/debian.sources" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@"
}
from_debian_13 update
from_debian_13 download libonnxruntime-dev
dpkg-deb -x libonnxruntime-dev_*.deb package
cp package/usr/include/onnxruntime/*.h "$prefix/include/"
