#!/usr/bin/env bash
# Which commits and tags are applied, with commits by git and keys by ssh-keygen and gpg: signed, unsigned, wrongly signed,
# expired, revoked and forged ones. Compares each result with that of git.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), git, ssh-keygen, gpg, python3 and curl.
# Missing tools are installed from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
calry=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
# shellcheck source=tests/need.sh
. tests/need.sh
need git curl gpg:gnupg python3
command -v ssh-keygen >/dev/null || need openssh-client
here=$PWD
work=$(mktemp -d)
daemon=
server=
finish() {
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; fi
    if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
    GNUPGHOME=$work/owner gpgconf --kill gpg-agent 2>/dev/null || true
    GNUPGHOME=$work/verifier gpgconf --kill gpg-agent 2>/dev/null || true
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

allowed=(--allowed-signers "$work/signers")
# judge OURS MESSAGE [GITS]: checks the results of calry-gitops and git for the checked-out commit (trusted or refused).
judge() {
    local theirs=refused ours=refused
    if git verify-commit HEAD >"$work/git" 2>&1; then theirs=trusted; fi
    if "$calry" plan --sandbox "${allowed[@]}" >"$work/output" 2>&1; then ours=trusted; fi
    compare "$@"
}
# compare OURS MESSAGE [GITS]
compare() {
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

# OpenPGP. The owner has the private keys, git asks the verifier.
mkdir -m 700 "$work/owner" "$work/verifier"
export GNUPGHOME=$work/owner
git config --global gpg.format openpgp
git config --global gpg.openpgp.program "$work/gpg"
cat >"$work/gpg" <<'END'
#!/usr/bin/env bash
# shellcheck disable=SC2086
exec gpg --quiet ${GPG_OPTIONS-} "$@"
END
chmod +x "$work/gpg"
# owner TIME ARGUMENTS…: gpg at another time, without a passphrase. Only its warning about that is left out.
owner() {
    gpg --batch --quiet --yes --no-tty --no-auto-check-trustdb --pinentry-mode loopback --passphrase '' --faked-system-time "$1!" \
        "${@:2}" 2> >(grep -v -e 'faked system time' -e trustdb -e marginals -e depth: >&2)
}
fingerprint() { gpg --with-colons --list-keys "$1@example.com" | awk -F: '/^fpr/ {print $10; exit}'; }
created=20250101T000000 signed=20250601T000000
pgp=(rsa ed25519 p256 p384 subkey expired superseded compromised stranger)
algorithm() {
    case $1 in
        rsa) echo rsa3072 ;;
        p256) echo nistp256 ;;
        p384) echo nistp384 ;;
        *) echo ed25519 ;;
    esac
}
for name in "${pgp[@]}"; do
    usage=sign
    if [ "$name" = subkey ]; then usage=cert; fi
    owner $created --quick-generate-key "$name <$name@example.com>" "$(algorithm "$name")" "$usage" never
done
owner $created --quick-add-key "$(fingerprint subkey)" ed25519 sign never

# signed CASE KEY TIME [OPTION…]: a signed commit with a signed tag of the case's name.
signed() {
    number=$((number + 1))
    sed -i "s|^icon: .*|icon: https://cdn.example.com/$number.png|" definitions/guesty.yaml
    GPG_OPTIONS="--faked-system-time $3! ${*:4}" git -c "user.signingKey=$2@example.com" commit --quiet --all --gpg-sign --message "$1" 2>"$work/gpg.log"
    GPG_OPTIONS="--faked-system-time $3! ${*:4}" git -c "user.signingKey=$2@example.com" tag --sign --message "$1" "$1" 2>"$work/gpg.log"
}
for name in "${pgp[@]}"; do signed "$name" "$name" $signed; done
signed early expired 20250201T000000
signed superseded-late superseded 20251001T000000
signed sha1 rsa $signed --digest-algo SHA1
# The owner expires and revokes keys after their last signature.
owner 20250202T000000 --quick-set-expire "$(fingerprint expired)" 20250301T000000
for one in compromised:1 superseded:2; do
    # The answers: yes, the reason, no sentence, yes.
    printf 'y\n%s\n\ny\n' "${one#*:}" | gpg --quiet --yes --no-tty --command-fd 0 --pinentry-mode loopback --passphrase '' \
        --faked-system-time 20250901T000000! --output "$work/revocation" --gen-revoke "$(fingerprint "${one%%:*}")" >"$work/gpg.log" 2>&1
    owner 20250901T000000 --import "$work/revocation"
