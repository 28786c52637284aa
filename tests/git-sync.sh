#!/usr/bin/env bash
# git-sync beside the daemon, as deploy/kubernetes/overlays/git-sync puts them: a repository that is served over HTTP, pushes
# to it, and their result in the sandbox. git-sync and the daemon are different users if root runs this, as in a
# Pod. The daemon's interval is 10 minutes, so that it reacts to the change of git-sync's link.
#
# GIT_SYNC names a git-sync of the version of the manifest. It cannot be installed from a package registry, so without
# GIT_SYNC a stand-in does the same (tests/git-sync/stand-in.sh), and the output says so: that shows what the daemon does with
# such a checkout, and nothing of git-sync itself.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names) and python3. What else it needs it
# installs from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
calry=${CALRY_GITOPS:-$here/target/debug/calry-gitops}
base=deploy/kubernetes/base/deployment.yaml
manifest=deploy/kubernetes/overlays/git-sync/git-sync.yaml
# shellcheck source=tests/need.sh
. tests/need.sh
need git curl jq
command -v ssh-keygen >/dev/null || need openssh-client
command -v setpriv >/dev/null || need util-linux
work=$(mktemp -d)
declare -A running=()
finish() {
    local pid
    for pid in "${running[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
    wait 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT

fail() {
    printf '%s\n' "$@" >&2
    for log in "$work"/*.log; do printf -- '--- %s\n%s\n' "${log##*/}" "$(tail -n 40 "$log")"; done >&2
    exit 1
}
seen() { printf 'seen: %s\n' "$*"; }

# until_ WHAT COMMAND…: waits until a command succeeds.
until_() {
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "not seen: $what"
        sleep 0.05
    done
}

# start NAME COMMAND…: in the background, in a group of its own, with a log of its name.
start() {
    local name=$1
    shift
    : >"$work/$name.log"
    setsid "$@" >>"$work/$name.log" 2>&1 &
    running[$name]=$!
}
# stop SIGNAL NAME: all of its group, as when a container ends.
stop() {
    kill "-$1" -- "-${running[$2]}"
    wait "${running[$2]}" 2>/dev/null || true
    unset "running[$2]"
}

# What the manifest says of git-sync, and who they are

