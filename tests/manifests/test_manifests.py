"""What the manifests promise: kustomize and Helm make the same, under the restricted Pod Security profile, and what the
manifests ask of the program it does, started with the arguments, variables and files of each of them. HELM, HELM_DOCS,
KUSTOMIZE, KUBECONFORM and CALRY_GITOPS name the programs, PACKAGE the packed chart, and SCHEMAS the directory of
Kubernetes' schemas. Nothing but this machine is contacted."""

import contextlib
import copy
import functools
import ipaddress
import json
import os
import re
import shlex
import subprocess
import tempfile
import textwrap
import time
import unittest
import urllib.request
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
KUSTOMIZE = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm" / "calry-gitops"
PACKAGE = os.environ["PACKAGE"]
RULES = DEPLOY / "monitoring" / "calry-gitops.rules.yaml"

# A Helm that go installed knows no Kubernetes of its own.
KUBERNETES = ["--kube-version", "1.29"]

# What every release sets.
COMMON = [
    "git.repository=https://git.example.com/acme/definitions.git",
    "calry.apiKey.existingSecret=calry-gitops-api-key", "calry.secrets.existingSecret=calry-gitops-secrets",
]
TOKEN = ["git.auth.type=token", "git.auth.existingSecret=calry-gitops-git"]
SSH = [
    "source=git-sync", "git.repository=ssh://git@git.example.com/acme/definitions.git", "git.auth.type=ssh",
    "git.auth.existingSecret=calry-gitops-git",
]
# The values that make the objects of each overlay.
PAIRS = {
    "base": TOKEN,
    "overlays/git-sync": SSH,
    "overlays/configmap": ["source=configmap", "definitions.existingConfigMap=calry-gitops-definitions"],
    "overlays/monitoring": [
        *TOKEN, "serviceMonitor.enabled=true", "prometheusRule.enabled=true", "dashboard.enabled=true",
    ],
    "overlays/signed": [*TOKEN, "allowedSigners.existingConfigMap=calry-gitops-allowed-signers"],
    "overlays/single": [
        *TOKEN, "replicaCount=1", "leaderElection.enabled=false", "events.enabled=false", "persistence.enabled=true",
        "persistence.existingClaim=calry-gitops-state",
    ],
    "overlays/workspaces": [
        *TOKEN, "workspaces[0].name=production", "workspaces[0].apiKey.existingSecret=calry-gitops-production-api-key",
        "workspaces[0].secrets.existingSecret=calry-gitops-production-secrets", "workspaces[1].name=staging",
        "workspaces[1].apiKey.existingSecret=calry-gitops-staging-api-key",
        "workspaces[1].secrets.existingSecret=calry-gitops-staging-secrets", "workspaces[1].config.mode=observe",
    ],
}
# And what only values make.
VALUES = [
    [
        "source=git-sync", "git.auth.type=token", "git.auth.existingSecret=git", "git.directory=", "git.ref=", "gitSync.depth=0",
        "image.digest=sha256:" + "a" * 64, "persistence.enabled=true", "replicaCount=1", "events.enabled=false",
        "backups.recipients[0]=age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj",
        "backups.existingClaim=backups",
    ],
    [
        "priorityClassName=system", "topologySpreadConstraints[0].maxSkew=1",
        "topologySpreadConstraints[0].topologyKey=zone", "topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule",
        "topologySpreadConstraints[0].labelSelector.matchLabels.a=b", "tolerations[0].operator=Exists",
        "nodeSelector.disk=ssd", "imagePullSecrets[0].name=pull", "podLabels.team=a", "podAnnotations.note=b",
        "admin.hosts={gitops.example.com,other.example.com}", "maxChanges=0", "mode=observe", "interval=90s",
        "calry.apiUrl=https://calry.example.com", "extraArgs={--concurrency=2,--strict}",
        "extraEnv[0].name=CALRY_TIMEOUT", "extraEnv[0].value=90s", "extraVolumes[0].name=more",
        "extraVolumes[0].secret.secretName=more", "extraVolumeMounts[0].name=more",
        "extraVolumeMounts[0].mountPath=/run/calry/more", "extraVolumeMounts[0].readOnly=true",
        "serviceAccount.annotations.a=b", "networkPolicy.ingressNamespaces={ingress,monitoring}",
        "serviceMonitor.enabled=true", "serviceMonitor.labels.release=prometheus", "replicaCount=3", "shards=3",
        "leaderElection.leaseName=acme", "leaderElection.leaseDuration=30s", "leaderElection.renewDeadline=20s",
        "leaderElection.retryPeriod=4s", "networkPolicy.apiServer.ports={8443}",
        "networkPolicy.apiServer.cidrs={192.0.2.1/32}",
    ],
    ["replicaCount=1", "leaderElection.enabled=false"],
    # Several workspaces, with defaults for all of them.
    [
        "workspaces[0].name=production", "workspaces[0].directory=calry/production",
        "workspaces[0].apiKey.existingSecret=prod", "workspaces[0].apiKey.key=token",
        "workspaces[0].secrets.existingSecret=prod-partners", "workspaces[1].name=staging",
        "workspaces[1].apiKey.existingSecret=staging", "workspaces[1].config.mode=observe", "workspaces[1].config.interval=5m",
        "workspaces[1].config.apiUrl=https://calry.example.com", "mode=enforce", "interval=2m", "maxChanges=50%", "shards=2",
        "config.strict=true", "notifications.targets[0].name=operations", "notifications.existingSecret=operations",
        "notifications.targets[0].slack.urlFile=/run/calry/notifications/url",
    ],
    [
        "source=configmap", "workspaces[0].name=acme", "workspaces[0].existingConfigMap=acme-definitions",
        "workspaces[0].apiKey.existingSecret=acme", "workspaces[0].secrets.existingSecret=acme", "workspaces[1].name=globex",
        "workspaces[1].existingConfigMap=globex-definitions", "workspaces[1].apiKey.existingSecret=globex",
        "workspaces[1].secrets.existingSecret=globex", "replicaCount=1", "leaderElection.enabled=false",
        "events.enabled=false", "workspaces[1].config.mode=observe",
    ],
    # Workspaces that the configuration file describes.
    [
        "source=git-sync", "config.workspaces[0].name=acme", "config.workspaces[0].definitions=/git/current/acme",
        "config.workspaces[0].apiKeyFile=/run/calry/acme/api-key", "extraVolumes[0].name=acme",
        "extraVolumes[0].secret.secretName=acme", "extraVolumeMounts[0].name=acme",
        "extraVolumeMounts[0].mountPath=/run/calry/acme", "extraVolumeMounts[0].readOnly=true",
    ],
    # Arguments, variables and the configuration file win over what the chart sets.
    [
        "mode=enforce", "interval=90s", "replicaCount=1", "leaderElection.enabled=false", "events.enabled=false",
        "extraArgs={--listen=0.0.0.0:8080,--log-format=text,--mode=observe,--interval=3m,--interval=4m}",
        "extraEnv[0].name=CALRY_STATE_DIR", "extraEnv[0].value=/tmp/state", "extraVolumes[0].name=more",
        "extraVolumes[0].emptyDir.sizeLimit=1Mi", "extraVolumeMounts[0].name=more", "extraVolumeMounts[0].mountPath=/tmp/state",
        "maxChanges=3", "config.maxChanges=4",
    ],
    # Everything about git.
    [
        "git.ref=v7", "git.directory=calry/production", "git.interval=5m", "git.auth.type=github-app",
        "git.auth.existingSecret=app", "git.auth.appId=123456789", "git.auth.installationId=87654321",
        "git.caBundle.existingConfigMap=git-ca", "git.caBundle.key=git.pem", "allowedSigners.existingConfigMap=signers",
        "allowedKeys.existingConfigMap=keys", "verify=tag",
    ],
    ["git.ref=", "git.directory=", "config.gitInterval=10m", "git.interval=5m"],
    # Workspaces of git-sync, and those of other repositories.
    [
        *SSH, "gitSync.period=1m", "workspaces[0].name=production", "workspaces[0].apiKey.existingSecret=prod",
        "workspaces[0].secrets.existingSecret=prod", "allowedKeys.existingConfigMap=keys",
        "git.caBundle.existingConfigMap=git-ca", "caBundle.existingConfigMap=ca",
    ],
    [
        *TOKEN, "workspaces[0].name=production", "workspaces[0].apiKey.existingSecret=prod",
        "workspaces[0].secrets.existingSecret=prod", "workspaces[1].name=staging", "workspaces[1].apiKey.existingSecret=staging",
        "workspaces[1].secrets.existingSecret=staging", "workspaces[1].config.gitUrl=https://git.example.com/acme/staging.git",
        "workspaces[1].config.gitRef=next", "workspaces[1].directory=definitions",
    ],
]
# The files of values by which chart-testing and this test install the chart.
FILES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())
ANY = {"mode": "enforce", "interval": "60s", "maxChanges": "30%",
       "apiKeyFile": "/run/calry/api-key/api-key", "secretsDir": "/run/calry/secrets"}  # fmt: skip
