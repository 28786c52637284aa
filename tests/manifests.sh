#!/usr/bin/env bash
# The manifests for Kubernetes: built with kustomize and Helm, and checked by tests/manifests/test_manifests.py. With --update
# it first writes what is made from other files: the alerts of the overlay, and the README of the chart.
#
# Needs a built binary (target/debug/calry-gitops, or the one that CALRY_GITOPS names), python3 and go. What else it needs
# it installs into a cache.
set -euo pipefail

helm_version=v3.22.0
kustomize_version=v5.8.2
kubeconform_version=v0.7.0
helm_docs_version=v1.14.2
# The Python package has Kubernetes' schemas for kubeconform.
schemas_version=1.37.0
yamllint_version=1.38.0
cd "$(dirname "$0")/.."
export CALRY_GITOPS=${CALRY_GITOPS:-$PWD/target/debug/calry-gitops}
# shellcheck source=tests/need.sh
. tests/need.sh

HELM=$(go_tool helm.sh/helm/v3/cmd/helm "$helm_version")/helm
HELM_DOCS=$(go_tool github.com/norwoodj/helm-docs/cmd/helm-docs "$helm_docs_version")/helm-docs
KUSTOMIZE=$(go_tool sigs.k8s.io/kustomize/kustomize/v5 "$kustomize_version")/kustomize
KUBECONFORM=$(go_tool github.com/yannh/kubeconform/cmd/kubeconform "$kubeconform_version")/kubeconform
python=$(python_tool kubernetes-validate "$schemas_version")
# They refer to each other by the addresses of a server; kubeconform needs file names.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SCHEMAS=$work/schemas
mkdir "$SCHEMAS"
from=$("$python/python3" -c 'import kubernetes_validate as k; print(k.__path__[0])')/kubernetes-json-schema
cp -r "$from"/v{1.29.0,1.37.0}-local-strict "$SCHEMAS"
# shellcheck disable=SC2016 # a key of JSON Schema, not a variable
sed -i 's,"/api/_definitions.json,"_definitions.json,; s,"$id":,"title":,' "$SCHEMAS"/*/*.json

chart=deploy/helm/calry-gitops
if [ "${1:-}" = --update ]; then
    made=deploy/kubernetes/overlays/monitoring/prometheusrule.yaml
    { sed '/^spec:/q' "$made"; sed -n '/^groups:/,$p' deploy/monitoring/calry-gitops.rules.yaml | sed 's/^\(.\)/  \1/'; } >"$made.new"
    mv "$made.new" "$made"
    "$HELM_DOCS" --log-level warning --sort-values-order file --chart-search-root "$chart"
fi

yamllint=$(python_tool yamllint "$yamllint_version")/yamllint
"$yamllint" --strict --config-data '{extends: default, rules: {line-length: {max: 120,
    allow-non-breakable-inline-mappings: true}, document-start: disable, comments: {min-spaces-from-content: 1}, octal-values: disable, braces: {max-spaces-inside: 0}}}' \
    deploy/kubernetes deploy/monitoring/kustomization.yaml "$chart"/Chart.yaml "$chart"/values.yaml "$chart"/ci
# What is shipped: a package follows the links to deploy/monitoring, and Helm reports each of them.
"$HELM" package --destination "$work" "$chart" 2>"$work/links" || { cat "$work/links"; exit 1; }
PACKAGE=$(echo "$work"/*.tgz)
# As chart-testing does: without values, and with each file of ci/.
"$HELM" lint --strict --quiet "$PACKAGE"
for values in "$chart"/ci/*-values.yaml; do "$HELM" lint --strict --quiet --values "$values" "$PACKAGE"; done
export HELM HELM_DOCS KUSTOMIZE KUBECONFORM SCHEMAS PACKAGE
"$python/python3" -B -m unittest discover --start-directory tests/manifests