version=$(sed -n 's|.*image: .*/git-sync:||p' "$manifest")
mapfile -t settings < <(sed -n '/name: GITSYNC_/{s/.*name: //;N;s/\n *value: */=/;s/"//g;p}' "$manifest")
# The repository here is served over HTTP.
mapfile -t settings < <(printf '%s\n' "${settings[@]}" | grep -v '^GITSYNC_SSH_')
root=$(printf '%s\n' "${settings[@]}" | sed -n 's/^GITSYNC_ROOT=//p')
definitions=$(sed -n '/name: CALRY_DEFINITIONS$/{n;s/.*value: *//p}' "$manifest")
case $definitions in
"${root:?}"/*) ;;
*) fail "the daemon does not read below $root" ;;
esac
definitions=$work/git${definitions#"$root"}
period=1

chmod 755 "$work"
mkdir "$work/bin"
: >"$work/daemon.log"
if [ -n "${GIT_SYNC:-}" ]; then
    [ "$("$GIT_SYNC" --version)" = "$version" ] ||
        fail "the manifest has git-sync $version, and not $("$GIT_SYNC" --version)"
    "$GIT_SYNC" --man >"$work/manual"
    for name in "${settings[@]%%=*}"; do
        grep -qw -- "$name" "$work/manual" || fail "git-sync does not know $name"
    done
    seen "git-sync $version, which knows ${settings[*]%%=*}"
    cp "$GIT_SYNC" "$work/bin/git-sync"
    by="git-sync $version"
else
    cp tests/git-sync/stand-in.sh "$work/bin/git-sync"
    by="a stand-in for git-sync $version"
    echo "$by (GIT_SYNC is not set), with ${settings[*]%%=*}"
fi
cp "$calry" "$work/bin/calry-gitops"
calry=$work/bin/calry-gitops
mkdir -m 1777 "$work/tmp"
as_git_sync=() as_daemon=()
if [ "$(id -u)" = 0 ]; then
    # user CONTAINER FILE: its runAsUser. The group of both is fsGroup.
    user() { sed -n "/- name: $1\$/,/runAsUser/s/.*runAsUser: //p" "$2" | head -n 1; }
    group=$(sed -n 's/.*fsGroup: //p' "$base")
    limits=(--groups "$group" --no-new-privs --bounding-set=-all)
    as_git_sync=(setpriv --reuid "$(user git-sync "$manifest")" --regid "$(user git-sync "$manifest")" "${limits[@]}")
    as_daemon=(setpriv --reuid "$(user calry-gitops "$base")" --regid "$(user calry-gitops "$base")" "${limits[@]}")
fi

# Nothing of the machine's own configuration counts.
export HOME=$work GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=$work/gitconfig
git config --global user.name Ada
git config --global user.email ada@example.com
git config --global init.defaultBranch main
git config --global gpg.format ssh

# volume: an empty one, as Kubernetes makes them for a Pod with fsGroup.
volume() {
    rm -rf "$work/git"
    mkdir "$work/git"
    if [ "$(id -u)" = 0 ]; then chgrp "$group" "$work/git"; fi
    chmod 2777 "$work/git"
}
# server PORT
server() {
    start server python3 -B "$here/tests/git-sync/serve.py" "$work/served" "$1"
    until_ "the git server listens" test -s "$work/server.log"
}
# git_sync [NAME=VALUE…]: with the environment of the manifest, except for paths and periods. What is stale goes soon, so that the
# repository is tidied up while it is read.
git_sync() {
    start git-sync "${as_git_sync[@]}" env -i PATH="$PATH" HOME="$work/tmp" TMPDIR="$work/tmp" "${settings[@]}" \
        GITSYNC_REPO="$repository" GITSYNC_ROOT="$work/git" GITSYNC_PERIOD=${period}s \
        GITSYNC_STALE_WORKTREE_TIMEOUT=5s "$@" "$work/bin/git-sync"
}
# daemon [ARGUMENT…]
daemon() {
    start daemon "${as_daemon[@]}" env -i "$calry" run --definitions "$definitions" --api-url "$calry_url" \
        --api-key-file "$work/key" --listen 127.0.0.1:0 --admin-rate 100000 --interval 10m "$@"
    until_ "the daemon listens" grep -q 'listening on http' "$work/daemon.log"
    admin=$(grep 'listening on http' "$work/daemon.log" | grep -oE 'http://127\.0\.0\.1:[0-9]+')
    from=1
}

# expect PATTERN: waits for a line of the daemon that was not looked at before.
from=1
line() { tail -n "+$from" "$work/daemon.log" | grep -nEm1 -- "$1" >"$work/line"; }
expect() {
    until_ "$1" line "$1"
    seen "$(cut -d : -f 2- "$work/line")"
}
# from_here: what was said before this does not count.
from_here() { from=$(($(wc -l <"$work/daemon.log") + 1)); }
never() { if line "$1"; then fail "said: $(cat "$work/line")"; fi; }

live() { curl -sS -H "x-calry-api-key: $key" "$calry_url/api/v1/integration-definition/$1"; }
icon() { [ "$(live "$1" | jq -r .icon)" = "https://cdn.example.com/$2.png" ]; }
# holds PROVIDER ICON…: what must be in the sandbox now.
holds() {
    while [ $# -gt 0 ]; do
        icon "$1" "$2" || fail "$1 is not as it should be ($2): $(live "$1")"
        shift 2
    done
}
click() {
    curl -sS -o /dev/null --fail -X PATCH -H "x-calry-api-key: $key" -H 'content-type: application/json' \
        -d '{"icon": "https://cdn.example.com/clicked.png"}' "$calry_url/api/v1/integration-definition/$1"
}
# Its exit code is also about what is wrong with definitions.
status() { jq -e "$@" >/dev/null < <("$calry" status --address "$admin" --format json 2>/dev/null); }

# in_force [SUBJECT]: the revision everywhere is the commit that is checked out in the clone.
in_force() {
    local commit
    commit=$(git rev-parse "${1:-HEAD}")
    # shellcheck disable=SC2016 # these are of jq
    reported() {
        status --arg commit "$1" --arg subject "$(git log -1 --format=%s "$1")" \
            '.. | objects | select(has("revision")) | .revision | objects
            | .commit == $commit and .subject == $subject and .author == "Ada" and .dirty == false' || return 1
        curl -sS "$admin/metrics" | grep "^calry_gitops_revision_info{.*revision=\"$1\",dirty=\"false\"} 1" >/dev/null
    }
    until_ "status and metrics report $commit" reported "$commit"
    expect "reconciliation [0-9]+ \([a-z]+\) at ${commit:0:10} took"
    seen "status and metrics: ${commit:0:10}, \"$(git log -1 --format=%s "$commit")\" by Ada"
}

# write PROVIDER ICON, commit MESSAGE [OPTION…], push [OPTION…]
write() {
    printf 'provider: %s\nicon: https://cdn.example.com/%s.png\n' "${1^^}" "$2" >"definitions/$1.yaml"
}
commit() {
    git add --all
    git commit --quiet --message "$1" "${@:2}"
}
push() {
    git push --quiet "$@"
    pushed=$(date +%s%3N)
    from_here
}

mkdir "$work/served"
git init --quiet --bare "$work/served/definitions.git"
git -C "$work/served/definitions.git" config http.receivepack true
server 0
port=$(cat "$work/server.log")
repository=http://127.0.0.1:$port/definitions.git
start sandbox "$calry" sandbox --listen 127.0.0.1:0
until_ "the sandbox listens" grep -q 'zepl\.sandbox-write\.' "$work/sandbox.log"
calry_url=$(grep -oEm1 'http://127\.0\.0\.1:[0-9]+' "$work/sandbox.log" | head -n 1)
key=$(grep -oE 'zepl\.sandbox-write\.[^ '"'"']+' "$work/sandbox.log" | head -n 1)
echo "$key" >"$work/key"
chmod 644 "$work/key"

git clone --quiet "$repository" "$work/clone" 2>/dev/null
cd "$work/clone"
git checkout --quiet -b main
mkdir definitions
echo 'What is not a definition.' >README.md
for provider in guesty hostaway lodgify; do write "$provider" first; done
commit first
push --set-upstream origin main

echo "-- the first checkout"
volume
daemon
expect 'reconciliation 1 \(start\) failed .*cannot be read'
git_sync
until_ "the first commit is applied" icon LODGIFY first
in_force
if [ "$(id -u)" = 0 ]; then
    owner=$(stat -c %u "$definitions/guesty.yaml")
    runs_as=$(awk '/^Uid:/ { print $3 }' "/proc/${running[daemon]}/status")
    [ "$owner" != "$runs_as" ] || fail "both are user $owner"
    if "${as_daemon[@]}" env -i git -C "$definitions" rev-parse HEAD >"$work/refused" 2>&1; then
        fail "git takes the checkout of another user"
    fi
    grep -q 'dubious ownership' "$work/refused" || fail "$(cat "$work/refused")"
    seen "files of user $owner, the daemon is user $runs_as, and git itself would not have read the checkout"
fi

echo "-- pushes"
worst=0
for number in $(seq 8); do
    sleep "0.$((RANDOM % 9000 + 1000))" # at any moment of the period
    write guesty "push-$number"
    commit "push $number"
    push
    until_ "push $number is applied" icon GUESTY "push-$number"
    took=$(($(date -d "$(live GUESTY | jq -r .updatedAt)" +%s%3N) - pushed))
    echo "push $number was applied $took ms after its end"
    [ "$took" -le $((period * 1000 + 1000)) ] || fail "that is later than git-sync's period of $period s and a second"
    if [ "$took" -gt "$worst" ]; then worst=$took; fi
done
in_force
seen "each within $worst ms; git-sync's period is $period s"

echo "-- a bad commit"
write guesty beside
write lodgify bad
echo 'icn: x' >>definitions/lodgify.yaml
commit bad
push
expect 'lodgify\.yaml:3:1: '
expect 'GUESTY updated: icon'
in_force
holds GUESTY beside LODGIFY first
status '[.. | objects | select(.provider? == "LODGIFY" and .state? == "invalid")] | length > 0' ||
    fail "status does not say invalid"
seen "the others are applied, LODGIFY keeps what it had, and status says invalid"
write lodgify fixed
commit fixed
push
expect 'LODGIFY updated: icon'
in_force
holds LODGIFY fixed

echo "-- a commit without any definition"
git rm -r --quiet definitions
commit "nothing left"
push
expect 'reconciliation [0-9]+ \(files\) failed .*cannot be read'
never ' updated|drift undone'
holds GUESTY beside HOSTAWAY first LODGIFY fixed
seen "nothing has changed"
git revert --no-edit HEAD >/dev/null
push
in_force
never ' updated|drift undone'

echo "-- a history that was rewritten"
git reset --quiet --hard HEAD~2
write guesty rewritten
commit rewritten
push --force
expect 'GUESTY updated: icon'
in_force
holds GUESTY rewritten

echo "-- a revert"
write hostaway wrong
commit wrong
push
expect 'HOSTAWAY updated: icon'
in_force
git revert --no-edit HEAD >/dev/null
push
expect 'HOSTAWAY updated: icon'
in_force
never 'drifted'
holds HOSTAWAY first
status '[.. | objects | .changes? | arrays | .[] | select(.provider? == "HOSTAWAY")][0].cause == "change"' ||
    fail "status does not call it a change"
seen "it is as it was, and status calls that a change"

# What was read so far was read while git-sync tidied up.
checkouts=$(find "$work/git/.worktrees" -mindepth 1 -maxdepth 1 | wc -l)
commits=$(git rev-list --count HEAD)
[ "$checkouts" -lt "$commits" ] || fail "no checkout was removed"
compgen -G "$work/git/.git/objects/pack/*.pack" >/dev/null || fail "nothing was packed"
seen "$checkouts checkouts are left after $commits commits, and objects are packed"

echo "-- the git server goes away"
good=$(git rev-parse HEAD)
stop TERM server
failures() { [ "$(grep -c 'error syncing repo, will retry' "$work/git-sync.log")" -ge 3 ]; }
until_ "git-sync fails three times" failures
seen "git-sync failed three times"
from_here
click GUESTY
kill -HUP "${running[daemon]}"
expect 'GUESTY drifted; drift undone: icon'
in_force "$good"
write guesty meanwhile
commit meanwhile
push "$work/served/definitions.git" main
server "$port"
expect 'GUESTY updated: icon'
in_force

echo "-- git-sync is killed"
stop KILL git-sync
write guesty while-dead
commit "while dead"
push
from_here
click LODGIFY
kill -HUP "${running[daemon]}"
expect 'LODGIFY drifted; drift undone: icon'
git_sync
expect 'GUESTY updated: icon'
in_force
stop KILL git-sync
stop TERM daemon

echo "-- only what was signed runs"
ssh-keygen -q -N '' -C '' -t ed25519 -f "$work/signer"
git config --global user.signingKey "$work/signer.pub"
echo "ada@example.com $(cat "$work/signer.pub")" >"$work/signers"
write guesty signed
commit signed --gpg-sign
signed=$(git rev-parse HEAD)
write guesty unsigned
commit unsigned
push
volume
git_sync GITSYNC_DEPTH=1
until_ "git-sync has a checkout" test -e "$definitions"
daemon --allowed-signers "$work/signers"
expect 'failed .*is known to be trusted'
holds GUESTY while-dead
seen "by depth 1 there is no signed commit, and nothing has changed"
stop TERM daemon
stop KILL git-sync
for depth in 50 0; do
    volume
    git_sync GITSYNC_DEPTH=$depth
    until_ "git-sync has a checkout" test -e "$definitions"
    daemon --allowed-signers "$work/signers"
    expect "is refused: the commit is not signed; revision ${signed:0:10} stays in force"
    in_force "$signed"
    holds GUESTY signed
    seen "by depth $depth the last signed commit is in force"
    if [ "$depth" = 50 ]; then
        stop TERM daemon
        stop KILL git-sync
    fi
done
write guesty signed-again
commit "signed again" --gpg-sign
push
expect 'GUESTY updated: icon'
in_force
stop TERM daemon
echo "what is pushed is what runs, by $by"
