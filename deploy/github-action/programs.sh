# Sourced by the scripts beside it, before anything else: no program comes from the checkout, which is the pull request's.
# Only bash itself runs here.
# shellcheck shell=bash

checkout=$(cd -P -- "${GITHUB_WORKSPACE:-$PWD}" && pwd)

# in_checkout DIRECTORY: whether it is in the checkout, under any name. A directory that cannot be entered is not.
in_checkout() {
    local real
    real=$(cd -P -- "$1" 2>/dev/null && pwd) && [[ $real/ == "$checkout"/* ]]
}

safe_path() {
    local entry entries safe=()
    IFS=: read -r -a entries <<<"$PATH"
    for entry in "${entries[@]}"; do
        if [[ $entry == /* ]] && ! in_checkout "$entry"; then safe+=("$entry"); fi
    done
    local IFS=:
    printf %s "${safe[*]}"
}
PATH=$(safe_path)
export PATH