GIT = {"definitions": None, "gitUrl": "https://git.example.com/acme/definitions.git", "gitRef": "main",
       "gitPath": "definitions", "gitInterval": "60s", "gitDir": "/var/lib/calry-gitops-git", "gitTokenFile": None}  # fmt: skip
ONE = ANY | GIT


def directory(path):
    """The settings of a source that is a directory."""
    return {"definitions": path, "gitUrl": None, "gitDir": None, "gitTokenFile": None}


WITH_TOKEN = ONE | {"gitTokenFile": "/run/calry/git/token"}
SYNCED = ANY | directory("/git/current/definitions")
ALL = {"listen": "[::]:8080", "logFormat": "json", "stateDir": "/var/lib/calry-gitops", "leaderElection": True,
       "kubernetesEvents": True}  # fmt: skip
SINGLE = ALL | {"leaderElection": False, "kubernetesEvents": False}


def of_workspace(name, **settings):
    own = {"gitPath": name, "apiKeyFile": f"/run/calry/{name}/api-key/api-key",
           "secretsDir": f"/run/calry/{name}/secrets"}  # fmt: skip
    return {"name": name} | ONE | own | settings


def without_git(settings):
    return {key: value for key, value in settings.items() if not key.startswith("git") or value is None}


# What the daemon runs by: settings of the process, then those of each workspace.
EFFECTIVE = {
    "base": (ALL, [WITH_TOKEN]),
    "overlays/git-sync": (ALL, [SYNCED]),
    "overlays/configmap": (ALL, [ANY | directory("/definitions")]),
    "overlays/monitoring": (ALL, [WITH_TOKEN]),
    "overlays/signed": (ALL, [WITH_TOKEN | {"allowedSigners": "/run/calry/allowed-signers/allowed_signers"}]),
    "overlays/single": (SINGLE, [WITH_TOKEN]),
    "overlays/workspaces": (ALL, [of_workspace("production", gitTokenFile="/run/calry/git/token"),
                                  of_workspace("staging", gitTokenFile="/run/calry/git/token", mode="observe")]),
    0: (ALL | {"kubernetesEvents": False}, [ANY | directory("/git/current")]),
    1: (
        ALL | {"leaseName": "acme", "leaseDuration": "30s", "leaseRenewDeadline": "20s", "leaseRetryPeriod": "4s", "shards": 3,
               "adminHost": ["gitops.example.com", "other.example.com"]},
        [ONE | {"mode": "observe", "interval": "90s", "maxChanges": 0, "apiUrl": "https://calry.example.com", "concurrency": 2,
                "strict": True, "timeout": "90s"}],
    ),
    2: (ALL | {"leaderElection": False}, [ONE]),
    3: (
        ALL | {"shards": 2},
        [
            of_workspace("production", gitPath="calry/production", interval="2m", maxChanges="50%", strict=True,
                         apiKeyFile="/run/calry/production/api-key/token"),
            of_workspace("staging", mode="observe", interval="5m", maxChanges="50%", strict=True, secretsDir=None,
                         apiUrl="https://calry.example.com"),
        ],
    ),
    4: (SINGLE, [without_git(of_workspace("acme", **directory("/definitions/acme"))),
                 without_git(of_workspace("globex", **directory("/definitions/globex"), mode="observe"))]),
    5: (ALL, [{"name": "acme", "definitions": "/git/current/acme", "apiKeyFile": "/run/calry/acme/api-key", "secretsDir": None}]),
    6: (SINGLE | {"listen": "0.0.0.0:8080", "logFormat": "text", "stateDir": "/tmp/state"},
        [ONE | {"mode": "observe", "interval": "4m", "maxChanges": 4}]),
    7: (ALL, [ONE | {"gitRef": "v7", "gitPath": "calry/production", "gitInterval": "5m", "gitGithubAppId": "123456789",
                     "gitGithubInstallationId": "87654321", "gitGithubAppKeyFile": "/run/calry/git/private-key",
                     "gitCaFile": "/run/calry/git-ca-bundle/git.pem", "verify": "tag", "secretsDir": "/run/calry/secrets",
                     "allowedSigners": "/run/calry/allowed-signers/allowed_signers",
                     "allowedKeys": "/run/calry/allowed-keys/allowed_keys.asc"}]),
    8: (ALL, [ONE | {"gitRef": None, "gitPath": ".", "gitInterval": "10m"}]),
    9: (ALL, [without_git(of_workspace("production", **directory("/git/current/production"),
                                       allowedKeys="/run/calry/allowed-keys/allowed_keys.asc"))]),
    10: (ALL, [of_workspace("production", gitTokenFile="/run/calry/git/token"),
               of_workspace("staging", gitTokenFile="/run/calry/git/token", gitUrl="https://git.example.com/acme/staging.git",
                            gitRef="next", gitPath="definitions")]),
    "configmap": (ALL, [ANY | directory("/definitions")]),
    "git": (ALL, [WITH_TOKEN]),
    "git-sync": (ALL, [SYNCED]),
    "openshift": (ALL, [WITH_TOKEN | {"secretsDir": None}]),
    "page": (
        ALL | {"adminHost": ["calry-gitops", "calry-gitops.example.com"], "logFormat": "text",
               "adminTokenFile": "/run/calry/admin-token/token", "githubHookSecretFile": "/run/calry/hooks/github/secret",
               "externalUrl": "https://calry-gitops.example.com/"},
        [ONE | {"apiUrl": "https://calry.example.com:4443", "interval": "2m", "secretsDir": None,
                "gitUrl": "https://git.example.com:8443/acme/definitions.git", "gitGithubAppId": "1234567",
                "gitGithubInstallationId": "12345678", "gitGithubAppKeyFile": "/run/calry/git/private-key",
                "gitCaFile": "/run/calry/git-ca-bundle/ca.crt", "allowedKeys": "/run/calry/allowed-keys/allowed_keys.asc",
                "repositoryUrl": "https://git.example.com/acme/definitions"}],
    ),
}  # fmt: skip
REFUSED = {
    "source": ["source=svn"],
    "mode": ["mode=force"],
    "interval": ["interval=60"],
    "maxChanges": ["maxChanges=-1"],
    "maxChanges as a text": ["maxChanges=101%"],
    "image.tag": ["image.tag=latest"],
    "image.digest": ["image.digest=sha256:1"],
    "git.repository": ["git.repository=http://git.example.com/a.git"],
    "a password in git.repository": ["git.repository=https://bot:secret@git.example.com/a.git"],
    "git.directory": ["git.directory=a/../../etc"],
    "git.auth.type": ["git.auth.type=password"],
    "git.auth.appId": ["git.auth.appId=a b"],
    "git.interval": ["git.interval=10"],
    "gitSync.image.tag": ["gitSync.image.tag="],
    "gitSync.period": ["gitSync.period="],
    "verify": ["verify=all"],
    "git.webUrl": ["git.webUrl=git@git.example.com:a"],
    "calry.apiUrl": ["calry.apiUrl=calry.example.com"],
    "replicaCount": ["replicaCount=-1"],
    "leaderElection.leaseDuration": ["leaderElection.leaseDuration=15"],
    "shards": ["shards=0"],
    "gitSync.depth": ["gitSync.depth=-1"],
    "networkPolicy.apiServer": ["networkPolicy.apiServer.ports={https}"],
    "networkPolicy.egress": ["networkPolicy.egress=null"],
    "apiKey": ["calry.apiKey.value=zepl.secret"],
    "ingress without hosts": ["ingress.enabled=true"],
    "extraArgs": ["extraArgs={plan}"],
    "workspaces without a name": ["workspaces[0].directory=a"],
    "workspaces of a wrong name": ["workspaces[0].name=Acme"],
    "workspaces.directory": ["workspaces[0].name=a", "workspaces[0].directory=../a"],
    "workspaces of a name that is a directory": ["workspaces[0].name=git"],
    "workspaces.config.gitPath": ["workspaces[0].name=a", "workspaces[0].config.gitPath=a"],
    "workspaces.config": ["workspaces[0].name=a", "workspaces[0].config.apiKeyFile=/run/a"],
}
# What NOTES.txt refuses, and the value that each sentence names.
INCOMPLETE = {
    "set git.repository ": ["git.repository="],
    "set git.auth.existingSecret ": ["git.auth.type=token"],
    "git.repository is an address for SSH and source is git": ["git.repository=ssh://git@git.example.com/a.git"],
    "git.repository is an address .* source is git": ["git.repository=git@git.example.com:a.git"],
    "git.auth.type is ssh and source is git": ["git.auth.type=ssh", "git.auth.existingSecret=a"],
    "git.auth.type is github-app and source is git-sync": [
        "source=git-sync", "git.auth.type=github-app", "git.auth.existingSecret=a", "git.auth.appId=1",
        "git.auth.installationId=2",
    ],
    "set git.auth.appId ": ["git.auth.type=github-app", "git.auth.existingSecret=a", "git.auth.installationId=2"],
    "set git.auth.installationId ": ["git.auth.type=github-app", "git.auth.existingSecret=a", "git.auth.appId=1"],
    "set gitSync.period instead": ["source=git-sync", "git.interval=10s"],
    "config.definitions is set and source is git": ["config.definitions=/definitions"],
    "set git.repository instead of config.gitUrl": ["config.gitUrl=https://git.example.com/a.git"],
    "verify is commit without keys": ["verify=commit"],
    "verify is tag and source is git-sync": ["source=git-sync", "verify=tag", "allowedKeys.existingConfigMap=a"],
    "set calry.apiKey.existingSecret ": ["calry.apiKey.existingSecret="],
    "set definitions.existingConfigMap ": ["source=configmap"],
    "set apiKey.existingSecret of the workspace a ": ["workspaces[0].name=a"],
    "set existingConfigMap of the workspace a ": [
        "source=configmap", "workspaces[0].name=a", "workspaces[0].apiKey.existingSecret=a",
    ],
    "set backups.existingClaim ": ["backups.recipients[0]=age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"],
    "workspaces and config.workspaces are both set": [
        "workspaces[0].name=a", "workspaces[0].apiKey.existingSecret=a", "config.workspaces[0].name=b",
    ],
    "set calry.apiUrl instead of config.apiUrl": ["config.apiUrl=https://calry.example.com"],
    "set leaderElection.leaseName instead of config.leaseName": ["config.leaseName=a"],
    "replicaCount is 2 without leaderElection.enabled": ["leaderElection.enabled=false"],
    "replicaCount is 2 with persistence.enabled": ["persistence.enabled=true"],
    "shards is 2 without leaderElection.enabled": ["shards=2", "replicaCount=1", "leaderElection.enabled=false"],
    "allowedSigners is set and source is configmap.* set source to git": [
        "allowedSigners.existingConfigMap=signers", "source=configmap", "definitions.existingConfigMap=a",
    ],
    "allowedKeys is set and source is configmap": [
        "allowedKeys.existingConfigMap=keys", "source=configmap", "definitions.existingConfigMap=a",
    ],
}


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise AssertionError(f"{command}: {done.stderr}{done.stdout}")
    return done.stdout


