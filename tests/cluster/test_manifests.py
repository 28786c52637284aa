"""What the manifests promise, judged by the API server that is to take them: that it does, without a warning, where the
restricted profile is enforced."""

import atexit
import functools
import json
import os
import signal
import subprocess
import unittest
from pathlib import Path

from cluster import PROGRAMS, Cluster

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "calry-gitops"
DIRECTORIES = sorted(path.parent for path in (DEPLOY / "kubernetes").rglob("kustomization.yaml"))
VALUES = [
    [], ["source=configmap"], ["monitoring.enabled=true"], ["shards=3", "replicas=3"],
    ["replicas=1", "leaderElection.enabled=false", "events.enabled=false", "state.claimName=calry-gitops-state"],
    ["workspaces[0].name=production", "workspaces[1].name=staging", "config.interval=2m"],
]


def template(*values):
    """The chart as Helm sends it."""
    settings = [f"--set={value}" for value in values]
    # A Helm that go installed knows no Kubernetes of its own.
    command = [os.environ["HELM"], "template", "calry-gitops", CHART, "--kube-version", "1.29", *settings]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@functools.cache
def cluster():
    """One for all tests, each of which is in a namespace of its own."""
    cluster = Cluster()
    atexit.register(cluster.close)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster.kubectl("create", "--filename", PROGRAMS / "crds")
    cluster.kubectl("wait", "--for=condition=Established", "customresourcedefinitions", "--all")
    return cluster


class OnACluster(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.cluster = cluster()

    @classmethod
    def apply(cls, namespace, *what, stdin=None):
        """The objects that came of it, as the API server has them."""
        made = cls.cluster.kubectl(
            "apply", "--server-side", "--validate=strict", "--output=json", f"--namespace={namespace}", *what,
            stdin=stdin,
        )
        made = json.loads(made)
        return made["items"] if made["kind"] == "List" else [made]

    def pod(self, namespace, deployment):
        """Makes the Pod that the controllers, which are not there, would make of a Deployment."""
        template = deployment["spec"]["template"]
        made = {"apiVersion": "v1", "kind": "Pod", **template}
        made["metadata"] = {**template["metadata"], "generateName": "calry-gitops-"}
        self.cluster.kubectl(
            "create", "--validate=strict", f"--namespace={namespace}", "--filename=-", stdin=json.dumps(made)
        )


class Manifests(OnACluster):
    def each(self):
        """A way to apply each of them to a new namespace, and that namespace."""
        self.assertGreaterEqual(len(DIRECTORIES), 4)
        for directory in DIRECTORIES:
            with self.subTest(directory.name):
                namespace = self.cluster.namespace()
                yield namespace, lambda: self.apply(namespace, "--kustomize", directory)
        for values in VALUES:
            with self.subTest(values):
                namespace = self.cluster.namespace()
                yield namespace, lambda: self.apply(namespace, "--filename=-", stdin=template(*values))

    def test_they_are_taken_without_a_warning_and_applied_again_they_change_nothing(self):
        for _, apply in self.each():
            made = apply()
            self.assertGreaterEqual(len(made), 5)
            self.assertEqual(made, apply())

    def test_their_pods_are_admitted_where_the_restricted_profile_is_enforced(self):
        for namespace, apply in self.each():
            for one in apply():
                if one["kind"] == "Deployment":
                    self.pod(namespace, one)
            (pod,) = self.cluster.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
            self.assertEqual(pod["spec"]["serviceAccountName"], "calry-gitops")
            self.assertEqual({one["image"].split(":")[0] for one in pod["spec"]["containers"]} - {
                "calry-gitops", "registry.k8s.io/git-sync/git-sync",
            }, set())

    def test_what_breaks_the_profile_is_refused(self):
        namespace = self.cluster.namespace()
        made = self.apply(namespace, "--kustomize", DEPLOY / "kubernetes" / "base")
        deployment = json.dumps(next(one for one in made if one["kind"] == "Deployment"))
        for what, change in {
            "privileged": lambda one: one["securityContext"].update(privileged=True, allowPrivilegeEscalation=True),
            "runAsUser=0": lambda one: one["securityContext"].update(runAsUser=0),
            "unrestricted capabilities": lambda one: one["securityContext"].pop("capabilities"),
        }.items():
            spoilt = json.loads(deployment)
            change(spoilt["spec"]["template"]["spec"]["containers"][0])
            with self.assertRaisesRegex(AssertionError, rf"violates PodSecurity .*{what}"):
                self.pod(namespace, spoilt)
            # A Deployment itself is taken, with a warning.
            spoilt["metadata"] = {"name": "spoilt"}
            with self.assertRaisesRegex(AssertionError, rf"Warning: would violate PodSecurity .*{what}"):
                self.apply(namespace, "--filename=-", stdin=json.dumps(spoilt))

    def test_what_the_api_does_not_know_is_refused(self):
        namespace = self.cluster.namespace()
        for version, kind, more, why in (
            ("v1", "ServiceAccount", {"autoMount": True}, "autoMount: field not declared"),
            ("v1", "Service", {"spec": {"ports": []}}, "spec.ports: Required value"),
            ("monitoring.coreos.com/v1", "ServiceMonitor", {"spec": {"selector": {}, "endpoints": [{"prot": "http"}]}},
             "endpoints.*prot: field not declared"),
            ("monitoring.coreos.com/v1", "PrometheusRule",
             {"spec": {"groups": [{"name": "a", "rules": [{"alert": "a", "expr": "1", "for": "long"}]}]}},
             "rules.*for: Invalid value"),
        ):
            made = {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, **more}
            with self.assertRaisesRegex(AssertionError, why):
                self.apply(namespace, "--filename=-", stdin=json.dumps(made))
