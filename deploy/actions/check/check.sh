#!/bin/bash -p
# The check of a pull request: the problems of the definitions, and the changes that they would make. action.yml describes
# each variable. It needs bash, curl and jq; with git, a branch that changes no definition is done at once.
#
# The checkout is hostile: no program comes from it, and no file is written through a link in it. So are definitions and live
# state: the log shows them only between stop-commands or escaped by calry-gitops, and the comment is made by calry-gitops.
# The token and the keys are never arguments, because other users can see those.
set -euo pipefail
# shellcheck source=deploy/actions/lib/programs.sh
. "${BASH_SOURCE[0]%/*}/../lib/programs.sh"
true_or_false secrets-unavailable "$SECRETS_UNAVAILABLE"
true_or_false fail-on-drift "$FAIL_ON_DRIFT"
true_or_false fail-on-loosened "$FAIL_ON_LOOSENED"
true_or_false strict "$STRICT"
true_or_false comment "$COMMENT"
# shellcheck source=deploy/actions/lib/calry.sh
. "${BASH_SOURCE[0]%/*}/../lib/calry.sh"
# shellcheck source=deploy/actions/lib/github.sh
. "${BASH_SOURCE[0]%/*}/../lib/github.sh"

# The commit that this branch is compared with. The base of the event can be older than the one that GitHub merged the branch
# into for this checkout; what others merged in between is not of this branch.
find_base() {
    local first second more
    if [ "$BASE" = none ]; then
        BASE=''
    elif [ -z "$BASE" ]; then
        BASE=$EVENT_BASE
        read -r _ first second more < <(git rev-list --parents --max-count=1 HEAD 2>/dev/null) || true
        if [ -n "$BASE" ] && [ -n "$EVENT_HEAD" ] && [ "${second:-}" = "$EVENT_HEAD" ] && [ -z "${more:-}" ]; then BASE=$first; fi
    fi
}

# Whether no file of the definitions differs from the base, the checkout included. What lies behind a link is not compared, so
# with a link, or if git cannot answer, the answer is no.
unchanged() {
    local base
    [ -n "$BASE" ] && [ "$(cd -P -- "$DEFINITIONS" && pwd)" = "$(pwd -P)/${DEFINITIONS%/}" ] &&
        base=$(git merge-base "$BASE" HEAD) &&
        git diff --quiet --no-ext-diff --no-textconv "$base" -- "$DEFINITIONS" &&
        [ -z "$(git ls-files --others -- "$DEFINITIONS")" ] &&
        [ -n "$(git ls-files -- "$DEFINITIONS")" ] &&
        [ -z "$(find "$DEFINITIONS" -type l)" ]
} 2>/dev/null

# Appends to the plan what it does not know: when a merge is applied, and where the log is.
append_links() {
    {
        echo
        if [ -n "$APPLIED_WITHIN" ] && [ "${changes:-0}" != 0 ]; then printf 'Merging applies this within %s. ' "$APPLIED_WITHIN"; fi
        printf '[Log](%s)\n' "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID"
    } >>"$plan_markdown"
}

find_base
if ! [[ $APPLIED_WITHIN =~ ^[A-Za-z0-9\ ]{0,40}$ ]]; then refuse "applied-within is a time, such as 1 minute"; fi
if [ "$FAIL_ON_LOOSENED" = true ]; then
    if [ -z "$BASE" ]; then refuse "fail-on-loosened needs a base to compare with"; fi
    if [ -z "${CALRY_API_KEY:-}" ] && [ -z "$LIVE" ]; then refuse "fail-on-loosened needs an API key or a snapshot"; fi
fi

