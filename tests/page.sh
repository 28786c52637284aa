#!/usr/bin/env bash
# Tests the status page in a browser: Debian's Chromium, and a daemon with a sandbox. tests/page/look.mjs holds the claims.
#
# Needs a built binary (target/debug/calry-gitops, or CALRY_GITOPS), git and node. It installs everything else, into a cache
# or from Debian. If SHOTS is a directory, screenshots are stored there. README_PICTURE=docs/images/page.png only makes the
# picture of the README.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
export CALRY_GITOPS=${CALRY_GITOPS:-$root/target/debug/calry-gitops}
# shellcheck source=tests/need.sh
. "$root/tests/need.sh"
need chromium
PLAYWRIGHT=$(dirname "$(node_tool playwright-core 1.65.1)")/playwright-core
AXE=$(dirname "$(node_tool axe-core 4.14.1)")/axe-core/axe.min.js
ROOT=$root
export PLAYWRIGHT AXE ROOT
timeout 300 node "$root/tests/page/look.mjs"
