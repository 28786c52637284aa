#!/usr/bin/env bash
# The manifests for Kubernetes: built with kustomize and Helm, and held to what tests/manifests/test_manifests.py says.
# With --update it first writes the alerts into both again, from deploy/monitoring.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), python3 and go. What else it needs
# it installs into a cache.
set -euo pipefail

helm_version=v3.22.0
kustomize_version=v5.8.2
validate_version=1.37.0
yamllint_version=1.38.0
cd "$(dirname "$0")/.."
export CALRY_GITOPS=${CALRY_GITOPS:-$PWD/target/debug/calry-gitops}
# shellcheck source=tests/need.sh
. tests/need.sh

if [ "${1:-}" = --update ]; then
    rules=deploy/monitoring/calry-gitops.rules.yaml
    cp "$rules" deploy/helm/calry-gitops/files/
    made=deploy/kubernetes/overlays/monitoring/prometheusrule.yaml
    { sed '/^spec:/q' "$made"; sed -n '/^groups:/,$p' "$rules" | sed 's/^\(.\)/  \1/'; } >"$made.new"
    mv "$made.new" "$made"
fi

HELM=$(go_tool helm.sh/helm/v3/cmd/helm "$helm_version")/helm
KUSTOMIZE=$(go_tool sigs.k8s.io/kustomize/kustomize/v5 "$kustomize_version")/kustomize
python=$(python_tool kubernetes-validate "$validate_version")
VALIDATE=$python/kubernetes-validate
export HELM KUSTOMIZE VALIDATE

yamllint=$(python_tool yamllint "$yamllint_version")/yamllint
"$yamllint" --strict --config-data '{extends: default, rules: {line-length: {max: 120}, document-start: disable,
    comments: {min-spaces-from-content: 1}, octal-values: disable}}' \
    deploy/kubernetes deploy/helm/calry-gitops/Chart.yaml deploy/helm/calry-gitops/values.yaml
"$HELM" lint --strict --quiet deploy/helm/calry-gitops
"$python/python3" -B -m unittest discover --start-directory tests/manifests
