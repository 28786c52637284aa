"""The permissions of the daemon's account, tried with its token: those for leader election and Events, and no others."""

import unittest

from test_manifests import DEPLOY, OnACluster, template

LEASE = "calry-gitops"
GROUP = "/apis/coordination.k8s.io/v1"
# What it may do with which resources, beyond what every account may.
ALLOWED = {
    ("coordination.k8s.io", "leases"): {"create", "get", "update"},
    ("events.k8s.io", "events"): {"create"},
}
# What every account may: ask about itself, and read certificates that every account may read.
EVERY_ACCOUNT = {"selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews", "clustertrustbundles"}
ASKED_BY = {"create": "POST", "delete": "DELETE", "deletecollection": "DELETE", "get": "GET", "list": "GET",
            "patch": "PATCH", "update": "PUT", "watch": "GET"}


def account(test, namespace, shards=1):
    """The daemon's account in a namespace to which the manifests were applied."""
    if shards == 1:
        made = test.apply(namespace, "--kustomize", DEPLOY / "kubernetes" / "base")
    else:
        made = test.apply(namespace, "--filename=-", stdin=template(f"shards={shards}"))
    kinds = {one["kind"]: one for one in made}
    (subject,) = kinds["RoleBinding"]["subjects"]
    assert subject["name"] == kinds["ServiceAccount"]["metadata"]["name"]
    return subject["name"]


def lease(name, **spec):
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}


class Permissions(OnACluster):
    def setUp(self):
        self.namespace = self.cluster.namespace()
        self.token = self.cluster.token(self.namespace, account(self, self.namespace))
        self.leases = f"{GROUP}/namespaces/{self.namespace}/leases"

    def ask(self, method, path, body=None, **more):
        return self.cluster.request(method, path, body, token=self.token, **more)

    def test_it_holds_its_lease_and_says_what_happened(self):
        status, made = self.ask("POST", self.leases, lease(LEASE))
        self.assertEqual(status, 201, made)
        made["spec"] = {"holderIdentity": "a", "leaseDurationSeconds": 15}
        status, held = self.ask("PUT", f"{self.leases}/{LEASE}", made)
        self.assertEqual(status, 200, held)
        status, read = self.ask("GET", f"{self.leases}/{LEASE}")
        self.assertEqual((status, read["spec"]["holderIdentity"]), (200, "a"))
        # The second writer with the same version does not get it.
        made["spec"]["holderIdentity"] = "b"
        status, refused = self.ask("PUT", f"{self.leases}/{LEASE}", made)
        self.assertEqual((status, refused["reason"]), (409, "Conflict"))
        status, event = self.ask("POST", f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events", {
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"generateName": "calry-gitops-"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "action": "Update", "reason": "Applied",
            "reportingController": "calry-gitops", "reportingInstance": "a", "note": "one",
            "regarding": {"kind": "Pod", "namespace": self.namespace, "name": "a"},
        })
        self.assertEqual(status, 201, event)

    def resources(self):
        """Everything that the API server serves: group, path of the version, and its description of the resource."""
        for version in self.cluster.get("/api")["versions"]:
            for resource in self.cluster.get(f"/api/{version}")["resources"]:
                yield "", f"/api/{version}", resource
        for group in self.cluster.get("/apis")["groups"]:
            for version in group["versions"]:
                path = f"/apis/{version['groupVersion']}"
                for resource in self.cluster.get(path)["resources"]:
                    yield group["name"], path, resource

    def attempts(self):
        """Each verb on each resource, in its namespace and others and over all of them: group, resource, verb,
        namespace, path of the request."""
        for group, path, resource in self.resources():
            name, _, part = resource["name"].partition("/")
            places = {None: path}
            if resource["namespaced"]:
                places |= {at: f"{path}/namespaces/{at}" for at in (self.namespace, "default", "kube-system")}
            for verb in resource["verbs"]:
                for namespace, place in places.items():
                    if resource["namespaced"] and namespace is None and (part or verb not in ("list", "watch")):
                        continue
                    at = f"{place}/{name}"
                    if part or verb in ("get", "update", "patch", "delete"):
                        at += f"/{LEASE}"
                    if part:
                        at += f"/{part}"
                    yield group, resource["name"], verb, namespace, at + ("?watch=1" if verb == "watch" else "")

    def test_whatever_else_there_is_it_may_not(self):
        # Without a body: an account with the permission gets another error, and creates nothing.
        allowed, tried, groups = set(), 0, set()
        for group, name, verb, namespace, path in self.attempts():
            if name in EVERY_ACCOUNT:
                continue
            content = "application/merge-patch+json" if verb == "patch" else "application/json"
            status, answer = self.ask(ASKED_BY[verb], path, content_type=content)
            tried, groups = tried + 1, groups | {group}
            if status != 403:
                self.assertNotEqual(status, 401, answer)
                allowed.add((group, name, verb, namespace))
        self.assertGreater(tried, 1000)
        self.assertLessEqual({"", "apps", "rbac.authorization.k8s.io", "monitoring.coreos.com"}, groups)
        self.assertEqual(allowed, {
            (group, name, verb, self.namespace) for (group, name), verbs in ALLOWED.items() for verb in verbs
        })

    def test_of_leases_it_reads_and_renews_its_own_alone(self):
        for namespace, name in ((self.namespace, "another"), ("default", LEASE), ("kube-system", LEASE)):
            path = f"{GROUP}/namespaces/{namespace}/leases"
            status, made = self.cluster.request("POST", path, lease(name, holderIdentity="another"))
            self.assertIn(status, (201, 409), made)
            self.assertEqual(self.ask("GET", f"{path}/{name}")[0], 403)
            self.assertEqual(self.ask("PUT", f"{path}/{name}", made)[0], 403)
            self.assertEqual(self.cluster.get(f"{path}/{name}")["spec"]["holderIdentity"], "another")

    def test_it_becomes_nobody_else_and_reads_nothing_of_the_server(self):
        self.assertEqual(self.ask("GET", "/api/v1/nodes", headers={"Impersonate-User": "admin"})[0], 403)
        for path in ("/metrics", "/logs", "/debug/pprof/", "/configz"):
            self.assertEqual(self.ask("GET", path)[0], 403, path)

    def test_with_shards_it_has_as_many_leases(self):
        namespace = self.cluster.namespace()
        token = self.cluster.token(namespace, account(self, namespace, shards=3))
        path = f"{GROUP}/namespaces/{namespace}/leases"
        for name, its in {f"{LEASE}-0": True, f"{LEASE}-2": True, f"{LEASE}-3": False, LEASE: False}.items():
            status, made = self.cluster.request("POST", path, lease(name), token=token)
            self.assertEqual(status, 201, made)
            for method, body in (("GET", None), ("PUT", made)):
                status, answer = self.cluster.request(method, f"{path}/{name}", body, token=token)
                self.assertEqual(status, 200 if its else 403, answer)

    def test_a_single_replica_may_nothing(self):
        namespace = self.cluster.namespace()
        self.apply(namespace, "--kustomize", DEPLOY / "kubernetes" / "overlays" / "single")
        token = self.cluster.token(namespace, "calry-gitops")
        for path in (f"{GROUP}/namespaces/{namespace}/leases", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"):
            self.assertEqual(self.cluster.request("POST", path, lease(LEASE), token=token)[0], 403)


del OnACluster

if __name__ == "__main__":
    unittest.main()
