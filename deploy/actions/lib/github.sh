# Sourced by the scripts that write to GitHub, after calry.sh: requests to its API. The token is never an argument, because
# other users can see those, and child processes do not get it.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # work is set by calry.sh; id and repository are for the script that sources this

repository=$GITHUB_API/repos/$GITHUB_REPOSITORY

# github METHOD URL [FILE]: sends a request, stores the answer in a file and prints its status.
github() {
    local ask=(--silent --show-error --max-time 30 --request "$1" --output "$work/answer" --write-out '%{http_code}'
        --header 'accept: application/vnd.github+json' --header 'x-github-api-version: 2022-11-28')
    if [ "$1" = GET ]; then ask+=(--retry 2); fi
    if [ -n "${3:-}" ]; then ask+=(--header 'content-type: application/json' --data-binary "@$3"); fi
    curl "${ask[@]}" --config <(printf 'header = "authorization: Bearer %s"\n' "$TOKEN") "$2" 2>"$work/trouble" || true
}

# Prints the login of the token's owner. Apps cannot read /user, and their names come with or without the suffix [bot]; a
# person's name has no brackets.
me() {
    if [ "$(github GET "$GITHUB_API/user")" = 200 ]; then
        jq --exit-status --raw-output '.login // empty' "$work/answer"
        return
    fi
    echo '{"query": "{ viewer { login } }"}' >"$work/query"
    [ "$(github POST "${GITHUB_API%/v3}/graphql" "$work/query")" = 200 ] &&
        jq --exit-status --raw-output '.data.viewer.login // empty | rtrimstr("[bot]") + "[bot]"' "$work/answer"
}

# find_own URL MARKER: finds what the token's owner wrote and begins with the marker; leaves its number in $id, which is
# empty if there is none, and all of it in a file. Anyone can write the marker, so texts of others are left alone.
find_own() {
    local login page separator='?'
    id=''
    if [[ $1 == *\?* ]]; then separator='&'; fi
    login=$(me) || return 1
    for page in {1..100}; do
        [ "$(github GET "$1${separator}per_page=100&page=$page")" = 200 ] || return 1
        jq --arg login "$login" --arg marker "$2" \
            'map(select(.user.login == $login and (.body // "" | startswith($marker)))) | first // empty' \
            "$work/answer" >"$work/found"
        if [ -s "$work/found" ]; then
            id=$(jq '.number // .id' "$work/found")
            return
        fi
        if [ "$(jq length "$work/answer")" -lt 100 ]; then return; fi
    done
}

# same_text FILE: whether what was found has the body of a request, but for the run that it links to. GitHub changes line ends.
same_text() {
    jq --exit-status --slurpfile body "$1" \
        'def text: gsub("\\r"; "") | gsub("/actions/runs/[0-9]+"; "") | sub("\\s+$"; ""); (.body | text) == ($body[0].body | text)' "$work/found" >"$work/same"
}
