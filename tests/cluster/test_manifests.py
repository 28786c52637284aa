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
COMMON = ["git.repository=https://git.example.com/acme/definitions.git", "calry.apiKey.existingSecret=calry-gitops-api-key"]
VALUES = [
    [], ["shards=3", "replicaCount=3"],
    ["replicaCount=1", "leaderElection.enabled=false", "events.enabled=false", "persistence.enabled=true"],
    ["workspaces[0].name=production", "workspaces[0].apiKey.existingSecret=production", "config.interval=2m"],
]
FILES = sorted((CHART / "ci").iterdir())


def template(*values, file=None):
    """The chart as Helm sends it."""
    settings = [f"--values={file}"] if file else [f"--set={value}" for value in (*COMMON, *values)]
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
        """A function that applies each of them to a new namespace, and that namespace."""
        self.assertGreaterEqual(len(DIRECTORIES), 4)
        for directory in DIRECTORIES:
            with self.subTest(directory.name):
                namespace = self.cluster.namespace()
                yield namespace, lambda: self.apply(namespace, "--kustomize", directory)
        made = {str(values): template(*values) for values in VALUES} | {file.name: template(file=file) for file in FILES}
        for name, text in made.items():
            with self.subTest(name):
                namespace = self.cluster.namespace()
                yield namespace, lambda: self.apply(namespace, "--filename=-", stdin=text)

    def test_they_are_taken_without_a_warning_and_applied_again_they_change_nothing(self):
        for _, apply in self.each():
            made, again = apply(), apply()
            self.assertGreaterEqual(len(made), 5)
            for claim in (one for one in made + again if one["kind"] == "PersistentVolumeClaim"):
                # The API server stores a claim that is applied again, as it was.
                del claim["metadata"]["resourceVersion"]
            self.assertEqual(made, again)

    def test_helm_installs_upgrades_rolls_back_and_uninstalls(self):
        namespace = self.cluster.namespace()

        def helm(*arguments):
            command = [os.environ["HELM"], *arguments, f"--kubeconfig={self.cluster.kubeconfig_of_admin}", f"--namespace={namespace}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            return done.returncode, done.stdout + done.stderr

        def interval():
            text = self.cluster.get(f"/api/v1/namespaces/{namespace}/configmaps/calry-gitops-config")["data"]["calry-gitops.yaml"]
            return text.strip()

        upgrade = ["upgrade", "--install", "calry-gitops", CHART]
        code, said = helm(*upgrade)
        self.assertEqual((code, "- set git.repository to " in said), (1, True), said)
        values = [f"--set={value}" for value in (*COMMON, "persistence.enabled=true", "replicaCount=1")]
        code, said = helm(*upgrade, *values, "--set=config.interval=2m")
        self.assertEqual(code, 0, said)
        self.assertRegex(said, "(?m)when these Secrets exist: calry-gitops-api-key$")
        self.assertIn(f"kubectl --namespace {namespace} exec deployment/calry-gitops ", said)
        self.assertIn(f"kubectl --namespace {namespace} get lease calry-gitops\n", said)
        self.assertEqual(interval(), "interval: 2m")
        code, said = helm(*upgrade, *values, "--set=config.interval=3m")
        self.assertEqual((code, interval()), (0, "interval: 3m"), said)
        code, said = helm("rollback", "calry-gitops", "1")
        self.assertEqual((code, interval()), (0, "interval: 2m"), said)
        code, said = helm("uninstall", "calry-gitops")
        self.assertEqual(code, 0, said)
        self.assertEqual(self.cluster.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"], [])
        # The memory of the daemon outlives the release.
        (claim,) = self.cluster.get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims")["items"]
        self.assertEqual(claim["metadata"]["name"], "calry-gitops-state")

    def test_their_pods_are_admitted_where_the_restricted_profile_is_enforced(self):
        for namespace, apply in self.each():
            for one in apply():
                if one["kind"] == "Deployment":
                    self.pod(namespace, one)
            (pod,) = self.cluster.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
            self.assertEqual(pod["spec"]["serviceAccountName"], "calry-gitops")
            self.assertEqual({one["image"].split(":")[0] for one in pod["spec"]["containers"]} - {
                "ghcr.io/calry-gitops/calry-gitops", "registry.k8s.io/git-sync/git-sync", "busybox",
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
            # A Deployment itself is accepted, with a warning.
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
