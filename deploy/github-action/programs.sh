# Sourced first by the other scripts: no program may come from the checkout, which belongs to the pull request. Only bash
# itself runs here.
# shellcheck shell=bash

checkout=$(cd -P -- "${GITHUB_WORKSPACE:-$PWD}" && pwd)

# in_checkout DIRECTORY: whether it is in the checkout, by any path. A directory that cannot be entered is not.
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
