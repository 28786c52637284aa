"""What the manifests promise: kustomize and Helm make the same, under the restricted Pod Security profile, and what the
manifests ask of the program it can do. HELM, KUSTOMIZE, VALIDATE and CALRY_GITOPS name the programs; nothing is
contacted."""

import copy
import functools
import ipaddress
import os
import re
import shlex
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
KUSTOMIZE = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm" / "calry-gitops"
RULES = DEPLOY / "monitoring" / "calry-gitops.rules.yaml"

# A Helm that go installed knows no Kubernetes of its own.
KUBERNETES = ["--kube-version", "1.29"]

# What stands in an overlay is what these values make.
PAIRS = {
    "base": [],
    "overlays/git-sync": [
        "git.repository=ssh://git@git.example.com/acme/definitions.git", "git.auth.type=ssh",
    ],
    "overlays/configmap": ["source=configmap"],
    "overlays/monitoring": ["monitoring.enabled=true"],
    "overlays/signed": [
        "git.repository=ssh://git@git.example.com/acme/definitions.git", "git.auth.type=ssh",
        "allowedSigners.configMapName=calry-gitops-allowed-signers",
    ],
    "overlays/single": [
        "replicas=1", "leaderElection.enabled=false", "events.enabled=false", "state.claimName=calry-gitops-state",
    ],
}
# And what only values make.
VALUES = [
    [
        "git.auth.type=token", "git.directory=", "image.digest=sha256:" + "a" * 64, "state.claimName=calry-state",
        "replicas=1", "events.enabled=false", "git.depth=0",
    ],
    [
        "priorityClassName=system", "topologySpreadConstraints[0].maxSkew=1",
        "topologySpreadConstraints[0].topologyKey=zone", "topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule",
        "topologySpreadConstraints[0].labelSelector.matchLabels.a=b", "tolerations[0].operator=Exists",
        "nodeSelector.disk=ssd", "imagePullSecrets[0].name=pull", "podLabels.team=a", "podAnnotations.note=b",
        "adminHosts={gitops.example.com,other.example.com}", "maxChanges=0", "mode=observe", "interval=90s",
        "calry.apiUrl=https://calry.example.com", "extraArgs={--concurrency=2,--strict}",
        "extraEnv[0].name=CALRY_MAX_CHANGES", "extraEnv[0].value=x", "extraVolumes[0].name=more",
        "extraVolumes[0].secret.secretName=more", "extraVolumeMounts[0].name=more",
        "extraVolumeMounts[0].mountPath=/run/calry/more", "extraVolumeMounts[0].readOnly=true",
        "serviceAccount.annotations.a=b", "networkPolicy.ingressNamespaces={ingress,monitoring}",
        "monitoring.enabled=true", "monitoring.labels.release=prometheus", "replicas=3", "shards=3",
        "leaderElection.leaseName=acme", "leaderElection.leaseDuration=30s", "leaderElection.renewDeadline=20s",
        "leaderElection.retryPeriod=4s", "networkPolicy.apiServer.port=8443",
        "networkPolicy.apiServer.cidrs={192.0.2.1/32}",
    ],
    ["replicas=1", "leaderElection.enabled=false"],
]
REFUSED = {
    "source": ["source=svn"],
    "mode": ["mode=force"],
    "interval": ["interval=60"],
    "maxChanges": ["maxChanges=-1"],
    "image.tag": ["image.tag=latest"],
    "image.digest": ["image.digest=sha256:1"],
    "git.repository": ["git.repository=http://git.example.com/a.git"],
    "a password in git.repository": ["git.repository=https://bot:secret@git.example.com/a.git"],
    "git.directory": ["git.directory=a/../../etc"],
    "git.auth.type": ["git.auth.type=password"],
    "git.image.tag": ["git.image.tag="],
    "calry.apiUrl": ["calry.apiUrl=calry.example.com"],
    "replicas": ["replicas=-1"],
    "replicas without leader election": ["leaderElection.enabled=false"],
    "replicas that share a claim": ["state.claimName=calry-state"],
    "leaderElection.leaseDuration": ["leaderElection.leaseDuration=15"],
    "shards": ["shards=0"],
    "shards without leader election": ["shards=2", "replicas=1", "leaderElection.enabled=false"],
    "allowedSigners": ["allowedSigners.configMapName=signers", "source=configmap"],
    "git.depth": ["git.depth=-1"],
    "networkPolicy.apiServer": ["networkPolicy.apiServer.port=https"],
    "apiKey": ["calry.apiKey.value=zepl.secret"],
    "resources": ["resources.limits.memory=null"],
    "networkPolicy.egress": ["networkPolicy.egress=null"],
    "extraArgs": ["extraArgs={plan}"],
}


