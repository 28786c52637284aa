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
value() {
    sed -n "s/^$2[:=] *\"\{0,1\}\([^\" ]*\)\"\{0,1\}$/\1/p" "$1"
}

same Cargo.toml "$version"
same Cargo.lock "$(sed -n '/^name = "calry-gitops"$/{n;s/^version = "\(.*\)"$/\1/p;}' Cargo.lock)"
chart=deploy/helm/calry-gitops/Chart.yaml
same "$chart, version," "$(value "$chart" version)"
same "$chart, appVersion," "$(value "$chart" appVersion)"
same deploy/install.sh "$(value deploy/install.sh release)"
# The first heading below the one of unreleased changes, which a date follows.
heading=$(sed -n 's/^## \[\([0-9][^]]*\)\] - [0-9-]\{10\}$/\1/p' CHANGELOG.md | head -n 1)
same CHANGELOG.md "$heading"
# Every mention of the image with a version, and of a release's files.
image=ghcr.io/${GITHUB_REPOSITORY:-calry-gitops/calry-gitops}
while IFS=: read -r file mention; do
    same "$file" "${mention##*:}"
done < <(git grep --only-matching --extended-regexp "$image:[0-9][0-9A-Za-z.-]*" -- . ':!CHANGELOG.md')
# The actions and the component, in the examples and the pages.
same templates/check.yml "$(sed -n 's/^      default: \([0-9][0-9A-Za-z.-]*\)$/\1/p' templates/check.yml)"
while IFS=: read -r file mention; do
    same "$file" "${mention##*v}"
done < <(git grep --only-matching --extended-regexp \
    'deploy/actions/[a-z]+@v[0-9][0-9A-Za-z.-]*|check@v[0-9][0-9A-Za-z.-]*|rev: v[0-9][0-9A-Za-z.-]*' -- deploy docs README.md)

[ "$wrong" = 0 ] || fail "prepare the release as docs/releasing.md describes, and move the tag"
printf 'every file has version %s\n' "$wanted"
