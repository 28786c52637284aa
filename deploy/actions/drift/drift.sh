#!/bin/bash -p
# Reports drift: one issue per workspace, and, if asked, a pull request that adopts the live state. action.yml describes each
# variable. It needs bash, curl and jq, and git for the pull request.
set -euo pipefail
# shellcheck source=deploy/actions/lib/programs.sh
. "${BASH_SOURCE[0]%/*}/../lib/programs.sh"
true_or_false secrets-unavailable "$SECRETS_UNAVAILABLE"
true_or_false issue "$KEEP_ISSUE"
true_or_false pull-request "$OFFER"
true_or_false fail-on-drift "$FAIL_ON_DRIFT"
# shellcheck source=deploy/actions/lib/calry.sh
. "${BASH_SOURCE[0]%/*}/../lib/calry.sh"
# shellcheck source=deploy/actions/lib/github.sh
. "${BASH_SOURCE[0]%/*}/../lib/github.sh"
if [ -z "$CALRY_API_KEY" ]; then refuse "api-key is empty; set the secret that the workflow names"; fi

plan_json=$results/plan.json plan_markdown=$results/plan.md
plan=(plan "${options[@]}" --detailed-exitcode --also "json=$plan_json" --also "markdown=$plan_markdown" --repository-url "$repository_url")
if [ "$SECRETS_UNAVAILABLE" = true ]; then plan+=(--secrets-unavailable); fi
calry "${plan[@]}"
plan_code=$code
echo '::group::The plan'
show "$work/result"
echo '::endgroup::'
cat "$plan_markdown" >>"${GITHUB_STEP_SUMMARY:-/dev/null}" 2>/dev/null || true

drifted='' digest=''
if [ -s "$plan_json" ] && jq --exit-status .definitions "$plan_json" >"$work/found"; then
    drifted=$(jq '.summary.update' "$plan_json")
    digest=$(jq --raw-output '.digest // ""' "$plan_json")
fi
slug=$(workspace_slug "$plan_json")
server=${GITHUB_SERVER_URL:-https://github.com}
run=$server/$GITHUB_REPOSITORY/actions/runs/${GITHUB_RUN_ID:-}

# expect STATUS SENTENCE METHOD URL [FILE]: a request that must succeed.
expect() {
    local status
    status=$(github "${@:3}")
    if [[ " $1 " != *" $status "* ]]; then
        say error "$2: GitHub answered $status"
        return 1
    fi
}

# Opens, updates or closes the issue of this workspace.
keep_issue() {
    local marker="<!-- calry-gitops-drift:$slug -->" issues=$repository/issues
    if ! find_own "$issues?state=open" "$marker"; then
        say error "the issues of this repository cannot be read; the token needs the permission issues: write"
        return 1
    fi
    issue=$id
    if [ "$plan_code" = 0 ]; then
        if [ -z "$id" ]; then return; fi
        jq --null-input --arg run "$run" --arg commit "${GITHUB_SHA:-}" \
            '{body: "In sync again with \($commit), as of [this run](\($run))."}' >"$work/body"
        expect 201 "the issue cannot be commented on" POST "$issues/$id/comments" "$work/body" || return 1
        echo '{"state": "closed", "state_reason": "completed"}' >"$work/body"
        expect 200 "the issue cannot be closed" PATCH "$issues/$id" "$work/body" || return 1
        return
    fi
    # The run is not named: a body that changes with every run would notify with every run.
    jq --null-input --arg marker "$marker" --arg slug "$slug" --arg count "$drifted" --rawfile plan "$plan_markdown" '{
        title: "Calry: \($slug) differs from git in \($count) \(if $count == "1" then "provider" else "providers" end)",
        body: ($marker + "\n" + $plan + "\n**Undo it**: apply the definitions. **Keep it**: `calry-gitops pull --only PROVIDER`, " +
            "and commit the result. This issue closes itself when both are equal again.\n")}' >"$work/body"
    if [ -z "$id" ]; then
        expect 201 "the issue cannot be opened" POST "$issues" "$work/body" || return 1
        issue=$(jq .number "$work/answer")
    elif ! same_text "$work/body"; then
        expect 200 "the issue cannot be updated" PATCH "$issues/$id" "$work/body" || return 1
    fi
}