# What the schema says, and what templates say where one value does not go with another.
REFUSALS = r"don't meet the specifications|(replicas|shards) is more than 1 and |allowedSigners is set and "


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise AssertionError(f"{command}: {done.stderr}{done.stdout}")
    return done.stdout


def objects(text):
    return {document["kind"]: document for document in yaml.safe_load_all(text) if document}


@functools.cache
def kustomized(directory):
    return run(os.environ["KUSTOMIZE"], "build", KUSTOMIZE / directory)


@functools.cache
def helmed(*values):
    settings = [f"--set={value}" for value in values]
    return run(os.environ["HELM"], "template", "calry-gitops", CHART, *KUBERNETES, *settings)


def renders():
    """Everything that can come of the manifests, by a name."""
    for directory, values in PAIRS.items():
        yield directory, kustomized(directory)
        yield f"helm {values}", helmed(*values)
    for values in VALUES:
        yield f"helm {values}", helmed(*values)


def pod(made):
    return made["Deployment"]["spec"]["template"]["spec"]


def daemon(made):
    return next(container for container in pod(made)["containers"] if container["name"] == "calry-gitops")


def asks(made):
    """Whether the daemon asks something of the API server: for a Lease, or to post Events."""
    return bool({"--leader-election", "--kubernetes-events"} & set(daemon(made)["args"]))


