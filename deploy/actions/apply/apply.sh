#!/bin/bash -p
# Applies the definitions of the checkout. action.yml describes each variable. It needs bash, curl and jq.
set -euo pipefail
# shellcheck source=deploy/actions/lib/programs.sh
. "${BASH_SOURCE[0]%/*}/../lib/programs.sh"
true_or_false strict "$STRICT"
# shellcheck source=deploy/actions/lib/calry.sh
. "${BASH_SOURCE[0]%/*}/../lib/calry.sh"
# shellcheck source=deploy/actions/lib/github.sh
. "${BASH_SOURCE[0]%/*}/../lib/github.sh"
if [ -z "$CALRY_API_KEY" ]; then refuse "api-key is empty; set the secret that the workflow names"; fi

code=0 applied='' failed='' digest='' report_json=$results/report.json report_markdown=$results/report.md

# A run that waited, or that is run again, must not put an older commit in place of a newer one.
newer=''
if [[ ${GITHUB_REF:-} == refs/heads/* ]]; then
    if [ "$(github GET "$repository/git/ref/${GITHUB_REF#refs/}")" = 200 ]; then
        newer=$(jq --raw-output '.object.sha // empty' "$work/answer")
        if [ "$newer" = "$GITHUB_SHA" ]; then newer=''; fi
    else
        say error "the newest commit of ${GITHUB_REF#refs/heads/} cannot be read; the token needs the permission contents: read. Nothing was changed"
        output exitcode 1
        exit 1
    fi
fi

if [ -n "$newer" ]; then
    say notice "a newer commit is on ${GITHUB_REF#refs/heads/}, and its run applies it; nothing was changed here"
    printf '### Calry: nothing was changed, as a newer commit is on the branch\n' >"$work/summary.md"
else
    apply=(apply "${options[@]}" --yes --also "json=$report_json" --also "markdown=$report_markdown" --repository-url "$repository_url")
    if [ -n "$SECRETS_DIR" ]; then apply+=(--secrets-dir "$SECRETS_DIR"); fi
    if [ -n "$POLICIES" ]; then apply+=(--policies "$POLICIES"); fi
    if [ -n "$MAX_CHANGES" ]; then apply+=(--max-changes "$MAX_CHANGES"); fi
    if [ -n "$APPROVE" ]; then apply+=(--approve "$APPROVE"); fi
    calry "${apply[@]}"
    if [ -s "$work/result" ]; then
        echo '::group::The plan and its result'
        show "$work/result"
        echo '::endgroup::'
    fi
    if [ -s "$report_json" ] && jq --exit-status .definitions "$report_json" >"$work/found"; then
        outcomes() {
            jq "[.definitions[] | select(.outcome | IN($1))] | length" "$report_json"
        }
        applied=$(outcomes '"applied"')
        failed=$(outcomes '"failed", "notConverged"')
        digest=$(jq --raw-output '.digest // ""' "$report_json")
    fi
    if [ "${failed:-0}" != 0 ]; then
        say error "$failed of $((applied + failed)) updates failed; the log and the summary of this job say why"
    elif [ "$code" != 0 ]; then
        explain "the definitions were not applied; the log and the summary of this job say why"
    fi
    cat "$report_markdown" >"$work/summary.md" 2>/dev/null || true
    # A refused plan can be approved by its digest.
    if [ "$code" = 1 ] && [ "$applied$failed" = 00 ] && [ -n "$digest" ]; then
        printf '\nReview this plan. To apply exactly this one, run the workflow with its digest:\n\n    %s\n' "$digest" >>"$work/summary.md"
    fi
fi
cat "$work/summary.md" >>"${GITHUB_STEP_SUMMARY:-/dev/null}"

if ! [ -s "$report_json" ]; then report_json=''; fi
if ! [ -s "$report_markdown" ]; then report_markdown=''; fi
output applied "$applied"
output failed "$failed"
output digest "$digest"
output report-json "$report_json"
output report-markdown "$report_markdown"
output exitcode "$code"
exit "$code"
