#!/usr/bin/env bash
# Which commits are applied, with commits by git and keys by ssh-keygen: signed, unsigned, wrongly signed, expired and forged
# commits. Compares each result with that of git.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), git, ssh-keygen and curl. Missing tools
# are installed from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
calry=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
# shellcheck source=tests/need.sh
. tests/need.sh
need git curl
command -v ssh-keygen >/dev/null || need openssh-client
work=$(mktemp -d)
daemon=
finish() {
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

# The configuration of the machine is not used.
export HOME=$work GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=$work/gitconfig
git config --global user.name Ada
git config --global user.email ada@example.com
git config --global init.defaultBranch main
git config --global gpg.format ssh
git config --global gpg.ssh.allowedSignersFile "$work/signers"

key() { ssh-keygen -q -N '' -C '' -f "$work/$1" "${@:2}"; }
key ed25519 -t ed25519
key ecdsa256 -t ecdsa -b 256
key ecdsa384 -t ecdsa -b 384
key rsa -t rsa -b 3072
key stranger -t ed25519
key old -t ed25519
key files -t ed25519
{
    echo '# allowed signers'
    for name in ed25519 ecdsa256 ecdsa384 rsa; do echo "ada@example.com $(cat "$work/$name.pub")"; done
    echo "*@example.com namespaces=\"git\",valid-after=\"20200101Z\",valid-before=\"20210101Z\" $(cat "$work/old.pub")"
    echo "ada@example.com namespaces=\"file\" $(cat "$work/files.pub")"
} >"$work/signers"

cp -r definitions "$work/definitions"
mkdir "$work/repo"
mv "$work/definitions" "$work/repo/definitions"
cd "$work/repo"
git init --quiet
git add --all

number=0
# commit KEY: creates a commit signed by KEY, or an unsigned one if KEY is `none`.
commit() {
    number=$((number + 1))
    echo "icon: https://cdn.example.com/$number.png" >definitions/icon
    sed -i '/^icon:/d' definitions/guesty.yaml
    cat definitions/icon >>definitions/guesty.yaml
    rm definitions/icon
    if [ "$1" = none ]; then
        git commit --quiet --all --no-gpg-sign --message "$number"
    else
        git -c "user.signingKey=$work/$1.pub" commit --quiet --all --gpg-sign --message "$number"
    fi
}

# judge OURS MESSAGE [GITS]: checks the results of calry-gitops and git for the checked-out commit (trusted or refused).
judge() {
    local theirs=refused ours=refused
    if git verify-commit HEAD >"$work/git" 2>&1; then theirs=trusted; fi
    if "$calry" plan --sandbox --allowed-signers "$work/signers" >"$work/output" 2>&1; then ours=trusted; fi
    if [ "$ours" != "$1" ] || [ "$theirs" != "${3:-$1}" ] || ! grep -qF -- "$2" "$work/output"; then
        printf 'not as expected (%s, %s): %s, by git: %s\n' "$1" "$2" "$ours" "$theirs" >&2
        cat "$work/output" "$work/git" >&2
        exit 1
    fi
    printf 'seen: %s: %s\n' "$1" "$2"
}

for name in ed25519 ecdsa256 ecdsa384 rsa; do
    commit "$name"
    judge trusted GUESTY
done

commit none
judge refused 'the commit is not signed'
commit stranger
judge refused 'is not among the allowed signers'
commit old
judge refused 'was not valid at the time of the signature'
GIT_COMMITTER_DATE='2020-06-01T00:00:00Z' commit old
judge trusted GUESTY
commit files
judge refused 'has a signature that was not made for git'

# A changed message, the tree of another commit, and two signatures.
commit ed25519
good=$(git rev-parse HEAD)
forged() {
    git reset --quiet --hard "$(git cat-file commit "$good" | "$@" | git hash-object -t commit -w --stdin --literally)"
}
forged sed "s/^$number\$/another message/"
judge refused 'has a forged signature'
forged sed "s/^tree .*/tree $(git rev-parse "HEAD~1^{tree}")/"
judge refused 'has a forged signature'
forged sed '/^gpgsig /,/-----END/{p}' # every line twice
judge refused 'has a signature that cannot be read'
# A signature of this commit by an allowed key, but for another namespace than git.
git cat-file commit "$good" | sed '/^gpgsig /,/-----END/d' >"$work/payload"
ssh-keygen -q -Y sign -f "$work/ed25519" -n file "$work/payload" 2>/dev/null
sed -e '1s/^/gpgsig /' -e '2,$s/^/ /' "$work/payload.sig" >"$work/header"
forged sed -e '/^gpgsig /,/-----END/d' -e "/^committer /r $work/header"
judge refused 'has a signature that was not made for git'
# If an unsigned branch is merged, the signature of the merge counts.
git reset --quiet --hard "$good"
git checkout --quiet -b side
echo 'text' >README.md
git add README.md
git commit --quiet --no-gpg-sign --message side
git checkout --quiet main
git -c "user.signingKey=$work/rsa.pub" merge --quiet --no-ff --gpg-sign --message merge side
judge trusted GUESTY
# An uncommitted change is not applied.
echo '# not committed' >>definitions/guesty.yaml
judge refused 'the difference is not signed' trusted
git checkout --quiet definitions

# The daemon applies a signed commit. It refuses an unsigned one and keeps the signed one in force.
"$calry" run --sandbox --listen off --interval 1s --allowed-signers "$work/signers" >"$work/log" 2>&1 &
daemon=$!
expect "$work/log" 'reconciliation 1 (start).*updated'
commit none
expect "$work/log" "the checked-out commit ($(git rev-parse HEAD | cut -c1-10)) is refused: the commit is not signed; revision"
sed -n '/^ *curl /,/[^\\]$/p' "$work/log" | bash >/dev/null 2>&1
[ "$(grep -c 'GUESTY updated: icon' "$work/log")" = 1 ]
expect "$work/log" 'drifted; drift undone'
commit ed25519
expect "$work/log" 'the checked-out commit is trusted again'
[ "$(grep -c 'GUESTY updated: icon' "$work/log")" = 2 ]
kill -TERM "$daemon"
wait "$daemon"
daemon=
echo "only signed commits are applied"