def bare(value):
    """Without the labels that say who made it, and without the order of lists whose items have names."""
    if isinstance(value, dict):
        return {
            key: bare(item) for key, item in value.items()
            if not re.match(r"app\.kubernetes\.io/|helm\.sh/", key) and not (key == "labels" and not bare(item))
        }
    if isinstance(value, list):
        items = [bare(item) for item in value]
        for key in ("mountPath", "name"):
            if items and all(isinstance(item, dict) and key in item for item in items):
                return sorted(items, key=lambda item: item[key])
        return items
    return value


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
            if "ServiceMonitor" in made:
                selector = made["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
                self.assertTrue(selector and selector <= made["Service"]["metadata"]["labels"].items())
            dns = made["NetworkPolicy"]["spec"]["egress"][0]["to"][0]["podSelector"]["matchLabels"]
            self.assertEqual(dns, {"k8s-app": "kube-dns"})

    def test_only_scrapes_come_in_and_only_dns_calry_git_and_the_api_server_are_reached(self):
        for made in self.each():
            policy = made["NetworkPolicy"]["spec"]
            self.assertEqual(policy["policyTypes"], ["Ingress", "Egress"])
            self.assertEqual([port["port"] for rule in policy["ingress"] for port in rule["ports"]], ["http"])
            self.assertTrue(all("namespaceSelector" in peer for rule in policy["ingress"] for peer in rule["from"]))
            names, world, *servers = policy["egress"]
            self.assertEqual({port["port"] for port in names["ports"]}, {53})
            git = any(container["name"] == "git-sync" for container in pod(made)["containers"])
            self.assertEqual([port["port"] for port in world["ports"]], [443, 22] if git else [443])
            self.assertEqual(len(servers), int(asks(made)))
            for server in servers:
                self.assertEqual(len(server["ports"]), 1)
                for peer in server["to"]:
                    # 192.0.2.0/24 is for documentation.
                    network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
                    self.assertTrue(network.is_private or network == ipaddress.ip_network("100.64.0.0/10"), network)

    def test_every_pod_is_restricted(self):
        for made in self.each():
            self.assertEqual(not_restricted(pod(made)), [])

    def test_what_is_not_restricted_is_found(self):
        good = pod(objects(kustomized("base")))

        def own(spec):
            return spec["containers"][0]["securityContext"]

        faults = {
            "host namespaces": lambda spec: spec.update(hostNetwork=True),
            "volume definitions": lambda spec: spec["volumes"][0].update(hostPath={"path": "/"}),
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
                for mount in container["volumeMounts"] if mount["name"] in tokens
            ]
            place = ("calry-gitops", "/var/run/secrets/kubernetes.io/serviceaccount", True)
            self.assertEqual(mounts, [place] * asks(made))

    def test_it_may_use_its_leases_and_post_events_and_nothing_else(self):
        for made in self.each():
            self.assertEqual("Role" in made, asks(made))
            self.assertEqual("RoleBinding" in made, asks(made))
            if not asks(made):
                continue
            flags = dict(argument.partition("=")[::2] for argument in daemon(made)["args"])
            name, shards = flags.get("--lease-name"), int(flags.get("--shards", 1))
            names = [name] if shards == 1 else [f"{name}-{shard}" for shard in range(shards)]
            leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
            events = {"apiGroups": ["events.k8s.io"], "resources": ["events"]}
            wanted = []
            if "--leader-election" in flags:
                wanted += [leases | {"verbs": ["create"]}]
                wanted += [leases | {"resourceNames": names, "verbs": ["get", "update"]}]
            if "--kubernetes-events" in flags:
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
                "POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_UID": "metadata.uid",
            })

    def test_several_run_only_with_a_lease_and_what_cannot_be_shared_ends_before_the_next_begins(self):
        seen = set()
        for made in self.each():
            spec = made["Deployment"]["spec"]
            elects = "--leader-election" in daemon(made)["args"]
            claims = any("persistentVolumeClaim" in volume for volume in pod(made)["volumes"])
            seen.add((elects, claims))
            if elects and not claims:
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

    def test_the_program_takes_the_arguments_and_variables_that_it_is_given(self):
        for made in self.each():
            run(os.environ["CALRY_GITOPS"], *daemon(made)["args"], "--print-config")
        known = run(os.environ["CALRY_GITOPS"], "run", "--help")
        for made in self.each():
            for argument in daemon(made)["args"][1:]:
                self.assertRegex(known, rf"(?m)^ +(-\w, )?{re.escape(argument.split('=')[0])}\b")
            for variable in daemon(made).get("env", []):
                if variable["name"].startswith("POD_"):
                    continue
                self.assertRegex(re.sub(r"\s+", " ", known), rf"\[env: {variable['name']}\]")

    def test_every_path_among_the_arguments_is_in_a_volume_and_the_probes_reach_the_port(self):
        for made in self.each():
            mounts = {mount["mountPath"]: mount for mount in daemon(made)["volumeMounts"]}
            for argument in daemon(made)["args"]:
                flag, _, path = argument.partition("=")
                if path.startswith("/"):
                    mount = next(mount for at, mount in mounts.items() if f"{path}/".startswith(f"{at}/"))
                    self.assertIs(mount.get("readOnly", False), flag != "--state-dir", flag)
            volumes = {volume["name"] for volume in pod(made)["volumes"]}
            used = {mount["name"] for container in pod(made)["containers"] for mount in container["volumeMounts"]}
            self.assertEqual(volumes, used)
            self.assertIn("--listen=0.0.0.0:8080", daemon(made)["args"])
            ports = [(port["name"], port["containerPort"]) for port in daemon(made)["ports"]]
            self.assertEqual(ports, [("http", 8080)])
            for probe, path in {"livenessProbe": "/healthz", "readinessProbe": "/readyz"}.items():
                self.assertEqual(daemon(made)[probe]["httpGet"], {"path": path, "port": "http"})

    def test_values_reach_the_pod(self):
        made = objects(helmed(*VALUES[1]))
        spec = pod(made)
        self.assertEqual(spec["priorityClassName"], "system")
        self.assertEqual(spec["topologySpreadConstraints"][0]["topologyKey"], "zone")
        self.assertEqual(daemon(made)["args"][8:], [
            "--interval=90s", "--api-url=https://calry.example.com", "--max-changes=0",
            "--admin-host=gitops.example.com", "--admin-host=other.example.com", "--leader-election",
            "--lease-name=acme", "--lease-duration=30s", "--lease-renew-deadline=20s", "--lease-retry-period=4s",
            "--shards=3", "--kubernetes-events", "--concurrency=2", "--strict",
        ])
        self.assertEqual(made["Deployment"]["spec"]["replicas"], 3)
        server = made["NetworkPolicy"]["spec"]["egress"][2]
        self.assertEqual(server["to"], [{"ipBlock": {"cidr": "192.0.2.1/32"}}])
        self.assertEqual(server["ports"], [{"port": 8443, "protocol": "TCP"}])
        state = next(volume for volume in pod(objects(helmed(*VALUES[0])))["volumes"] if volume["name"] == "state")
        self.assertEqual(state, {"name": "state", "persistentVolumeClaim": {"claimName": "calry-state"}})

    def test_wrong_values_are_refused(self):
        for name, values in REFUSED.items():
            with self.subTest(name), self.assertRaisesRegex(AssertionError, REFUSALS):
                helmed(*values)

    def test_every_value_is_in_the_schema(self):
        schema = yaml.safe_load((CHART / "values.schema.json").read_text())

        def known(values, schema, at):
            if isinstance(values, dict) and "properties" in schema:
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
            for version in ("1.29", "1.37"):
                run(os.environ["VALIDATE"], "--strict", "--quiet", "-k", version, *files)
            files[0].write_text(files[0].read_text() + "sepc: {}\n")
            with self.assertRaises(AssertionError):
                run(os.environ["VALIDATE"], "--strict", "--quiet", files[0])


