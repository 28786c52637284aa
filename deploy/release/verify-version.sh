#!/usr/bin/env bash
# verify-version.sh TAG: fails unless every file of the release has the version of the tag.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

tag=${1:?the tag, as v1.2.3}
wanted=${tag#v}
[ "$tag" = "v$wanted" ] || fail "the tag $tag does not begin with v"

wrong=0
# same PLACE VERSION
same() {
    if [ "$2" != "$wanted" ]; then
        printf '%s has version %s, the tag has %s\n' "$1" "${2:-(none)}" "$wanted" >&2
        wrong=1
    fi
}
# value FILE PATTERN: what follows the pattern at the start of a line.
value() {
    sed -n "s/^$2\"\{0,1\}\([0-9][^\" ]*\)\"\{0,1\}$/\1/p" "$1"
}

same Cargo.toml "$version"
same Cargo.lock "$(sed -n '/^name = "calry-gitops"$/{n;s/^version = "\(.*\)"$/\1/p;}' Cargo.lock)"
chart=deploy/helm/calry-gitops/Chart.yaml
same "$chart, version," "$(value "$chart" 'version: ')"
same "$chart, appVersion," "$(value "$chart" 'appVersion: ')"
same deploy/install.sh "$(value deploy/install.sh 'release=')"
same deploy/Dockerfile "$(value deploy/Dockerfile 'ARG VERSION=')"
same templates/check.yml "$(value templates/check.yml ' *default: ')"
# The first heading below the one of unreleased changes, which a date follows.
same CHANGELOG.md "$(sed -n 's/^## \[\([0-9][^]]*\)\] - [0-9-]\{10\}$/\1/p' CHANGELOG.md | head -n 1)"
# Images, actions, files and pages of a release, as calry-gitops:1.2.3, calry-gitops/deploy/actions/check@v1.2.3, ….
number='[0-9]+\.[0-9]+\.[0-9]+'
while IFS=: read -r file mention; do
    found=${mention##*[:@/_-]}
    if [ "${found#v}" != "${wanted%%-*}" ]; then
        printf '%s names %s, the tag has %s\n' "$file" "$mention" "$wanted" >&2
        wrong=1
    fi
done < <(git grep --only-matching --extended-regexp "calry-gitops[A-Za-z/._-]*[:@/_-]v?$number"  -- \
    README.md deploy docs templates ':!deploy/release')

[ "$wrong" = 0 ] || fail "prepare the release with deploy/release/prepare.sh"
printf 'every file has version %s\n' "$wanted"
