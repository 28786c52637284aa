# Sourced by tests/cluster.sh: a Kubernetes API server and what it needs, built by go.
# shellcheck shell=bash

kubernetes_version=v1.37.2
monitoring_version=v0.95.1
controller_tools_version=v0.23.0

# kubernetes_tools: the directory of etcd, kube-apiserver, kubectl, and of crds/, which are the kinds of the Prometheus
# operator, made of its Go types as it makes them. The first time takes ten minutes and 4 GB, of which 200 MB stay.
kubernetes_tools() (
    # Said again, because a command substitution forgets it.
    set -euo pipefail
    name=kubernetes-$kubernetes_version-$monitoring_version-$controller_tools_version
    at=${XDG_CACHE_HOME:-$HOME/.cache}/calry-gitops/$name
    if [ ! -e "$at/complete" ]; then
        rm -rf "$at"
        mkdir -p "$at"
        build_kubernetes_tools "$at" >&2
        touch "$at/complete"
    fi
    printf '%s\n' "$at"
)

build_kubernetes_tools() (
    to=$1
    # Caches of its own, removed at the end: they are ten times as large as the tools.
    export CGO_ENABLED=0 GOFLAGS='-mod=mod -trimpath -modcacherw' GOCACHE=$to/build/cache GOMODCACHE=$to/build/modules
    trap 'rm -rf "$to/build"' EXIT
    mkdir -p "$to/build/kubernetes" "$to/build/crds"

    cd "$to/build/kubernetes"
    from=$(go mod download -json "k8s.io/kubernetes@$kubernetes_version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    # The parts that it names as directories of its own repository are modules too, of the same release.
    release=v0${kubernetes_version#v1}
    sed "s,^module .*,module tools,; s, => ./staging/src/\(.*\), => \1 $release," "$from/go.mod" >go.mod
    cat "$from/go.sum" >go.sum
    go mod edit -require="k8s.io/kubernetes@$kubernetes_version"
    major_minor=${kubernetes_version%.*} set=k8s.io/component-base/version
    timeout 3600 go build -o "$to/" -ldflags="-s -w -X $set.gitVersion=$kubernetes_version -X $set.gitMajor=1
        -X $set.gitMinor=${major_minor#v1.}" k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl
    timeout 600 go build -o "$to/etcd" -ldflags='-s -w' go.etcd.io/etcd/server/v3

    cd "$to/build/crds"
    go mod init tools
    types=github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring
    generator=sigs.k8s.io/controller-tools/cmd/controller-gen
    go get "$types@$monitoring_version" "$generator@$controller_tools_version"
    timeout 600 go run "$generator" crd paths="$types/v1" "output:crd:dir=$to/crds"
)
