# Sourced first by every script of the actions: no program may come from the checkout, which belongs to the pull request.
# Only bash itself runs before PATH is changed.
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
export -n TOKEN # child processes do not need it

# say LEVEL SENTENCE: an annotation of the job.
say() {
    printf '::%s title=Calry::%s\n' "$1" "$2"
}

# refuse SENTENCE: ends the step, because of how it was called.
refuse() {
    say error "$1"
    exit 64
}

# show FILE: prints a file to the log without letting the runner interpret its lines as commands.
show() {
    local token
    token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '::stop-commands::%s\n' "$token"
    cat "$1"
    printf '\n::%s::\n' "$token"
}

# output NAME VALUE: an output of the step.
output() {
    printf '%s=%s\n' "$1" "$2" >>"${GITHUB_OUTPUT:-/dev/null}"
}

# true_or_false NAME VALUE: refuses any other value of an input.
true_or_false() {
    case $2 in
    true | false) ;;
    *) refuse "$1 is true or false" ;;
    esac
}