# Offers the live state of the providers that drifted as a pull request, or closes the one that is no longer needed. The commit
# is made by GitHub itself, which signs it: nothing is pushed, and no credential reaches git.
keep_pull_request() {
    local marker head provider path branch=calry-gitops/drift-$slug files="$work/files" only=()
    if ! find_own "$repository/pulls?state=open&head=${GITHUB_REPOSITORY%%/*}:$branch" "<!-- calry-gitops-drift:$slug "; then
        say error "the pull requests cannot be read; the token needs the permission pull-requests: write"
        return 1
    fi
    pull_request=$id
    if [ "$plan_code" = 0 ]; then
        if [ -z "$id" ]; then return; fi
        echo '{"state": "closed"}' >"$work/body"
        expect 200 "the pull request cannot be closed" PATCH "$repository/pulls/$id" "$work/body" || return 1
        expect "204 404 422" "the branch $branch cannot be deleted" DELETE "$repository/git/refs/heads/$branch" || return 1
        return
    fi
    while IFS= read -r provider; do only+=(--only "$provider"); done < <(
        jq --raw-output '.definitions[] | select(.state == "update") | .provider' "$plan_json")
    calry pull --definitions "$DEFINITIONS" "${only[@]}"
    show "$work/result"
    if [ "$code" != 0 ]; then
        say error "the live state cannot be written into the files; the log says why"
        return 1
    fi
    echo '[]' >"$files"
    while IFS= read -r -d '' path; do
        path=${path:3}
        base64 <"$(git rev-parse --show-toplevel)/$path" | tr -d '\n' >"$work/content"
        jq --arg path "$path" --rawfile contents "$work/content" '. + [{path: $path, contents: $contents}]' "$files" >"$files.new"
        mv "$files.new" "$files"
    done < <(git status --porcelain -z --no-renames --untracked-files=no -- "$DEFINITIONS")
    if [ "$(jq length "$files")" = 0 ]; then
        say notice "what drifted is a value of a partner key; files hold no such value, so there is nothing to propose"
        return
    fi
    marker="<!-- calry-gitops-drift:$slug $(jq --sort-keys . "$files" | git hash-object --stdin) -->"
    if [ -n "$id" ] && jq --exit-status --arg marker "$marker" '.body | startswith($marker)' "$work/found" >"$work/same"; then return; fi

    head=$(git rev-parse HEAD)
    if [ "$(github GET "$repository/git/ref/heads/$branch")" = 200 ]; then
        jq --null-input --arg sha "$head" '{sha: $sha, force: true}' >"$work/body"
        expect 200 "the branch $branch cannot be reset; the token needs the permission contents: write" \
            PATCH "$repository/git/refs/heads/$branch" "$work/body" || return 1
    else
        jq --null-input --arg ref "refs/heads/$branch" --arg sha "$head" '{ref: $ref, sha: $sha}' >"$work/body"
        expect 201 "the branch $branch cannot be made; the token needs the permission contents: write" \
            POST "$repository/git/refs" "$work/body" || return 1
    fi
    jq --null-input --arg repository "$GITHUB_REPOSITORY" --arg branch "$branch" --arg head "$head" --arg slug "$slug" \
        --slurpfile files "$files" '{
            query: "mutation ($input: CreateCommitOnBranchInput!) { createCommitOnBranch(input: $input) { commit { oid } } }",
            variables: {input: {
                branch: {repositoryNameWithOwner: $repository, branchName: $branch},
                message: {headline: "Adopt the live state of \($slug)"},
                expectedHeadOid: $head,
                fileChanges: {additions: $files[0]}}}}' >"$work/body"
    expect 200 "the commit cannot be made" POST "${GITHUB_API%/v3}/graphql" "$work/body" || return 1
    if ! jq --exit-status .data.createCommitOnBranch.commit.oid "$work/answer" >"$work/same"; then
        say error "the commit cannot be made; GitHub refused it"
        show "$work/answer"
        return 1
    fi
    jq --null-input --arg marker "$marker" --arg slug "$slug" --arg branch "$branch" --arg base "$GITHUB_REF_NAME" \
        --rawfile plan "$plan_markdown" '{
            title: "Calry: adopt the live state of \($slug)",
            head: $branch, base: $base,
            body: ($marker + "\nMerge this to keep what was changed in Calry. To undo it in Calry, apply the definitions; this " +
                "pull request then closes itself.\n\nWhat applying the definitions would change:\n\n" + $plan)}' >"$work/body"
    if [ -n "$id" ]; then
        expect 200 "the pull request cannot be updated" PATCH "$repository/pulls/$id" "$work/body" || return 1
    else
        expect 201 "the pull request cannot be opened; allow it in the repository's settings, under Actions, General" \
            POST "$repository/pulls" "$work/body" || return 1
        pull_request=$(jq .number "$work/answer")
    fi
}

issue='' pull_request='' code=$plan_code
if [ "$plan_code" = 0 ] || [ "$plan_code" = 2 ]; then
    if [ "$KEEP_ISSUE" = true ]; then keep_issue || code=1; fi
    if [ "$OFFER" = true ]; then keep_pull_request || code=1; fi
else
    explain "drift cannot be determined; the log says why"
fi

if ! [ -s "$plan_json" ]; then plan_json=''; fi
if ! [ -s "$plan_markdown" ]; then plan_markdown=''; fi
output drifted "$drifted"
output issue "$issue"
output pull-request "$pull_request"
output plan-json "$plan_json"
output plan-markdown "$plan_markdown"
output digest "$digest"
output exitcode "$plan_code"
if [ "$code" = 2 ] && [ "$FAIL_ON_DRIFT" = false ]; then code=0; fi
exit "$code"