def objects(text):
    """The objects by kind. There is one of each, but for the ConfigMap of the dashboard."""
    documents = [document for document in yaml.safe_load_all(text) if document]
    return {
        "Dashboard" if one["metadata"]["name"].endswith("-dashboard") else one["kind"]: one for one in documents
    }


@functools.cache
def kustomized(directory):
    return run(os.environ["KUSTOMIZE"], "build", KUSTOMIZE / directory)


@functools.cache
def helmed(*values):
    settings = [f"--set={value}" for value in (*COMMON, *values)]
    return run(os.environ["HELM"], "template", "calry-gitops", PACKAGE, *KUBERNETES, *settings)


@functools.cache
def filed(name):
    values = CHART / "ci" / f"{name}-values.yaml"
    return run(os.environ["HELM"], "template", "calry-gitops", PACKAGE, *KUBERNETES, "--values", values)


def renders():
    """Everything that the manifests make, by a name."""
    for directory, values in PAIRS.items():
        yield directory, kustomized(directory)
        yield f"helm {values}", helmed(*values)
    for values in VALUES:
        yield f"helm {values}", helmed(*values)
    for name in FILES:
        yield f"helm {name}", filed(name)


def pod(made):
    return made["Deployment"]["spec"]["template"]["spec"]


def daemon(made):
    return next(container for container in pod(made)["containers"] if container["name"] == "calry-gitops")


def variables(made):
    """The settings of the daemon among its variables."""
    return {one["name"]: one["value"] for one in daemon(made)["env"] if "value" in one}


def elects(made):
    return variables(made).get("CALRY_LEADER_ELECTION") == "true"


def posts(made):
    return variables(made).get("CALRY_KUBERNETES_EVENTS") == "true"


def asks(made):
    """Whether the daemon asks something of the API server: for a Lease, or to post Events."""
    return elects(made) or posts(made)


def mounted(text, made, root):
    """A path of the container, or a text with such paths, as it is below a directory."""
    paths = sorted((mount["mountPath"] for mount in daemon(made)["volumeMounts"]), key=len, reverse=True)
    return re.sub(rf"(?<![\w/.-])({'|'.join(map(re.escape, paths))})(?![\w.-])", rf"{root}\1", text)


def started(made, root):
    """The command line and the variables of the container, with its volumes below a directory."""
    for mount in daemon(made)["volumeMounts"]:
        volume = next(volume for volume in pod(made)["volumes"] if volume["name"] == mount["name"])
        at = Path(f"{root}{mount['mountPath']}")
        at.mkdir(parents=True, exist_ok=True)
        config = made.get("ConfigMap", {"metadata": {"name": ""}})
        if volume.get("configMap", {}).get("name") == config["metadata"]["name"]:
            for name, text in config["data"].items():
                (at / name).write_text(mounted(text, made, root))
    environment = {
        one["name"]: mounted(one["value"], made, root) if "value" in one else f"any-{one['valueFrom']['fieldRef']['fieldPath']}"
        for one in daemon(made)["env"]
        # Not set if the Secret has no such key.
        if not one.get("valueFrom", {}).get("secretKeyRef", {}).get("optional")
    }
    if "POD_IP" in environment:
        environment["POD_IP"] = "192.0.2.7"
    args = [mounted(arg, made, root) for arg in daemon(made)["args"]]
    return [os.environ["CALRY_GITOPS"], *args], environment


def effective(made):
    """What the daemon runs by: settings of the process, and those of each workspace."""
    with tempfile.TemporaryDirectory() as root:
        command, environment = started(made, root)
        ran = subprocess.run([*command, "--print-config"], env=environment, capture_output=True, text=True, timeout=60)
        if ran.returncode:
            raise AssertionError(f"{command}: {ran.returncode} {ran.stderr}")
        top = yaml.safe_load(ran.stdout.replace(root, ""))
        return top, top.get("workspaces", [top])


