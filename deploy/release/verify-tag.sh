#!/usr/bin/env bash
# verify-tag.sh TAG [BRANCH]: fails unless the tag has the SSH signature of a maintainer and its commit is in the branch
# (origin/main). The list of maintainers is the branch's, not the tag's: a tag cannot add its own signer.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

tag=${1:?the tag, as v1.2.3}
branch=${2:-origin/main}
signers=$(mktemp)
trap 'rm -f "$signers"' EXIT

git rev-parse --quiet --verify "refs/tags/$tag" >/dev/null || fail "there is no tag $tag"
[ "$(git cat-file -t "refs/tags/$tag")" = tag ] || fail "$tag is not an annotated tag; make it with git tag --sign"
git show "$branch:deploy/release/allowed_signers" >"$signers"
grep -q '^[^#]' "$signers" || fail "deploy/release/allowed_signers of $branch names no maintainer; docs/releasing.md says how to add one"
git -c gpg.format=ssh -c "gpg.ssh.allowedSignersFile=$signers" verify-tag "$tag" ||
    fail "$tag is not signed by a maintainer in deploy/release/allowed_signers"
git merge-base --is-ancestor "$tag^{commit}" "$branch" || fail "the commit of $tag is not in $branch"
printf '%s is signed, and its commit is in %s\n' "$tag" "$branch"