class Monitoring(unittest.TestCase):
    rules = yaml.safe_load(RULES.read_text())

    def test_the_rules_are_those_of_monitoring(self):
        again = "they differ: tests/manifests.sh --update"
        self.assertEqual((CHART / "files" / RULES.name).read_text(), RULES.read_text(), again)
        for text in (kustomized("overlays/monitoring"), helmed("monitoring.enabled=true")):
            self.assertEqual(objects(text)["PrometheusRule"]["spec"], self.rules, again)


class Page(unittest.TestCase):
    text = (DEPLOY / "README.md").read_text()

    def test_it_tells_of_every_alert_what_to_do(self):
        alerts = [rule["alert"] for group in Monitoring.rules["groups"] for rule in group["rules"]]
        self.assertEqual(re.findall(r"(?m)^\| `(CalryGitops\w+)` \|", self.text), alerts)

    def test_its_commands_of_helm_and_kustomize_go(self):
        commands = re.sub(r"\\\n *", "", self.text)
        installs = re.findall(r"(?m)^helm upgrade --install (.*)$", commands)
        applies = re.findall(r"(?m)^kubectl apply -k (\S+)", commands)
        self.assertTrue(installs and applies)
        for install in installs:
            name, chart, *rest = shlex.split(install)
            run(os.environ["HELM"], "template", name, DEPLOY.parent / chart, *KUBERNETES, *rest)
        for directory in applies:
            run(os.environ["KUSTOMIZE"], "build", DEPLOY.parent / directory)

    def test_its_flags_and_links_are_there(self):
        for link in re.findall(r"\]\(([^)#:]+)\)", self.text):
            self.assertTrue((DEPLOY / link).exists(), link)


if __name__ == "__main__":
    unittest.main()
