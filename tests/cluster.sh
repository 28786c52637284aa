#!/usr/bin/env bash
# Kubernetes for real: manifests, permissions, replicas that fetch from git and leader election are shown to an API server with
# etcd behind it, which are started on this machine's loopback and end with the tests. Arguments go to python's unittest, such
# as -k NAME.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), python3, go, and root or sudo. What
# else it needs it installs, into a cache or from Debian; the first time, that builds Kubernetes. With --tools, it does only that.
set -euo pipefail

helm_version=v3.22.0
cd "$(dirname "$0")/.."
export CALRY_GITOPS=${CALRY_GITOPS:-$PWD/target/debug/calry-gitops}
# shellcheck source=tests/need.sh
. tests/need.sh
# shellcheck source=tests/cluster/tools.sh
. tests/cluster/tools.sh
need faketime git openssl

HELM=$(go_tool helm.sh/helm/v3/cmd/helm "$helm_version")/helm
KUBERNETES=$(kubernetes_tools)
export HELM KUBERNETES
if [ "${1:-}" = --tools ]; then exit; fi
# Only root may give a process mounts of its own.
as=()
if [ "$(id -u)" != 0 ]; then as=(sudo --preserve-env); fi
exec "${as[@]}" python3 -B -m unittest discover --start-directory tests/cluster "$@"
