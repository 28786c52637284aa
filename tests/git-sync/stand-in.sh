#!/usr/bin/env bash
# Stands in for git-sync if that is not available: its variables, its layout (a worktree for each commit below .worktrees,
# whose .git is a file that points elsewhere) and its order (fetch, check out, flip the link, tidy up), by git. It knows the
# variables of the manifest and GITSYNC_DEPTH, and refuses any other.
set -euo pipefail
umask 022
# The volume is another user's, as in a Pod.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'

for name in $(compgen -e GITSYNC_); do
    case ${name#GITSYNC_} in
    REPO | REF | ROOT | LINK | PERIOD | DEPTH | MAX_FAILURES | STALE_WORKTREE_TIMEOUT) ;;
    *)
        echo "the stand-in does not know $name" >&2
        exit 1
        ;;
    esac
done
seconds() {
    case $1 in
    *[0-9]m) echo $((${1%m} * 60)) ;;
    *) echo "${1%s}" ;;
    esac
}

if [ "${1:-}" != once ]; then
    failures=0
    mkdir -p "$GITSYNC_ROOT"
    rm -f "$GITSYNC_ROOT"/.git/*.lock
    while :; do
        if "$0" once; then
            failures=0
        else
            failures=$((failures + 1))
            echo "error syncing repo, will retry ($failures)"
            if [ "$GITSYNC_MAX_FAILURES" -ge 0 ] && [ "$failures" -ge "$GITSYNC_MAX_FAILURES" ]; then exit 1; fi
        fi
        sleep "$(seconds "$GITSYNC_PERIOD")"
    done
fi

cd "$GITSYNC_ROOT"
if [ ! -e .git ]; then git init --quiet --initial-branch git-sync; fi
depth=(--depth "${GITSYNC_DEPTH:-1}")
if [ "${depth[1]}" = 0 ]; then depth=(); fi
git fetch --quiet --prune --no-auto-gc "${depth[@]}" "$GITSYNC_REPO" "$GITSYNC_REF"
commit=$(git rev-parse 'FETCH_HEAD^{commit}')
before=$(readlink "$GITSYNC_LINK" || true)
at=.worktrees/$commit
if [ "$before" != "$at" ]; then
    git reset --quiet --soft "$commit" --
    rm -rf "$at"
    git worktree prune
    git worktree add --quiet --force --detach --no-checkout "$at" "$commit"
    echo "gitdir: ../../.git/worktrees/$commit" >"$at/.git"
    git -C "$at" reset --quiet --hard "$commit" --
    ln -s "$at" tmp-link
    mv -T tmp-link "$GITSYNC_LINK"
    if [ -n "$before" ]; then touch "$before"; fi
    echo "updated successfully: $commit"
fi
gone=$(find .worktrees -mindepth 1 -maxdepth 1 ! -name "$commit" \
    ! -newermt "-$(seconds "$GITSYNC_STALE_WORKTREE_TIMEOUT") seconds" -print -exec rm -rf {} +)
if [ -n "$gone" ]; then
    git worktree prune
    git reflog expire --expire-unreachable=all --all
    git gc --quiet
fi
