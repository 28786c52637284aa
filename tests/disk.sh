#!/usr/bin/env bash
# Disks that fail below a running daemon: full, without inodes, read-only, without permissions; and a full disk below the clone of
# a repository. In each case the daemon goes on with Calry, shows the failure, and recovers by itself.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), git, python3, and root or sudo, to
# mount small file systems in a name space of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" != --mounted ]; then
    # shellcheck source=tests/need.sh
    . tests/need.sh
    need curl git jq python3
    as=()
    if [ "$(id -u)" != 0 ]; then as=(sudo --preserve-env); fi
    exec "${as[@]}" unshare --mount tests/disk.sh --mounted
fi
calry=${CALRY_GITOPS:-$PWD/target/debug/calry-gitops}
here=$PWD
work=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    umount "$work"/state "$work"/clone 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"
unset CALRY_API_KEY CALRY_CONFIG
mkdir definitions state clone
# Who runs the daemon; empty for this user.
as=()
log=$work/daemon.log

fail() {
    printf '%s\n' "$@" >&2
    tail -n 30 "$log" >&2
    exit 1
}
# until_ WHAT COMMAND…: waits until a command succeeds.
until_() {
    local what=$1 end=$((SECONDS + 30))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "not seen: $what"
        sleep 0.05
    done
}
# said TIMES WORDS: lines of the log of this daemon.
said() { [ "$(grep -c -- "$2" "$log")" -ge "$1" ]; }
daemon() {
    : >"$log"
    "${as[@]}" "$calry" run --api-url "$url" --api-key-file key --interval 1h --listen 127.0.0.1:0 "$@" >"$log" 2>&1 &
    daemon=$!
    pids+=("$daemon")
    until_ "the first reconciliation" said 1 'reconciliation 1 '
    admin=$(grep -om1 'http://127.0.0.1:[0-9]*' <(grep listening "$log"))
}
kill_daemon() {
    kill -KILL "$daemon"
    wait "$daemon" 2>/dev/null || true
}
live() { curl -sS -H "x-calry-api-key: $key" "$url/api/v1/integration-definition/GUESTY" | jq -r .icon; }
is_live() { [ "$(live)" = "https://cdn.example.com/$1.png" ]; }
text() { printf 'provider: GUESTY\nicon: https://cdn.example.com/%s.png\n' "$1"; }
edit() {
    text "$1" >definitions/guesty.yaml
    until_ "the update to $1" is_live "$1"
}
click() {
    curl -sS -o /dev/null -X PATCH -H "x-calry-api-key: $key" -H 'content-type: application/json' \
        -d '{"icon": "https://clicked.example.com/1.png"}' "$url/api/v1/integration-definition/GUESTY"
}

"$calry" sandbox --listen 127.0.0.1:0 >sandbox.out 2>&1 &
pids+=($!)
until url=$(grep -om1 'http://127.0.0.1:[0-9]*' sandbox.out); do sleep 0.05; done
key=zepl.sandbox-write.not-a-secret.acme-production
echo "$key" >key
text first >definitions/guesty.yaml

# fails WHY: while the state directory fails, edits are applied, and the failure is logged once. The commands that follow end it.
fails() {
    local why=$1
    shift
    edit failing-1
    until_ "the failure" said 1 "cannot write the state file.*$why"
    edit failing-2
    [ "$(grep -c 'cannot write the state file' "$log")" = 1 ] || fail "the failure is logged more than once"
    [ -z "$(find state -name '.state-*')" ] || fail "an unfinished file stays"
    "$@"
    edit working
    until_ "the recovery" said 1 'can be written again'
    # It was written in full: the next process still knows drift from change.
    kill_daemon
    click
    daemon --state-dir state
    said 1 'GUESTY drifted; drift undone' || fail "the state was lost"
    kill_daemon
    umount state
    grep -m1 'drift undone' "$log"
}