def bare(value):
    """Without labels of the tool and hashes, and without the order of lists whose items have names."""
    if isinstance(value, dict):
        return {
            key: yaml.safe_load(item) if key == "calry-gitops.yaml" else bare(item) for key, item in value.items()
            if not re.match(r"app\.kubernetes\.io/|helm\.sh/|checksum/", key) and not (key == "labels" and not bare(item))
        }
    if isinstance(value, list):
        items = [bare(item) for item in value]
        for key in ("mountPath", "name"):
            if items and all(isinstance(item, dict) and key in item for item in items):
                return sorted(items, key=lambda item: item[key])
        return items
    # kustomize appends a hash of what is in a ConfigMap.
    return re.sub(r"^(calry-gitops-config)-\w{10}$", r"\1", value) if isinstance(value, str) else value


def not_restricted(spec):
    """Each rule of the restricted Pod Security profile that a Pod breaks."""
    broken = []
    if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        broken.append("host namespaces")
    allowed = {
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
    }
    broken += [f"volume {volume['name']}" for volume in spec["volumes"] if set(volume) - {"name"} - allowed]
    whole = spec.get("securityContext", {})
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container.get("securityContext", {})
        both = {**whole, **own}
        capabilities = own.get("capabilities", {})
        rules = {
            "privileged": not own.get("privileged"),
            "privilege escalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": capabilities.get("drop") == ["ALL"] and not capabilities.get("add"),
            "root": both.get("runAsNonRoot") is True,
            "user": both.get("runAsUser") != 0,
            "seccomp": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "proc": own.get("procMount", "Default") == "Default",
            "host ports": not any("hostPort" in port for port in container.get("ports", [])),
        }
        broken += [f"{container['name']}: {rule}" for rule, holds in rules.items() if not holds]
    return broken


