#!/usr/bin/env bash
# owner.sh OWNER: writes another owner of the repository, the image, the chart and the tap into every file that names them.
set -euo pipefail
# shellcheck source=deploy/release/common.sh
. "$(dirname "$0")/common.sh"

next=${1:?the owner, as acme}
[[ $next =~ ^[0-9A-Za-z]([0-9A-Za-z-]*[0-9A-Za-z])?$ ]] || fail "$next is no owner"
old=$(manifest repository)
old=${old%/*}
old=${old##*/}
# After another path it is a file's, such as /etc/calry-gitops/calry-gitops.yaml.
place='(^|[^/0-9A-Za-z_.~-]|(github\.com|githubusercontent\.com|ghcr\.io)/)'
git grep -lz --fixed-strings "$old" -- ':!deploy/release' |
    xargs -0 sed -Ei "s#$place$old/(calry-gitops|charts|tap)\b#\1$next/\3#g; s#//github\.com/$old\$#//github.com/$next#"
git --no-pager diff --stat