full() {
    mount -t tmpfs -o size=64k tmpfs state
    daemon --state-dir state
    head -c 1M /dev/zero >state/fill 2>/dev/null && fail "the disk is not full"
    fails 'No space left on device' rm state/fill
}

no_inodes() {
    mount -t tmpfs -o nr_inodes=8 tmpfs state
    daemon --state-dir state
    mkdir state/fill
    for n in $(seq 8); do : 2>/dev/null >"state/fill/$n" || break; done
    fails 'No space left on device' rm -r state/fill
}

read_only() {
    mount -t tmpfs tmpfs state
    daemon --state-dir state
    mount -o remount,ro state
    fails 'Read-only file system' mount -o remount,rw state
}

# A daemon of another user, because root may read everything.
permissions() {
    chmod 755 "$work"
    chmod 644 key
    cp "$calry" program
    local calry=$work/program
    as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
    daemon
    as=()
    text unreadable >definitions/guesty.yaml
    chmod 000 definitions/guesty.yaml
    until_ "the unreadable file" said 1 'guesty.yaml.*Permission denied'
    printf 'provider: BOOM\nicon: https://cdn.example.com/other.png\n' >definitions/boom.yaml
    until_ "the other provider" said 1 'BOOM .*updated.*icon'
    chmod 000 definitions
    kill -HUP "$daemon"
    until_ "the unreadable directory" said 1 'failed.*Permission denied'
    ! is_live unreadable || fail "the file was read"
    chmod 755 definitions
    chmod 644 definitions/guesty.yaml
    until_ "the update" is_live unreadable
    kill_daemon
    rm definitions/boom.yaml
    grep -m1 'failed.*Permission denied' "$log"
}

# Each write to /dev/full fails as on a full disk.
full_log() {
    "$calry" run --api-url "$url" --api-key-file key --interval 1h --listen off >/dev/full 2>/dev/full &
    daemon=$!
    pids+=("$daemon")
    edit unlogged-1
    edit unlogged-2
    kill -TERM "$daemon"
    wait "$daemon" || fail "it ended with $?"
}

push() {
    text "$1" >repository/definitions/guesty.yaml
    git -C repository -c user.name=Ada -c user.email=ada@example.com -c commit.gpgsign=false commit --quiet --all --message="$1"
    git -C repository push --quiet "$work/served/definitions.git" main
}
kind_is() {
    [ "$(curl -sS "$admin/api/v1/status" | jq -r '.workspaces[0].repository.failure.kind')" = "$1" ]
}

full_clone() {
    export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
    git init --quiet --bare --initial-branch=main served/definitions.git
    git init --quiet --initial-branch=main repository
    mkdir repository/definitions
    text pushed-1 >repository/definitions/guesty.yaml
    git -C repository add --all
    push pushed-1
    python3 -B "$here/tests/git-sync/serve.py" "$work/served" 0 >serve.out 2>&1 &
    pids+=($!)
    until port=$(grep -om1 '^[0-9]*' serve.out); do sleep 0.05; done
    mount -t tmpfs -o size=256k tmpfs clone
    daemon --git-url "http://127.0.0.1:$port/definitions.git" --git-interval 1s --git-dir clone
    is_live pushed-1 || fail "the first commit was not applied"
    # Larger than the disk, and not to be compressed.
    head -c 600K /dev/urandom >repository/large
    git -C repository add large
    push pushed-2
    until_ "the failed fetch" kind_is storage
    # The last commit stays in force.
    click
    kill -HUP "$daemon"
    until_ "the drift is undone" is_live pushed-1
    mount -o remount,size=16m clone
    until_ "the fetch" is_live pushed-2
    until_ "the end of the failure" kind_is null
    kill_daemon
    grep -m1 'cannot fetch' "$log"
}

for case in full no_inodes read_only permissions full_log full_clone; do
    echo "-- $case"
    "$case"
done
echo "a disk that fails stops nothing"
