#!/usr/bin/env bash
# Shows what is made for other programs to those programs: SARIF to its authors' validator and to a JSON Schema validator with
# the official schema, completion scripts to the shells, manual pages to mandoc.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), node and python3. What else it needs
# it installs, into a cache or from Debian.
set -euo pipefail

multitool_version=5.7.0
jsonschema_version=0.39.0
root=$(cd "$(dirname "$0")/.." && pwd)
binary=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source=tests/need.sh
. "$root/tests/need.sh"
need zsh fish mandoc jq

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# SARIF

multitool=$(node_tool @microsoft/sarif-multitool-linux "$multitool_version")/../@microsoft/sarif-multitool-linux
chmod +x "$multitool/Sarif.Multitool"
jsonschema=$(python_tool check-jsonschema "$jsonschema_version")/check-jsonschema

# Whether a log holds to the schema and to the rules of SARIF and of GitHub. It writes what is wrong.
is_sarif() {
    "$jsonschema" --quiet --schemafile "$multitool/sarif-2.1.0.json" "$1" || return 1
    DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 "$multitool/Sarif.Multitool" validate "$1" --rule-kind 'Sarif;Ghas' \
        --output "$1.report" --log ForceOverwrite >"$1.said" || { cat "$1.said"; return 1; }
    # One rule wants an address of the tool; there is none.
    jq --exit-status '.runs | length == 1 and all(.[].results[] | select(.ruleId != "SARIF2005"); error(tostring))' \
        "$1.report" >/dev/null
}

# validate LOG EXIT-CODE ARGUMENTS…
validate() {
    local code=0 log=$work/$1.sarif wanted=$2
    shift 2
    (cd "$work" && "$binary" validate --format sarif "$@" >"$log" 2>/dev/null) || code=$?
    [ "$code" = "$wanted" ] || fail "validate $*: exit code $code, not $wanted"
    is_sarif "$log" || fail "validate $*: this is not what SARIF is:" "$(cat "$log")"
}

validate good 0 --definitions "$root/definitions"
hostile="we ird #ü?%41:"$'\e'"[2J
second"
mkdir -p "$work/$hostile"
bad() {
    printf '%b' "$2" >"$work/$hostile/$1"
}
bad 'a,b::c "d".yaml' 'provider: GUESTY\nfieldsToSync:\n  listing: name\nicn: ü\n'
bad $'e\nf.yaml' 'provider: [\n'
bad boom.yaml ''
bad hostaway.yaml 'provider: HOSTAWAY\nfieldsToSync:\n  listing: ["[x](https://evil.example)", "[x](https://evil.example)", "\\u202e{0}"]\n'
ln -s /etc/passwd "$work/$hostile/lodgify.yaml"
mkdir "$work/$hostile/tokeet.yaml"
validate bad 3 --definitions "$hostile" --strict
jq --exit-status '[.runs[0].results[] | .locations[0].physicalLocation.artifactLocation.uri]
    | unique | length == 6 and all(test("^we%20ird%20%23%C3%BC%3F%2541%3A%1B%5B2J%0Asecond/[A-Za-z0-9.%_]+$"))' \
    "$work/bad.sarif" >/dev/null || fail "not every file is pointed at" "$(cat "$work/bad.sarif")"
validate nowhere 1 --definitions nowhere
validate unknown 3 --definitions "$root/definitions" --only NOBODY
# The checks themselves find errors.
for fault in 's/"ruleIndex": /"ruleIndex": 9/' 's/"unicodeCodePoints"/"letters"/' 's/"startLine": /"startLine": -/'; do
    sed "$fault" "$work/bad.sarif" >"$work/fault.sarif"
    if is_sarif "$work/fault.sarif" >/dev/null 2>&1; then fail "a log with this fault passes: $fault"; fi
done
echo "SARIF is what it should be"

# Completion

for shell in bash zsh fish; do "$binary" completions "$shell" >"$work/completions.$shell"; done
mkdir "$work/bin"
ln -s "$binary" "$work/bin/calry-gitops"
export PATH=$work/bin:$PATH

# zsh completes on a terminal only, when it edits a line: what is typed earlier may be lost. It is asked to list, not to choose.
mkdir "$work/zsh"
ln -s "$work/completions.zsh" "$work/zsh/_calry-gitops"
cat >"$work/ask.zsh" <<'END'
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT=; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; LISTMAX=9999"
zpty -w shell "bindkey '^I' list-choices; zle-line-init() { echo rea''dy }; zle -N zle-line-init"
zpty -r shell out "*ready*"
zpty -w -n shell "$2"$'\t'
zpty -r shell out "*$3*"
print -r -- "$out"
END

# ask SHELL LINE ANSWER: the shell's completion of a line; of zsh, up to the answer, if there is one.
ask() {
    case $1 in
    bash)
        # shellcheck disable=SC2016
        bash --norc -c '
            . "$0"
            COMP_LINE=$1 COMP_POINT=${#1}
            read -ra COMP_WORDS <<<"$1"
            case $1 in *" ") COMP_WORDS+=("") ;; esac
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            function_=$(complete -p calry-gitops | grep -oE -- "-F [^ ]+")
            "${function_#-F }" calry-gitops "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf "%s\n" "${COMPREPLY[@]}"
        ' "$work/completions.bash" "$2"
        ;;
    fish)
        # shellcheck disable=SC2016
        fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$work/completions.fish" "$2" | cut -f 1
        ;;
    zsh) timeout 20 zsh -f "$work/ask.zsh" "$work/zsh" "$2" "$3" | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g' | tr -s ' \r' '\n' ;;
    esac
}

# What only this machine knows: branches, also those that a shell could run, and files of providers that no build knows.
mkdir "$work/checkout"
git -C "$work/checkout" init --quiet --initial-branch main
git -C "$work/checkout" -c user.name=a -c user.email=a@example.com commit --quiet --allow-empty -m a
git -C "$work/checkout" branch feature/icons
git -C "$work/checkout" update-ref refs/remotes/origin/main HEAD
# shellcheck disable=SC2016
git -C "$work/checkout" branch 'x$(touch${IFS}ran)'
mkdir "$work/checkout/definitions"
printf 'provider: SMOOBU\nicon: https://example.com/a.png\n' >"$work/checkout/definitions/smoobu.yaml"
cd "$work/checkout"

for shell in bash fish zsh; do
    for question in 'plan --base f:feature/icons' 'plan --base or:origin/main' 'plan --only SM:SMOOBU' 'apply --only LOD:LODGIFY' \
        'validate --only SM:SMOOBU' 'va:validate' 'plan --fo:--format' 'plan --format m:markdown' 'validate --format s:sarif'; do
        answer=$(ask "$shell" "calry-gitops ${question%%:*}" "${question#*:}") || true
        grep -qxF -- "${question#*:}" <<<"$answer" || fail "$shell completes '${question%%:*}' to:" "$answer"
    done
    echo "$shell completes"
done
[ ! -e ran ] || fail "the name of a branch was run"

# The manual

"$binary" man --dir "$work/man"
for page in "$work"/man/*.1; do mandoc -T lint -W warning "$page"; done
mandoc -T utf8 "$work/man/calry-gitops.1" | sed "s/.\x08//g" >"$work/page"
for part in EXAMPLES 'EXIT STATUS' CALRY_API_KEY 'definitions/workspace.yaml'; do
    grep -q -- "$part" "$work/page" || fail "the manual does not speak of $part"
done
echo "the manual is one"
