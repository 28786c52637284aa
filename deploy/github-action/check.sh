#!/bin/bash -p
# The check of a pull request: the problems of the definitions, and the changes that they would make. action.yml runs it in
# the root of the repository and describes each variable. It needs bash, curl and jq.
#
# The checkout is hostile: no program comes from it, and no file is written through a link in it. So are definitions and live
# state: the log shows them only between stop-commands or escaped by calry-gitops, and the comment is made by calry-gitops.
# The token and the keys are never arguments, because other users can see those.
set -euo pipefail
# shellcheck source=deploy/github-action/programs.sh
. "${BASH_SOURCE[0]%/*}/programs.sh"

export -n TOKEN # child processes do not need it
for name in SECRETS_UNAVAILABLE FAIL_ON_DRIFT FAIL_ON_LOOSENED STRICT COMMENT; do
    case ${!name} in
    true | false) ;;
    *)
        printf '::error title=Calry::%s is true or false\n' "$(tr _ - <<<"${name,,}")"
        exit 64
        ;;
    esac
done

say() {
    printf '::%s title=Calry::%s\n' "$1" "$2"
}
refuse() {
    say error "$1"
    exit 64
}

if [ -z "$BINARY" ]; then BINARY=$RUNNER_TEMP/calry-gitops/target/release/calry-gitops; fi
if [[ $BINARY == */* ]]; then
    real=$(realpath -- "$BINARY") || refuse "there is no binary $BINARY"
    if in_checkout "${real%/*}"; then
        refuse "binary is inside the checkout, so a pull request can replace it; put it elsewhere, for example into RUNNER_TEMP"
    fi
fi
if [ "$FAIL_ON_LOOSENED" = true ]; then
    if [ -z "$BASE" ]; then refuse "fail-on-loosened needs a base to compare with"; fi
    if [ -z "${CALRY_API_KEY:-}" ] && [ -z "$LIVE" ]; then refuse "fail-on-loosened needs an API key or a snapshot"; fi
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
touch "$work/plan.md"

# Prints a file to the log without letting the runner interpret its lines as commands.
show() {
    local token
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '::stop-commands::%s\n' "$token"
    cat "$1"
    printf '\n::%s::\n' "$token"
}

# Runs calry-gitops, prints its output, annotations last, and stores its exit code in $code.
check() {
    code=0
    "$BINARY" --color never "$@" >"$work/annotations" 2>"$work/log" || code=$?
    if [ -s "$work/log" ]; then show "$work/log"; fi
    cat "$work/annotations"
}

options=(--definitions "$DEFINITIONS")
if [ "$STRICT" = true ]; then options+=(--strict); fi

if [ -n "$SARIF" ]; then
    "$BINARY" validate "${options[@]}" --quiet --format sarif >"$work/sarif" 2>/dev/null || [ -s "$work/sarif" ]
    rm -f -- "$SARIF" # the branch may have a link there
    cp -- "$work/sarif" "$SARIF"
fi

changes='' digest='' loosened='' drifted=0
if [ -z "${CALRY_API_KEY:-}" ] && [ -z "$LIVE" ]; then
    check validate "${options[@]}" --format github
    say notice "there is neither an API key nor a snapshot here: the files were checked, and nothing was planned"
    printf '### Calry: the files were checked, and nothing was planned\n\n%s\n' \
        "No API key and no snapshot is available." >"$work/summary.md"
else
    plan=(plan "${options[@]}" --detailed-exitcode --format github
        --also "json=$work/plan.json" --also "markdown=$work/plan.md")
    if [ -n "$LIVE" ]; then plan+=(--live="$LIVE"); fi
    if [ "$SECRETS_UNAVAILABLE" = true ]; then plan+=(--secrets-unavailable); fi
    if [ -n "$BASE" ]; then
        plan+=(--base="$BASE")
        if [ "$FAIL_ON_DRIFT" = true ]; then plan+=(--fail-on-drift); fi
        if [ "$FAIL_ON_LOOSENED" = true ]; then plan+=(--fail-on-loosened); fi
    fi
    check "${plan[@]}"
    if [ -s "$work/plan.json" ] && jq --exit-status .definitions "$work/plan.json" >"$work/found"; then
        differing() {
            jq "[.definitions[] | select(.state == \"update\" and any(.changes[]; .origin != \"$1\"))] | length" "$work/plan.json"
        }
        # Without a base, changes and drift cannot be told apart.
        changes=$(differing drift)
        drifted=$(differing branch)
        loosened=$(jq --raw-output '.loosened | if . then length else "" end' "$work/plan.json")
        digest=$(jq --raw-output '.digest // ""' "$work/plan.json")
    fi
    cp "$work/plan.md" "$work/summary.md"
fi

{
    printf 'changes=%s\n' "$changes"
    printf 'loosened=%s\n' "$loosened"
    printf 'digest=%s\n' "$digest"
    printf 'exitcode=%s\n' "$code"
} >>"${GITHUB_OUTPUT:-/dev/null}"
cat "$work/summary.md" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"

# Sends a request to GitHub: method, URL and file. Stores the answer in a file and prints its status.
github() {
    local ask=(--silent --show-error --max-time 30 --request "$1" --output "$work/answer" --write-out '%{http_code}'
        --header 'accept: application/vnd.github+json' --header 'x-github-api-version: 2022-11-28')
    if [ "$1" = GET ]; then ask+=(--retry 2); fi
    if [ -n "${3:-}" ]; then ask+=(--header 'content-type: application/json' --data-binary "@$3"); fi
    curl "${ask[@]}" --config <(printf 'header = "authorization: Bearer %s"\n' "$TOKEN") "$2" 2>"$work/trouble" || true
}

# The owner of the token. Apps cannot read /user, and their names come with or without the suffix [bot]; a person's name
# has no brackets.
me() {
    if [ "$(github GET "$API_URL/user")" = 200 ]; then
        jq --exit-status --raw-output '.login // empty' "$work/answer"
        return
    fi
    echo '{"query": "{ viewer { login } }"}' >"$work/query"
    [ "$(github POST "${API_URL%/v3}/graphql" "$work/query")" = 200 ] &&
        jq --exit-status --raw-output '.data.viewer.login // empty | rtrimstr("[bot]") + "[bot]"' "$work/answer"
}

# Finds the comment of the token's owner for this workspace: its number in $id, its text in a file. Anyone can write
# the marker, so comments of others are left alone.
find_comment() {
    local login page
    id=''
    login=$(me) || return 1
    for page in {1..100}; do
        [ "$(github GET "$comments?per_page=100&page=$page")" = 200 ] || return 1
        jq --arg login "$login" --arg marker "$marker" \
            'map(select(.user.login == $login and (.body | startswith($marker)))) | first // empty' \
            "$work/answer" >"$work/found"
        if [ -s "$work/found" ]; then
            id=$(jq .id "$work/found")
            return
        fi
        if [ "$(jq length "$work/answer")" -lt 100 ]; then return; fi
    done
}

keep_comment() {
    local slug marker id status comments=$API_URL/repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments
    # Without a plan, the pin names the workspace, so that its comment does not keep showing an older plan.
    slug=$(jq --raw-output '.workspace.slug // empty' "$work/plan.json" 2>/dev/null) || true
    if [ -z "$slug" ]; then
        slug=$(sed -nE 's/^slug: *"?([A-Za-z0-9_-]+)"? *(#.*)?$/\1/p' "$DEFINITIONS"/workspace.y*ml 2>/dev/null | head -n 1) || true
    fi
    marker="<!-- calry-gitops:$(printf %s "$slug" | tr -cs 'A-Za-z0-9._' -) -->"
    if [ -z "$slug" ]; then return; fi
    if ! find_comment; then
        say warning "the comments of this pull request cannot be read; the plan is in the summary of this job"
        return
    fi
    jq --null-input --arg marker "$marker" --rawfile plan "$work/plan.md" '{body: ($marker + "\n" + $plan)}' >"$work/body"
    if [ -z "$id" ]; then
        # Without a result no comment is created, but an existing one is corrected.
        if [ "$code" = 0 ] && [ "$changes" = 0 ] && [ "${loosened:-0}" = 0 ]; then return; fi
        status=$(github POST "$comments" "$work/body")
    elif jq --exit-status --slurpfile body "$work/body" \
        'def text: gsub("\\r"; "") | sub("\\s+$"; ""); (.body | text) == ($body[0].body | text)' "$work/found" >"$work/same"; then
        return
    else
        status=$(github PATCH "$API_URL/repos/$GITHUB_REPOSITORY/issues/comments/$id" "$work/body")
    fi
    case $status in
    200 | 201) ;;
    401 | 403 | 404) say notice "the token may not comment here, as one of a fork; the plan is in the summary of this job" ;;
    *) say warning "the comment was not kept, for GitHub answered $status; the plan is in the summary of this job" ;;
    esac
}

if [ "$COMMENT" = true ] && [ -n "$PULL_REQUEST" ] && [ -n "$TOKEN" ] && [ -s "$work/plan.md" ]; then
    keep_comment
fi

# Changes are the purpose of a pull request, so they do not fail the check. Drift and lost protection do on request.
if [ "$FAIL_ON_DRIFT" = false ]; then drifted=0; fi
if [ "$FAIL_ON_LOOSENED" = false ]; then loosened=0; fi
if [ "$code" = 2 ] && [ "$drifted" = 0 ] && [ "${loosened:-0}" = 0 ]; then code=0; fi
exit "$code"