class Manifests(unittest.TestCase):
    maxDiff = None

    def each(self):
        for name, text in renders():
            with self.subTest(name):
                yield objects(text)

    def test_kustomize_and_helm_differ_in_nothing_but_labels(self):
        for directory, values in PAIRS.items():
            with self.subTest(directory):
                one, other = objects(kustomized(directory)), objects(helmed(*values))
                if directory != "overlays/workspaces":
                    # The chart takes a ConfigMap that is there; the overlay makes it.
                    one.pop("ConfigMap", None)
                self.assertEqual(bare(one), bare(other))

    def test_every_selector_selects_what_it_is_for_and_the_policy_still_finds_dns(self):
        for made in self.each():
            labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
            selectors = {
                "Deployment": made["Deployment"]["spec"]["selector"]["matchLabels"],
                "Service": made["Service"]["spec"]["selector"],
                "PodDisruptionBudget": made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
                "NetworkPolicy": made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
            }
            for kind, selector in selectors.items():
                self.assertTrue(selector and selector.items() <= labels, kind)
            # The replicas of a release reach each other, and no other Pods of the namespace.
            policy = made["NetworkPolicy"]["spec"]
            peers = [
                rule for way, side in (("ingress", "from"), ("egress", "to")) for rule in policy[way]
                if [set(peer) for peer in rule[side]] == [{"podSelector"}] and rule[side][0]["podSelector"] == policy["podSelector"]
            ]
            self.assertEqual([rule["ports"] for rule in peers],
                             [[{"port": port, "protocol": "TCP"}] for port in ("http", 8080)] * elects(made))
            if "ServiceMonitor" in made:
                selector = made["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
                self.assertTrue(selector and selector <= made["Service"]["metadata"]["labels"].items())
            dns = made["NetworkPolicy"]["spec"]["egress"][0]["to"][0]["podSelector"]["matchLabels"]
            self.assertEqual(dns, {"k8s-app": "kube-dns"})

    def test_only_scrapes_come_in_and_only_dns_calry_git_and_the_api_server_are_reached(self):
        for made in self.each():
            policy = made["NetworkPolicy"]["spec"]
            self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
            scrapes = policy["ingress"][0]
            self.assertEqual([port["port"] for port in scrapes["ports"]], ["http"])
            self.assertTrue(all("namespaceSelector" in peer for peer in scrapes["from"]))
            names, world, *servers = policy["egress"]
            self.assertEqual({port["port"] for port in names["ports"]}, {53})
            git = next((one for one in pod(made)["containers"] if one["name"] == "git-sync"), None)
            is_ssh = git is not None and any(str(one.get("value")).startswith("ssh:") for one in git["env"])
            self.assertEqual(22 in [port["port"] for port in world["ports"]], is_ssh)
            for server in servers[: int(asks(made))]:
                for peer in server["to"]:
                    # 192.0.2.0/24 is for documentation.
                    network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
                    self.assertTrue(network.is_private or network == ipaddress.ip_network("100.64.0.0/10"), network)

    def test_the_policy_follows_every_address(self):
        for values, ports in (
            ([], [443]),
            (["source=git-sync", "git.repository=git@git.example.com:acme/definitions.git"], [22, 443]),
            (["source=git-sync", "git.repository=ssh://git@git.example.com:2222/acme.git"], [2222, 443]),
            (["git.repository=https://git.example.com:8443/acme.git"], [443, 8443]),
            (["calry.apiUrl=https://calry.example.com:4443"], [443, 4443]),
            (["calry.apiUrl=http://calry.example"], [443, 80]),
            (["workspaces[0].name=a", "workspaces[0].apiKey.existingSecret=a",
              "workspaces[0].config.gitUrl=https://git.example.com:8444/a.git"], [443, 8444]),
            (["proxy.url=http://user:word@proxy.example.com:3128", "otlp.endpoint=http://[fd00::1]:4318/v1"], [3128, 4318, 443]),
            (["extraEnv[0].name=HTTPS_PROXY", "extraEnv[0].value=http://proxy.example.com:3129"], [3129, 443]),
            (["notifications.targets[0].name=a", "notifications.targets[0].webhook.url=https://a.example:9443/b?c=d:1"],
             [443, 9443]),
            (["workspaces[0].name=a", "workspaces[0].apiKey.existingSecret=a",
              "workspaces[0].config.apiUrl=https://calry.example.com:4444"], [443, 4444]),
            (["source=configmap", "definitions.existingConfigMap=a", "git.repository=ssh://git@a.example/b"], [443]),
        ):
            with self.subTest(values):
                _, world, server, _ = objects(helmed(*values))["NetworkPolicy"]["spec"]["egress"]
                self.assertEqual([port["port"] for port in world["ports"]], ports)
                self.assertEqual([port["port"] for port in server["ports"]], [443, 6443])
        policy = objects(filed("page"))["NetworkPolicy"]["spec"]
        self.assertEqual([port["port"] for port in policy["egress"][1]["ports"]], [3128, 4318, 4443, 8443, 9443])
        self.assertEqual((len(policy["ingress"]), len(policy["egress"])), (3, 5))

    def test_every_pod_is_restricted(self):
        for made in self.each():
            self.assertEqual(not_restricted(pod(made)), [])

    def test_what_is_not_restricted_is_found(self):
        good = pod(objects(kustomized("base")))

        def own(spec):
            return spec["containers"][0]["securityContext"]

        faults = {
            "host namespaces": lambda spec: spec.update(hostNetwork=True),
            "volume git": lambda spec: spec["volumes"][0].update(hostPath={"path": "/"}),
            "privileged": lambda spec: own(spec).update(privileged=True),
            "privilege escalation": lambda spec: own(spec).pop("allowPrivilegeEscalation"),
            "capabilities": lambda spec: own(spec).pop("capabilities"),
            "root": lambda spec: spec["securityContext"].pop("runAsNonRoot"),
            "user": lambda spec: own(spec).update(runAsUser=0),
            "seccomp": lambda spec: spec["securityContext"].pop("seccompProfile"),
        }
        for rule, fault in faults.items():
            spec = copy.deepcopy(good)
            fault(spec)
            self.assertTrue(any(rule in broken for broken in not_restricted(spec)), rule)

    def test_containers_are_bounded_pinned_and_read_only(self):
        for made in self.each():
            for container in pod(made)["containers"]:
                self.assertRegex(container["image"], r"(:v?\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$")
                self.assertLessEqual({"requests", "limits"}, set(container["resources"]))
                self.assertIn("memory", container["resources"]["requests"])
                self.assertIn("memory", container["resources"]["limits"])
                self.assertIs(container["securityContext"]["readOnlyRootFilesystem"], True)

    def test_the_daemon_alone_has_a_token_where_it_asks_something_and_an_hour_is_its_end(self):
        for made in self.each():
            self.assertIs(made["ServiceAccount"]["automountServiceAccountToken"], False)
            self.assertIs(pod(made)["automountServiceAccountToken"], False)
            self.assertEqual(pod(made)["serviceAccountName"], made["ServiceAccount"]["metadata"]["name"])
            tokens = {
                volume["name"]: source["serviceAccountToken"] for volume in pod(made)["volumes"]
                for source in volume.get("projected", {}).get("sources", []) if "serviceAccountToken" in source
            }
            # What is asked for with 3607 seconds, an API server gives for a year.
            self.assertEqual(list(tokens.values()), [{"path": "token", "expirationSeconds": 3600}] * asks(made))
            mounts = [
                (container["name"], mount["mountPath"], mount.get("readOnly")) for container in pod(made)["containers"]
                for mount in container.get("volumeMounts", []) if mount["name"] in tokens
            ]
            place = ("calry-gitops", "/var/run/secrets/kubernetes.io/serviceaccount", True)
            self.assertEqual(mounts, [place] * asks(made))

    def test_it_may_use_its_leases_and_post_events_and_nothing_else(self):
        for made in self.each():
            self.assertEqual("Role" in made, asks(made))
            self.assertEqual("RoleBinding" in made, asks(made))
            if not asks(made):
                continue
            settings = variables(made)
            name, shards = settings.get("CALRY_LEASE_NAME"), int(settings.get("CALRY_SHARDS", 1))
            names = [name] if shards == 1 else [f"{name}-{shard}" for shard in range(shards)]
            leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
            events = {"apiGroups": ["events.k8s.io"], "resources": ["events"]}
            wanted = []
            if elects(made):
                wanted += [leases | {"verbs": ["create"]}]
                wanted += [leases | {"resourceNames": names, "verbs": ["get", "update"]}]
            if posts(made):
                wanted += [events | {"verbs": ["create"]}]
            self.assertEqual(made["Role"]["rules"], wanted)
            binding = made["RoleBinding"]
            role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": made["Role"]["metadata"]["name"]}
            self.assertEqual(binding["roleRef"], role)
            account = {"kind": "ServiceAccount", "name": pod(made)["serviceAccountName"]}
            self.assertEqual(binding["subjects"], [account])
            fields = {
                variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"]
                for variable in daemon(made)["env"] if variable["name"].startswith("POD_")
            }
            self.assertEqual(fields, {
                "POD_IP": "status.podIP", "POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_UID": "metadata.uid",
            })

    def test_several_run_only_with_a_lease_and_what_cannot_be_shared_ends_before_the_next_begins(self):
        seen = set()
        for made in self.each():
            spec = made["Deployment"]["spec"]
            claims = any("persistentVolumeClaim" in volume for volume in pod(made)["volumes"])
            seen.add((elects(made), claims))
            if elects(made) and not claims:
                hand_over = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
                self.assertEqual(spec["strategy"], hand_over)
            else:
                self.assertEqual(spec["replicas"], 1)
                self.assertEqual(spec["strategy"], {"type": "Recreate"})
            self.assertGreater(pod(made)["terminationGracePeriodSeconds"], 20 + 3 + 3)
        self.assertEqual(seen, {(True, False), (True, True), (False, True), (False, False)})
        self.assertEqual(objects(kustomized("base"))["Deployment"]["spec"]["replicas"], 2)

    def test_replicas_go_to_different_nodes_and_those_of_a_rollout_among_themselves(self):
        for tool in (kustomized("base"), helmed()):
            made = objects(tool)
            (spread,) = pod(made)["topologySpreadConstraints"]
            self.assertEqual(spread["labelSelector"], made["Deployment"]["spec"]["selector"])
            self.assertEqual(spread["matchLabelKeys"], ["pod-template-hash"])
            self.assertEqual(spread["topologyKey"], "kubernetes.io/hostname")
            self.assertEqual(spread["whenUnsatisfiable"], "ScheduleAnyway")

    def test_every_variable_is_one_of_the_program_and_holds_no_default_unless_a_value_says_so(self):
        known = re.sub(r"\s+", " ", run(os.environ["CALRY_GITOPS"], "run", "--help"))
        others = {"HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "OTEL_EXPORTER_OTLP_ENDPOINT"}
        for made in self.each():
            for name in set(variables(made)) - others:
                self.assertIn(f"[env: {name}]", known)
        for directory in PAIRS:
            for name, value in variables(objects(kustomized(directory))).items():
                # The name of the Lease is in the Role as well.
                if name != "CALRY_LEASE_NAME":
                    self.assertNotIn(f"[env: {name}] [default: {value}]", known)

    def test_every_path_is_in_a_volume_and_the_probes_reach_the_port(self):
        for made in self.each():
            mounts = {mount["mountPath"]: mount for mount in daemon(made)["volumeMounts"]}
            paths = [(name, value) for name, value in variables(made).items() if value.startswith("/")]
            paths += [argument.partition("=")[::2] for argument in daemon(made)["args"]]
            config = yaml.safe_load(made.get("ConfigMap", {}).get("data", {}).get("calry-gitops.yaml", "{}"))
            paths += [item for workspace in config.get("workspaces", []) for item in workspace.items()]
            written = ("CALRY_BACKUP_DIR", "CALRY_GIT_DIR", "CALRY_STATE_DIR")
            for name, path in paths:
                if str(path).startswith("/"):
                    mount = next(mount for at, mount in mounts.items() if f"{path}/".startswith(f"{at}/"))
                    self.assertIs(mount.get("readOnly", False), name not in written, name)
            volumes = {volume["name"] for volume in pod(made)["volumes"]}
            used = {mount["name"] for container in pod(made)["containers"] for mount in container.get("volumeMounts", [])}
            self.assertEqual(volumes, used)
            ports = [(port["name"], port["containerPort"]) for port in daemon(made)["ports"]]
            self.assertEqual(ports, [("http", 8080)])
            for probe, path in {"livenessProbe": "/healthz", "readinessProbe": "/readyz"}.items():
                self.assertEqual(daemon(made)[probe]["httpGet"], {"path": path, "port": "http"})

    def test_values_reach_the_pod(self):
        made = objects(helmed(*VALUES[1]))
        spec = pod(made)
        self.assertEqual(spec["priorityClassName"], "system")
        self.assertEqual(spec["topologySpreadConstraints"][0]["topologyKey"], "zone")
        self.assertEqual(made["Deployment"]["spec"]["replicas"], 3)
        server = made["NetworkPolicy"]["spec"]["egress"][2]
        self.assertEqual(server["to"], [{"ipBlock": {"cidr": "192.0.2.1/32"}}])
        self.assertEqual(server["ports"], [{"port": 8443, "protocol": "TCP"}])
        made = objects(helmed(*VALUES[0]))
        state = next(volume for volume in pod(made)["volumes"] if volume["name"] == "state")
        self.assertEqual(state, {"name": "state", "persistentVolumeClaim": {"claimName": "calry-gitops-state"}})
        self.assertEqual(made["PersistentVolumeClaim"]["metadata"]["name"], "calry-gitops-state")
        secrets = {
            volume["name"]: volume["secret"]["secretName"] for volume in pod(objects(helmed(*VALUES[3])))["volumes"]
            if "secret" in volume
        }
        self.assertEqual(secrets, {
            "production-api-key": "prod", "production-secrets": "prod-partners", "staging-api-key": "staging",
            "notifications": "operations",
        })

    def test_the_page_is_behind_an_ingress_whose_host_the_daemon_accepts(self):
        made = objects(filed("page"))
        (rule,) = made["Ingress"]["spec"]["rules"]
        self.assertIn(f"--admin-host={rule['host']}", daemon(made)["args"])
        url = variables(objects(helmed("admin.externalUrl=https://proxy.example.com/calry")))["CALRY_EXTERNAL_URL"]
        self.assertEqual(url, "https://proxy.example.com/calry")
        (path,) = rule["http"]["paths"]
        service = made["Service"]
        self.assertEqual(path["backend"]["service"], {"name": service["metadata"]["name"], "port": {"name": "http"}})
        self.assertEqual(service["spec"]["ports"][0]["port"], 80)
        self.assertEqual(made["Secret"]["metadata"]["name"], "calry-gitops-github")
        self.assertTrue(all(one["metadata"]["labels"]["team"] == "integrations" for kind, one in made.items() if kind != "Secret"))
        names = [one["name"] for one in (*pod(made)["initContainers"], *pod(made)["containers"])]
        self.assertEqual(names, ["wait", "calry-gitops", "sidecar"])
        json.loads(made["Dashboard"]["data"]["calry-gitops.json"])

    def test_the_daemon_and_git_sync_use_the_proxy_and_the_private_ca(self):
        values = ["caBundle.existingConfigMap=ca", "proxy.url=http://proxy.example.com:3128", "proxy.noProxy=.example.internal"]
        proxy = {"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": ".example.internal"}
        ca, of_git = "/run/calry/ca-bundle/ca.crt", "/run/calry/git-ca-bundle/ca.crt"
        for more, daemons, git_syncs in (
            (["source=git"], {"SSL_CERT_FILE": ca}, None),
            (["source=git", "git.caBundle.existingConfigMap=b"], {"SSL_CERT_FILE": ca, "CALRY_GIT_CA_FILE": of_git}, None),
            (["source=git-sync"], {"SSL_CERT_FILE": ca}, {"GIT_SSL_CAINFO": ca}),
            (["source=git-sync", "git.caBundle.existingConfigMap=b"], {"SSL_CERT_FILE": ca}, {"GIT_SSL_CAINFO": of_git}),
        ):
            with self.subTest(more):
                of = {one["name"]: {env["name"]: env.get("value") for env in one["env"]}
                      for one in pod(objects(helmed(*values, *more)))["containers"]}  # fmt: skip
                self.assertLessEqual((proxy | daemons).items(), of["calry-gitops"].items())
                self.assertEqual("git-sync" in of, git_syncs is not None)
                self.assertLessEqual((proxy | (git_syncs or {})).items(), of.get("git-sync", proxy).items())

    def test_credentials_of_git_reach_the_container_that_fetches_and_no_other(self):
        files = {"CALRY_GIT_TOKEN_FILE", "CALRY_GIT_GITHUB_APP_KEY_FILE", "GITSYNC_PASSWORD_FILE", "GITSYNC_SSH_KEY_FILE"}
        for made in self.each():
            containers = pod(made)["containers"]
            readers = [one["name"] for one in containers if files & {env["name"] for env in one.get("env", [])}]
            mounts = [one["name"] for one in containers for mount in one.get("volumeMounts", []) if mount["name"] == "git"]
            self.assertEqual(readers, mounts)
            fetcher = "git-sync" if "git-sync" in [one["name"] for one in containers] else "calry-gitops"
            self.assertIn(readers, ([], [fetcher]))
        # A number of a file of values is floating point in Helm.
        self.assertEqual(variables(objects(filed("page")))["CALRY_GIT_GITHUB_APP_ID"], "1234567")

    def test_git_sync_fetches_the_commits_among_which_the_daemon_looks_for_a_trusted_one(self):
        for values, depth in (
            ([], None), (["allowedSigners.existingConfigMap=a"], "1000"), (["allowedKeys.existingConfigMap=a"], "1000"),
            (["allowedKeys.existingConfigMap=a", "gitSync.depth=7"], "7"), (["gitSync.depth=0"], "0"),
        ):
            (_, git_sync) = pod(objects(helmed("source=git-sync", *values)))["containers"]
            shown = {one["name"]: one.get("value") for one in git_sync["env"]}
            self.assertEqual(shown.get("GITSYNC_DEPTH"), depth, values)

    def test_openshift_chooses_user_and_group(self):
        spec = pod(objects(filed("openshift")))
        for context in (spec["securityContext"], *(one["securityContext"] for one in spec["containers"])):
            self.assertFalse({"runAsUser", "runAsGroup", "fsGroup"} & set(context), context)
        # Its DNS is in another namespace, and the policy is for the port on which the Pods listen.
        rules = objects(filed("openshift"))["NetworkPolicy"]["spec"]["egress"]
        ports = {
            (port["port"], port["protocol"])
            for rule in rules
            for port in rule["ports"]
            if {"kubernetes.io/metadata.name": "openshift-dns"}
            in [peer.get("namespaceSelector", {}).get("matchLabels") for peer in rule["to"]]
        }
        self.assertEqual(ports, {(5353, "UDP"), (5353, "TCP")})
        # The page has the same values.
        _, values = re.search(r"(?ms)^```yaml\n(# openshift.yaml)\n(.*?)^```", (Documentation.docs / "kubernetes.md").read_text()).groups()
        shipped = yaml.safe_load((CHART / "ci" / "openshift-values.yaml").read_text())
        for key, value in yaml.safe_load(values).items():
            self.assertLessEqual(value.items(), shipped[key].items())
        spec = pod(objects(helmed("source=git-sync", "podSecurityContext=null", "securityContext=null", "gitSync.securityContext=null")))
        self.assertFalse([one for one in (spec, *spec["containers"]) if "securityContext" in one])

    def test_another_account_and_role_can_be_used(self):
        made = objects(helmed("serviceAccount.create=false", "serviceAccount.name=calry"))
        self.assertNotIn("ServiceAccount", made)
        self.assertEqual(made["RoleBinding"]["subjects"][0]["name"], "calry")
        self.assertEqual(pod(made)["serviceAccountName"], "calry")
        self.assertEqual(pod(objects(helmed("serviceAccount.create=false")))["serviceAccountName"], "default")
        self.assertFalse({"Role", "RoleBinding"} & set(objects(helmed("rbac.create=false"))))

    def test_a_variable_is_set_once_and_a_changed_configuration_file_restarts_the_daemon(self):
        for made in self.each():
            names = [one["name"] for one in daemon(made)["env"]]
            self.assertEqual(len(names), len(set(names)), names)
        sums = {
            objects(helmed(f"config.interval={interval}"))["Deployment"]["spec"]["template"]
            ["metadata"]["annotations"]["checksum/config"]
            for interval in ("60s", "61s")
        }
        self.assertEqual(len(sums), 2)

    def test_names_may_be_digits(self):
        values = [
            "calry.apiKey.existingSecret=1", "calry.secrets.existingSecret=2", "git.auth.type=token",
            "git.auth.existingSecret=3", "leaderElection.leaseName=4", "caBundle.existingConfigMap=5",
            "allowedSigners.existingConfigMap=6", "notifications.existingSecret=7", "admin.token.existingSecret=8",
            "hooks.github.existingSecret=9", "priorityClassName=10", "git.caBundle.existingConfigMap=14",
            "allowedKeys.existingConfigMap=15", "networkPolicy.ingressNamespaces[0]=11",
            "persistence.existingClaim=12",
        ]  # fmt: skip
        for more in ([], ["replicaCount=1", "persistence.enabled=true"]):
            settings = [f"--set-string={value}" for value in values] + [f"--set={value}" for value in (*COMMON[:1], *more)]
            made = run(os.environ["HELM"], "template", "13", PACKAGE, *KUBERNETES, *settings)
            numbers = re.findall(r"(?m)^.*(?:[nN]ame|instance|value): \d+$", made)
            self.assertEqual(numbers, [])

    def test_the_notes_name_every_secret_that_the_pods_wait_for(self):
        with tempfile.TemporaryDirectory() as work:
            run("tar", "-xzf", PACKAGE, "-C", work)
            chart = Path(work, "calry-gitops")
            # Helm shows the notes only when it installs.
            notes = chart / "templates" / "NOTES.txt"
            text = notes.read_text()
            notes.unlink()
            wrapped = f'{{{{ define "notes" }}}}{text}{{{{ end }}}}\nnotes: {{{{ include "notes" . | toJson }}}}\n'
            (chart / "templates" / "notes.yaml").write_text(wrapped)
            for path in sorted((CHART / "ci").iterdir()):
                with self.subTest(path.name):
                    made = run(os.environ["HELM"], "template", "a", chart, *KUBERNETES, "--values", path)
                    documents = [one for one in yaml.safe_load_all(made) if one]
                    [shown] = [one["notes"] for one in documents if "notes" in one]
                    [spec] = [one["spec"]["template"]["spec"] for one in documents if one.get("kind") == "Deployment"]
                    secrets = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
                    wanted = {one["secretName"] for one in secrets if not one.get("optional")}
                    [line] = [line for line in shown.splitlines() if "when these Secrets exist:" in line]
                    self.assertEqual(set(line.partition("exist:")[2].split()), wanted)

    def test_wrong_values_are_refused(self):
        for name, values in REFUSED.items():
            with self.subTest(name), self.assertRaisesRegex(AssertionError, "don't meet the specifications"):
                helmed(*values)

    def test_values_that_do_not_go_together_are_refused_with_what_to_set(self):
        for sentence, values in INCOMPLETE.items():
            with self.subTest(sentence), self.assertRaisesRegex(AssertionError, f"(?m)^- .*{sentence}"):
                helmed(*values)
        # All of them at once.
        with self.assertRaisesRegex(AssertionError, "(?s)- set git.repository .*- set calry.apiKey.existingSecret "):
            run(os.environ["HELM"], "template", "calry-gitops", PACKAGE, *KUBERNETES)

    def test_every_value_is_in_the_schema(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        defs = {f"#/$defs/{name}": one for name, one in schema["$defs"].items()}

        def known(values, schema, at):
            schema = defs.get(schema.get("$ref"), schema)
            if isinstance(values, dict) and "additionalProperties" in schema and "properties" in schema:
                self.assertLessEqual(set(values), set(schema["properties"]), at)
                self.assertIs(schema["additionalProperties"], False, at)
                for key, value in values.items():
                    known(value, schema["properties"][key], f"{at}.{key}")

        known(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")

    def test_the_objects_are_what_kubernetes_takes(self):
        with tempfile.TemporaryDirectory() as work:
            for number, (_, text) in enumerate(renders()):
                for kind, made in objects(text).items():
                    if not made["apiVersion"].startswith("monitoring.coreos.com/"):
                        Path(work, f"{number}-{kind}.yaml").write_text(yaml.safe_dump(made))
            files = sorted(Path(work).iterdir())
            self.assertGreater(len(files), 30)

            def conform(version, *files):
                schemas = f"{os.environ['SCHEMAS']}/v{version}-local-strict/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
                run(os.environ["KUBECONFORM"], "-strict", "-schema-location", schemas, *files)

            for version in ("1.29.0", "1.37.0"):
                conform(version, *files)
            files[0].write_text(files[0].read_text() + "sepc: {}\n")
            with self.assertRaises(AssertionError):
                conform("1.37.0", files[0])


class Running(unittest.TestCase):
    """The real program, as each of the manifests starts it."""

    def test_the_daemon_runs_by_what_the_manifests_say(self):
        texts = {name: [kustomized(name), helmed(*values)] for name, values in PAIRS.items()}
        texts |= {number: [helmed(*values)] for number, values in enumerate(VALUES)}
        texts |= {name: [filed(name)] for name in FILES}
        self.assertEqual(set(texts), set(EFFECTIVE))
        for name, (process, workspaces) in EFFECTIVE.items():
            for text in texts[name]:
                with self.subTest(name):
                    top, each = effective(objects(text))
                    self.assertEqual({key: top.get(key) for key in process}, process)
                    self.assertEqual([{key: one.get(key) for key in want} for one, want in zip(each, workspaces)], workspaces)
                    self.assertEqual(len(each), len(workspaces))

    def test_the_overlay_for_signatures_takes_openpgp_keys_as_it_says(self):
        overlay = KUSTOMIZE / "overlays" / "signed"
        text = (overlay / "kustomization.yaml").read_text()
        more = yaml.safe_load(textwrap.dedent("".join(re.findall(r"(?m)^#(   (?!gpg ).*\n)", text))))
        with tempfile.TemporaryDirectory() as work:
            base = os.path.relpath(overlay / "../../base", os.path.realpath(work))
            whole = yaml.safe_load(text) | {"resources": [base]}
            for key, items in more.items():
                whole[key] += items
            for file in ("allowed_signers", "signed.yaml", "allowed-keys.yaml"):
                Path(work, file).write_text((overlay / file).read_text())
            Path(work, "allowed_keys.asc").write_text("")
            Path(work, "kustomization.yaml").write_text(yaml.safe_dump(whole))
            _, [workspace] = effective(objects(run(os.environ["KUSTOMIZE"], "build", work)))
        self.assertEqual(workspace["allowedKeys"], "/run/calry/allowed-keys/allowed_keys.asc")
        self.assertEqual(workspace["allowedSigners"], "/run/calry/allowed-signers/allowed_signers")

    @contextlib.contextmanager
    def program(self, command, environment, pattern):
        """A program that runs until the block ends, and what it printed of a pattern."""
        with tempfile.NamedTemporaryFile("r") as log:
            running = subprocess.Popen(command, env=environment, stdout=log.fileno(), stderr=subprocess.STDOUT)
            try:
                yield lambda: self.until(lambda: re.findall(pattern, Path(log.name).read_text()), log.name, running)
            finally:
                running.terminate()
                self.assertIn(running.wait(30), (0, -15), Path(log.name).read_text())

    def until(self, check, log, running):
        for _ in range(600):
            if (found := check()) or running.poll() is not None:
                break
            time.sleep(0.05)
        self.assertTrue(found, Path(log).read_text())
        return found

    def get(self, address, path):
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.read()

    def test_a_daemon_without_the_api_server_reconciles_and_answers_by_ipv4_and_ipv6(self):
        with self.program([os.environ["CALRY_GITOPS"], "sandbox", "--listen=127.0.0.1:0"], {}, r"(http://\S+)\s") as address, \
                self.program([os.environ["CALRY_GITOPS"], "sandbox", "--listen=127.0.0.1:0"], {}, r"(http://\S+)\s") as other:
            urls = [address()[0], other()[0]]
            for name, text, files in (
                ("single", helmed(*PAIRS["overlays/single"], *PAIRS["overlays/configmap"]), ["/definitions"]),
                ("configmap", helmed(*VALUES[4], f"workspaces[0].config.apiUrl={urls[0]}", f"workspaces[1].config.apiUrl={urls[1]}"),
                 ["/definitions/acme", "/definitions/globex"]),
            ):
                with self.subTest(name), tempfile.TemporaryDirectory() as root:
                    made = objects(text)
                    command, environment = started(made, root)
                    # A free port, and a Calry on this machine.
                    environment["CALRY_LISTEN"] = environment["CALRY_LISTEN"].replace(":8080", ":0")
                    if name == "single":
                        environment["CALRY_API_URL"] = urls[0]
                    for mount in daemon(made)["volumeMounts"]:
                        if mount["name"].endswith("api-key"):
                            key = "zepl.sandbox-write.not-a-secret.acme-production"
                            Path(f"{root}{mount['mountPath']}/api-key").write_text(key)
                    for directory in files:
                        Path(f"{root}{directory}").mkdir(parents=True, exist_ok=True)
                        Path(f"{root}{directory}/guesty.yaml").write_text(f"provider: GUESTY\nicon: https://x.example{directory}\n")
                    with self.program(command, environment, r"http://(?:\[::\]|0\.0\.0\.0):(\d+)") as listening:
                        port = listening()[0]
                        status = {}

                        def settled():
                            status.update(json.loads(self.get(f"[::1]:{port}", "/api/v1/status")))
                            return all(one.get("lastPass") for one in status["workspaces"])

                        for _ in range(600):
                            if settled():
                                break
                            time.sleep(0.05)
                        for address in (f"127.0.0.1:{port}", f"[::1]:{port}"):
                            self.assertTrue(self.get(address, "/healthz") and self.get(address, "/readyz"))
                    modes = [one["mode"] for one in status["workspaces"]]
                    self.assertEqual(modes, ["enforce", "observe"][: len(files)])
            icons = [self.icon(url) for url in urls]
            self.assertEqual(icons[0], "https://x.example/definitions/acme")
            self.assertNotIn("x.example", str(icons[1]), "observe writes nothing")

    def test_on_a_kernel_without_ipv6_it_answers_by_ipv4(self):
        with tempfile.TemporaryDirectory() as root:
            source, library = Path(root, "socket.c"), Path(root, "socket.so")
            source.write_text(
                "#include <errno.h>\n#include <sys/socket.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n"
                "int socket(int family, int type, int protocol) {\n"
                "  if (family == AF_INET6) { errno = EAFNOSUPPORT; return -1; }\n"
                "  return syscall(SYS_socket, family, type, protocol);\n}\n"
            )
            run("cc", "-shared", "-fPIC", "-o", library, source)
            made = objects(helmed(*PAIRS["overlays/single"], *PAIRS["overlays/configmap"]))
            command, environment = started(made, root)
            environment |= {"CALRY_LISTEN": "[::]:0", "LD_PRELOAD": str(library), "CALRY_API_URL": "http://127.0.0.1:9"}
            with self.program(command, environment, r"http://0\.0\.0\.0:(\d+)") as listening:
                self.assertTrue(self.get(f"127.0.0.1:{listening()[0]}", "/healthz"))

    def icon(self, url):
        ask = urllib.request.Request(
            f"{url}/api/v1/integration-definition/GUESTY",
            headers={"x-calry-api-key": "zepl.sandbox-read.not-a-secret.acme-production"},
        )
        with urllib.request.urlopen(ask, timeout=10) as answer:
            return json.load(answer).get("icon")


class Monitoring(unittest.TestCase):
    rules = yaml.safe_load(RULES.read_text())

    def test_the_rules_are_those_of_monitoring(self):
        again = "they differ: tests/manifests.sh --update"
        for text in (kustomized("overlays/monitoring"), helmed(*PAIRS["overlays/monitoring"])):
            self.assertEqual(objects(text)["PrometheusRule"]["spec"], self.rules, again)
            dashboard = json.loads((RULES.parent / "calry-gitops.dashboard.json").read_text())
            made = objects(text)["Dashboard"]
            self.assertEqual(json.loads(made["data"]["calry-gitops.json"]), dashboard)
            self.assertEqual(made["metadata"]["labels"]["grafana_dashboard"], "1")

    def test_each_object_of_monitoring_has_a_switch(self):
        kinds = {"serviceMonitor": "ServiceMonitor", "prometheusRule": "PrometheusRule", "dashboard": "Dashboard"}
        for value, kind in kinds.items():
            made = set(objects(helmed(f"{value}.enabled=true")))
            self.assertEqual(made & set(kinds.values()), {kind})


class Documentation(unittest.TestCase):
    docs = DEPLOY.parent / "docs"

    def test_every_alert_links_to_its_section(self):
        rules = [rule for group in Monitoring.rules["groups"] for rule in group["rules"]]
        page = "https://github.com/calry-gitops/calry-gitops/blob/main/docs/monitoring.md"
        for rule in rules:
            self.assertEqual(rule["annotations"]["runbook_url"], f"{page}#{rule['alert'].lower()}")
        sections = re.findall(r"(?m)^### (CalryGitops\w+)$", (self.docs / "monitoring.md").read_text())
        self.assertEqual(sections, [rule["alert"] for rule in rules])

    def test_the_commands_of_helm_and_kustomize_work(self):
        text = (Documentation.docs / "kubernetes.md").read_text()
        commands = re.sub(r"\\\n *", "", text)
        installs = re.findall(r"(?m)^ *helm upgrade --install (.*)$", commands)
        applies = re.findall(r"(?m)^ *kubectl apply -k (\S+)", commands)
        files = {name: textwrap.dedent(content) for _, name, content in
                 re.findall(r"(?ms)^( *)```yaml\n\1# (\S+)\n(.*?)^\1```", text)}  # fmt: skip
        overlay = files.pop("kustomization.yaml")
        self.assertTrue(installs and files)
        # Every file of values is for a release that values.yaml describes.
        installs += [f"{installs[0]} --values {name}" for name in files if name not in commands.replace(f"# {name}", "")]
        with tempfile.TemporaryDirectory() as work:
            for name, values in files.items():
                Path(work, name).write_text(values)
            for install in installs:
                with self.subTest(install):
                    name, chart, *rest = shlex.split(install)
                    self.assertEqual(chart, "oci://ghcr.io/calry-gitops/charts/calry-gitops")
                    rest = [os.path.join(work, arg) if arg in files else arg for arg in rest]
                    effective(objects(run(os.environ["HELM"], "template", name, PACKAGE, *KUBERNETES, *rest)))
        self.assertEqual(applies, ["."])
        with tempfile.TemporaryDirectory() as work:
            # Of this checkout instead of a release.
            base = os.path.relpath(KUSTOMIZE / "base", os.path.realpath(work))
            overlay, replaced = re.subn(r"https://\S+//deploy/kubernetes/base\?ref=v[\d.]+", base, overlay)
            self.assertEqual(replaced, 1)
            Path(work, "kustomization.yaml").write_text(overlay)
            top, _ = effective(objects(run(os.environ["KUSTOMIZE"], "build", work)))
        self.assertEqual((top["mode"], top["gitUrl"]), ("observe", "https://git.example.com/acme/definitions.git"))

    def test_the_readme_of_the_chart_describes_every_value(self):
        made = run(os.environ["HELM_DOCS"], "--dry-run", "--log-level=warning", "--sort-values-order=file",
                   f"--chart-search-root={CHART}")
        readme = (CHART / "README.md").read_text()
        self.assertEqual(made.strip(), readme.strip(), "it is out of date: tests/manifests.sh --update")
        rows = re.findall(r"(?m)^\| ([\w.]+(?:\[\d\])?[\w.]*) \|.*\| (.*) \|$", readme)
        self.assertGreater(len(rows), 100)
        self.assertEqual([name for name, description in rows if not description.strip()], [])

    def test_the_chart_is_described_for_artifact_hub_and_names_the_images(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        for key in ("description", "home", "icon", "sources", "keywords", "maintainers"):
            self.assertTrue(chart.get(key), key)
        annotations = chart["annotations"]
        images = [one["image"] for one in yaml.safe_load(annotations["artifacthub.io/images"])]
        for text, shown in ((helmed(), images[:1]), (kustomized("base"), images[:1]), (helmed("source=git-sync"), images),
                            (kustomized("overlays/git-sync"), images)):  # fmt: skip
            self.assertEqual([one["image"] for one in pod(objects(text))["containers"]], shown)
        self.assertIn(chart["appVersion"], images[0])
        for link in (chart["icon"], *(one["url"] for one in yaml.safe_load(annotations["artifacthub.io/links"]))):
            _, at = re.split(r"/(?:blob/)?main/", link)
            self.assertTrue((DEPLOY.parent / at).exists(), link)

    def test_every_link_leads_to_a_file(self):
        for page in (DEPLOY.parent / "README.md", DEPLOY / "README.md", *self.docs.glob("*.md")):
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
                self.assertTrue((page.parent / link).exists(), f"{page.name}: {link}")


if __name__ == "__main__":
    unittest.main()
