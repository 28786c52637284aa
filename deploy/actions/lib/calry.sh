# Sourced by the scripts that run calry-gitops, after programs.sh: the inputs that they share.
# shellcheck shell=bash
# shellcheck disable=SC2034 # code, results and repository_url are for the script that sources this

if [[ $BINARY == */* ]]; then
    real=$(realpath -- "$BINARY") || refuse "there is no binary $BINARY"
    if in_checkout "${real%/*}"; then
        refuse "binary is inside the checkout, so a pull request can replace it; put it elsewhere, for example into RUNNER_TEMP"
    fi
    BINARY=$real
fi
if [ -n "${WORKING_DIRECTORY:-}" ]; then
    in_checkout "$WORKING_DIRECTORY" || refuse "working-directory is not a directory of the checkout: $WORKING_DIRECTORY"
    cd -P -- "$WORKING_DIRECTORY" || exit
fi
if [ -n "${API_URL:-}" ]; then export CALRY_API_URL=$API_URL; fi
if [ -n "${TIMEOUT:-}" ]; then export CALRY_TIMEOUT=$TIMEOUT; fi

options=(--definitions "$DEFINITIONS")
if [ "${STRICT:-false}" = true ]; then options+=(--strict); fi
set -f
for provider in ${ONLY//,/ }; do
    [[ $provider =~ ^[A-Za-z][A-Za-z0-9_]*$ ]] || refuse "only is a list of providers, such as HOSTAWAY, GUESTY"
    options+=(--only "$provider")
done
set +f

# For the links to commits and files.
repository_url=github+${GITHUB_SERVER_URL:-https://github.com}/$GITHUB_REPOSITORY

# What a later step may read, and what is deleted at the end.
results=$(mktemp -d "${RUNNER_TEMP:-/tmp}/calry-gitops.XXXXXX")
work=$(mktemp -d "${RUNNER_TEMP:-/tmp}/calry-gitops.XXXXXX")
trap 'rm -rf "$work"' EXIT

# calry ARGUMENT…: runs calry-gitops, shows its log, and stores its exit code in $code and its result in a file.
calry() {
    code=0
    "$BINARY" --color never "$@" >"$work/result" 2>"$work/log" || code=$?
    if [ -s "$work/log" ]; then show "$work/log"; fi
}

# explain SENTENCE: the first error of the program as an annotation of the job; the sentence if it reported none.
explain() {
    local error
    error=$(sed -nE '/^error: /{s///p;q;}' "$work/log")
    error=${error:-$1}
    say error "${error//%/%25}"
}

# Prints the slug of the workspace: of a plan, or of the pin if there is no plan.
workspace_slug() {
    local slug
    slug=$(jq --raw-output '.workspace.slug // empty' "$1" 2>/dev/null) || true
    if [ -z "$slug" ]; then
        slug=$(sed -nE '/^slug: *"?([A-Za-z0-9_-]+)"? *(#.*)?$/{s//\1/p;q;}' "$DEFINITIONS"/workspace.y*ml 2>/dev/null) || true
    fi
    printf %s "$slug" | tr -cs 'A-Za-z0-9._' -
}
