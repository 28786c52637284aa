#!/usr/bin/env bash
# archive.sh TARGET DIR: builds the program for a target and packs it with its completions and man pages, as
# DIR/calry-gitops-VERSION-TARGET.tar.gz. It needs cargo-auditable. The program has to run on this machine.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

# The newest glibc that a program for *-gnu may need: install.sh takes the one for musl on older systems.
glibc=2.34

target=${1:?the target, as x86_64-unknown-linux-gnu}
to=${2:?the directory for the archive}
name=calry-gitops-$version-$target
package=${CARGO_TARGET_DIR:-target}/package/$target
built=$(output "$target")/calry-gitops

CALRY_GITOPS_COMMIT=$(git rev-parse HEAD)
# The date of the man pages and the archive.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export CALRY_GITOPS_COMMIT SOURCE_DATE_EPOCH
build=(--locked --profile "$profile")
if [ "$target" != "$(host)" ]; then build+=(--target "$target"); fi
if [ "$profile" = dist ]; then
    # No path of this machine is in what is shipped.
    export RUSTFLAGS="--remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
fi
cargo auditable build "${build[@]}"

case $target in
    *-linux-gnu)
        needs=$(objdump -T "$built" | sed -n 's/.*(\{0,1\}GLIBC_\([0-9.]*\).*/\1/p' | sort -Vu | tail -n 1)
        [ "$(printf '%s\n' "$needs" "$glibc" | sort -V | tail -n 1)" = "$glibc" ] ||
            fail "the program needs glibc $needs, and $glibc is the newest that it may need"
        ;;
    *-linux-musl)
        if objdump -p "$built" | grep NEEDED; then fail "the program is not static"; fi
        ;;
esac

rm -rf "$package"
mkdir -p "$package/$name/completions" "$to"
cp "$built" README.md LICENSE CHANGELOG.md "$package/$name/"
# The profile dist has it done.
if [ "$profile" != dist ]; then strip "$package/$name/calry-gitops"; fi
"$built" completions bash >"$package/$name/completions/calry-gitops.bash"
"$built" completions zsh >"$package/$name/completions/_calry-gitops"
"$built" completions fish >"$package/$name/completions/calry-gitops.fish"
"$built" completions powershell >"$package/$name/completions/_calry-gitops.ps1"
"$built" man --dir "$package/$name/man"

# GNU tar, which is gtar on macOS. The same files make the same archive.
tar=$(command -v gtar || command -v tar)
"$tar" --create --directory "$package" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mode=u+w,go-w \
    --mtime="@$SOURCE_DATE_EPOCH" "$name" | gzip --no-name --best >"$to/$name.tar.gz"
printf '%s\n' "$to/$name.tar.gz"
