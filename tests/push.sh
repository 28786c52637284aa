#!/usr/bin/env bash
# From a push to a verified change, with git itself: git http-backend behind HTTP and TLS, a post-receive hook that reports each
# push, and the sandbox. Fails if half of the pushes take a second or more. For comparison, the same pushes by git-sync's
# stand-in (tests/git-sync/stand-in.sh) at periods of 1 s and 10 s.
#   tests/push.sh [PUSHES]    15 pushes of each kind by default
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names) and python3. What else it needs it
# installs from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."
export CALRY_GITOPS=${CALRY_GITOPS:-$PWD/target/debug/calry-gitops}
# shellcheck source=tests/need.sh
. tests/need.sh
need git curl openssl
python3 -B tests/push/push.py "${1:-15}"