# A branch does not choose the policies that it is checked with.
if [[ -n $POLICIES && $POLICIES != /* ]]; then
    if [ -z "$BASE" ]; then refuse "policies of the repository need a base to read them from"; fi
    if ! git cat-file blob "$BASE:./$POLICIES" >"$work/policies.yaml"; then refuse "the base has no file $POLICIES, or it was not fetched; set fetch-depth: 0"; fi
    POLICIES=$work/policies.yaml
fi

if [ -n "$SARIF" ]; then
    "$BINARY" validate "${options[@]}" --quiet --format sarif >"$work/sarif" 2>/dev/null || [ -s "$work/sarif" ]
    rm -f -- "$SARIF" # the branch may have a link there
    cp -- "$work/sarif" "$SARIF"
fi

code=0 changes='' drifted='' fields_off='' loosened='' digest='' comment_id=''
plan_json=$results/plan.json plan_markdown=$results/plan.md
touch "$plan_markdown"
if [ "$FAIL_ON_DRIFT" = false ] && unchanged; then
    changes=0 fields_off=0 loosened=0
    say notice "this branch changes no definition"
    printf '### ✅ Calry: this branch changes no definition\n' | tee "$plan_markdown" >"$work/summary.md"
elif [ -z "${CALRY_API_KEY:-}" ] && [ -z "$LIVE" ]; then
    calry validate "${options[@]}" --format github
    cat "$work/result"
    # A fork has no key. In the repository itself it is missing, and every check would be green without a plan.
    level=warning
    if [ -n "$EVENT_REPOSITORY" ] && [ "$EVENT_REPOSITORY" != "$GITHUB_REPOSITORY" ]; then level=notice; fi
    say "$level" "there is neither an API key nor a snapshot: the files were checked, and nothing was planned. Set the secret of api-key; a fork needs a snapshot"
    {
        if [ "$code" = 0 ]; then
            printf '### ✅ Calry: the files are valid; nothing was planned\n\n'
        else
            printf '### ❌ Calry: the files have errors; nothing was planned\n\n'
        fi
        printf 'There is neither an API key nor a snapshot. Set the secret of api-key; a fork needs a snapshot.\n\n'
        sed 's/^/    /' "$work/log" # as code, which nothing in it can end
    } >"$work/summary.md"
else
    plan=(plan "${options[@]}" --detailed-exitcode --format github
        --also "json=$plan_json" --also "markdown=$plan_markdown" --also "text=$work/plan.txt"
        --repository-url "$repository_url" --link-commit "${EVENT_HEAD:-$GITHUB_SHA}")
    if [ -n "$LIVE" ]; then plan+=(--live="$LIVE"); fi
    if [ -n "$POLICIES" ]; then plan+=(--policies "$POLICIES"); fi
    if [ "$SECRETS_UNAVAILABLE" = true ]; then plan+=(--secrets-unavailable); fi
    if [ -n "$BASE" ]; then
        plan+=(--base="$BASE")
        if [ "$FAIL_ON_DRIFT" = true ]; then plan+=(--fail-on-drift); fi
        if [ "$FAIL_ON_LOOSENED" = true ]; then plan+=(--fail-on-loosened); fi
    fi
    calry "${plan[@]}"
    if [ "$code" = 64 ]; then explain "an input is wrong"; fi
    # Of a plan that failed, the log and an annotation have all.
    if [ -s "$work/plan.txt" ] && jq --exit-status .definitions "$plan_json" >"$work/found"; then
        echo '::group::The plan'
        show "$work/plan.txt"
        echo '::endgroup::'
    fi
    cat "$work/result" # annotations
    if [ -s "$plan_json" ] && jq --exit-status .definitions "$plan_json" >"$work/found"; then
        differing() {
            jq "[.definitions[] | select(.state == \"update\" and any(.changes[]; .origin != \"$1\"))] | length" "$plan_json"
        }
        # Without a base, changes cannot be distinguished from drift.
        changes=$(differing drift)
        drifted=$(differing branch)
        fields_off=$(jq '[.definitions[] | select(.state == "update") | .changes[] | select(.origin != "drift" and
            (.path | startswith("fieldsToSync.")) and .after == false)] | length' "$plan_json")
        loosened=$(jq --raw-output '.loosened | if . then length else "" end' "$plan_json")
        digest=$(jq --raw-output '.digest // ""' "$plan_json")
    fi
    if [ -s "$plan_markdown" ]; then append_links; fi
    cp "$plan_markdown" "$work/summary.md"
fi
cat "$work/summary.md" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"

keep_comment() {
    local slug marker status comments=$repository/issues/$PULL_REQUEST/comments
    # Without a plan, the pin names the workspace, so that its comment does not keep showing an older plan.
    slug=$(workspace_slug "$plan_json")
    if [ -z "$slug" ]; then return; fi
    marker="<!-- calry-gitops:$slug -->"
    if ! find_own "$comments" "$marker"; then
        say warning "the comments of this pull request cannot be read; the plan is in the summary of this job"
        return
    fi
    comment_id=$id
    jq --null-input --arg marker "$marker" --rawfile plan "$plan_markdown" '{body: ($marker + "\n" + $plan)}' >"$work/body"
    if [ -z "$id" ]; then
        # Without a result no comment is created, but an existing one is corrected.
        if [ "$code" = 0 ] && [ "$changes" = 0 ] && [ "${loosened:-0}" = 0 ]; then return; fi
        status=$(github POST "$comments" "$work/body")
    elif same_text "$work/body"; then
        return
    else
        status=$(github PATCH "$repository/issues/comments/$id" "$work/body")
    fi
    case $status in
    200 | 201) comment_id=$(jq --raw-output '.id // empty' "$work/answer") ;;
    401 | 403 | 404) say notice "the token may not comment on this pull request (tokens of forks may not); the plan is in the summary of this job" ;;
    *) say warning "the comment cannot be written: GitHub answered $status; the plan is in the summary of this job" ;;
    esac
}

if [ "$COMMENT" = true ] && [ -n "$PULL_REQUEST" ] && [ -n "$TOKEN" ] && [ -s "$plan_markdown" ]; then
    keep_comment
fi

if ! [ -s "$plan_json" ]; then plan_json=''; fi
if ! [ -s "$plan_markdown" ]; then plan_markdown=''; fi
output changes "$changes"
output drifted "$drifted"
output fields-off "$fields_off"
output loosened "$loosened"
output plan-json "$plan_json"
output plan-markdown "$plan_markdown"
output digest "$digest"
output comment-id "$comment_id"
output exitcode "$code"

# Changes are the purpose of a pull request, so they do not fail the check. Drift and lost protection do on request.
if [ "$FAIL_ON_DRIFT" = false ]; then drifted=0; fi
if [ "$FAIL_ON_LOOSENED" = false ]; then loosened=0; fi
if [ "$code" = 2 ] && [ "${drifted:-0}" = 0 ] && [ "${loosened:-0}" = 0 ]; then code=0; fi
exit "$code"
