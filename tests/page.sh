#!/usr/bin/env bash
# Shows the page to a browser: a daemon with a sandbox, Debian's Chromium, and somebody who drifts, restarts, asks and
# looks. tests/page/look.mjs tells what must hold.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), git and node. What else it needs
# it installs, into a cache or from Debian. Where SHOTS names a directory, pictures are left there.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
export CALRY_GITOPS=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
# shellcheck source=tests/need.sh
. "$root/tests/need.sh"
need chromium
PLAYWRIGHT=$(dirname "$(node_tool playwright-core 1.65.1)")/playwright-core
AXE=$(dirname "$(node_tool axe-core 4.14.1)")/axe-core/axe.min.js
export PLAYWRIGHT AXE
timeout 300 node "$root/tests/page/look.mjs"