done
for name in "${pgp[@]}"; do
    if [ "$name" != stranger ]; then gpg --armor --export "$name@example.com"; fi
done >"$work/allowed_keys.asc"
export GNUPGHOME=$work/verifier
gpg --batch --quiet --import "$work/allowed_keys.asc"

# both CASE OURS MESSAGE [GITS]: the commit of a case, and its tag as the daemon fetches it.
both() {
    git reset --quiet --hard "$1^{commit}"
    allowed=(--allowed-signers "$work/signers" --allowed-keys "$work/allowed_keys.asc")
    judge "${@:2}"
    judge_tag "$@"
}
# judge_tag TAG OURS MESSAGE [GITS]
judge_tag() {
    local theirs=refused ours=refused
    if git verify-tag "$1" >"$work/git" 2>&1; then theirs=trusted; fi
    git push --quiet --force served --all
    git push --quiet --force --prune served 'refs/tags/*:refs/tags/*'
    if "$calry" run --once --sandbox --git-url "$url" --git-ref "$1" --verify tag "${allowed[@]}" >"$work/output" 2>&1; then ours=trusted; fi
    compare "${@:2}"
}
mkdir "$work/served"
git init --quiet --bare "$work/served/definitions.git"
git remote add served "$work/served/definitions.git"
python3 -B "$here/tests/git-sync/serve.py" "$work/served" 0 >"$work/port" &
server=$!
expect "$work/port" '[0-9]'
url=http://127.0.0.1:$(cat "$work/port")/definitions.git

for name in rsa ed25519 p256 p384 subkey; do both "$name" trusted GUESTY; done
both stranger refused 'is signed by a key that is not among the allowed keys'
both expired refused 'was expired at the time of the signature'
both compromised refused 'is revoked'
both superseded-late refused 'was revoked at the time of the signature'
both sha1 refused 'SHA-1, which is broken' trusted
# For git, such a key never signed anything.
both early trusted GUESTY refused
both superseded trusted GUESTY refused

git reset --quiet --hard 'ed25519^{commit}'
good=$(git rev-parse HEAD)
forged sed 's/^ed25519$/another message/'
judge refused 'has a forged signature'
forged sed "s/^tree .*/tree $(git rev-parse 'rsa^{tree}')/"
judge refused 'has a forged signature'
git reset --quiet --hard "$good"
allowed=(--allowed-signers "$work/signers")
judge refused 'no OpenPGP key is allowed (--allowed-keys)' trusted
allowed=(--allowed-keys "$work/allowed_keys.asc")
judge trusted GUESTY

# Tags: not signed, signed with an SSH key, for an unsigned commit, changed, renamed, of a tag, and a branch.
number=$((number + 1))
sed -i "s|^icon: .*|icon: https://cdn.example.com/$number.png|" definitions/guesty.yaml
git commit --quiet --all --no-gpg-sign --message unsigned
git tag light
git tag --no-sign --message words annotated
export GNUPGHOME=$work/owner
for name in good moved; do
    git -c user.signingKey=ed25519@example.com tag --sign --message "$name" "$name"
done
git -c advice.nestedTag=false -c user.signingKey=ed25519@example.com tag --sign --message nested nested moved
git -c gpg.format=ssh -c "user.signingKey=$work/ed25519.pub" tag --sign --message ssh ssh
export GNUPGHOME=$work/verifier
allowed=(--allowed-signers "$work/signers" --allowed-keys "$work/allowed_keys.asc")
judge refused 'the commit is not signed'
judge_tag good trusted GUESTY
judge_tag ssh trusted GUESTY
judge_tag light refused 'the tag is not an annotated one'
judge_tag annotated refused 'the tag is not signed'
git update-ref refs/tags/renamed refs/tags/moved
judge_tag renamed refused 'the tag was signed under another name (moved)' trusted
git update-ref refs/tags/moved "$(git cat-file tag moved | sed "s/^object .*/object $good/" | git hash-object -t tag -w --stdin --literally)"
judge_tag moved refused 'the tag has a forged signature'
judge_tag nested refused 'is not a commit' trusted
judge_tag main refused 'refs/tags/main'
kill "$server"
wait "$server" || true
server=
echo "only signed commits and tags are applied"
