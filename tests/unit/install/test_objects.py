"""What is installed: pods that say what they need and how they are, and files that are current."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagecache.host.pod_directory import KEEPER, POD
from imagecache.kube.reviewer import AUDIENCE
from imagecache.settings.table import SETTINGS
from tools.install.render import MODES, files, hooks, objects

ROOT = Path(__file__).resolve().parents[3]
CONTROLLER = "imagecache-controller"
DIGEST = f"sha256:{64 * 'a'}"
SHARED = {"store": {"volume": {"accessMode": "ReadWriteMany"}}}
IN_A_DIRECTORY = {"store": {"sharedHostPath": "/mnt/imagecache"}}


def rendered(**values: object) -> dict[tuple[str, str], Any]:
    """By kind and name."""
    found = json.loads(json.dumps(objects(json.loads(json.dumps(values)))))
    return {(item["kind"], item["metadata"]["name"]): item for item in found}


def pod_of(kind: str, name: str, **values: object) -> Any:
    return rendered(**values)[kind, name]["spec"]["template"]["spec"]


def containers_of(pod: Any) -> list[Any]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: Any) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_the_files_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "tools/render.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_rendering_is_deterministic_and_what_is_for_kubectl_is_yaml() -> None:
    assert files() == files()
    for path, text in files().items():
        if path.parts[0] == "config" or path.name == "Chart.yaml":
            assert all(document for document in yaml.safe_load_all(text)), path


@pytest.mark.parametrize("mode", MODES)
def test_every_container_says_what_it_needs_and_how_it_is(mode: str) -> None:
    pods = [
        pod_of("Deployment", "imagecache-controller", mode=mode),
        pod_of("DaemonSet", "imagecache-agent", mode=mode),
    ]

    for container in (container for pod in pods for container in containers_of(pod)):
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        stays = all(container not in pod.get("initContainers", []) for pod in pods)
        assert not stays or {"livenessProbe", "readinessProbe"} <= set(container), container["name"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {mount["name"] for mount in container["volumeMounts"]} <= {
            volume["name"] for pod in pods for volume in pod["volumes"]
        }


@pytest.mark.parametrize("mode", MODES)
def test_every_variable_is_a_setting(mode: str) -> None:
    pods = [
        pod_of("Deployment", "imagecache-controller", mode=mode),
        pod_of("DaemonSet", "imagecache-agent", mode=mode),
    ]
    names = {setting.env for setting in SETTINGS.values()}

    for container in (container for pod in pods for container in containers_of(pod)):
        ours = {name for name in environment(container) if name.startswith("IMAGECACHE_")}
        assert ours <= names, container["name"]


def test_the_controller_is_nobody() -> None:
    pod = pod_of("Deployment", "imagecache-controller")

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "hostPID" not in pod
    assert "hostNetwork" not in pod


def test_one_controller_where_one_volume_is_one_node_s() -> None:
    found = rendered()

    assert found["Deployment", "imagecache-controller"]["spec"]["replicas"] == 1
    assert ("PodDisruptionBudget", "imagecache-controller") not in found  # it would keep the node from being drained


@pytest.mark.parametrize("values", [SHARED, IN_A_DIRECTORY])
def test_two_controllers_where_both_can_have_the_store(values: dict[str, object]) -> None:
    found = list(rendered(**values).values())
    deployment = next(item for item in found if item["kind"] == "Deployment")

    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]["type"]) == (2, "RollingUpdate")
    assert any(item["kind"] == "PodDisruptionBudget" for item in found)


def test_proxy_mode_has_no_agent_in_its_pod() -> None:
    pod = pod_of("DaemonSet", "imagecache-agent", mode="proxy")

    assert [container["args"][:3] for container in pod["initContainers"]] == [["host", "install", "--unattended"]]
    assert [container["args"][:1] for container in pod["containers"]] == [["keeper"]]
    assert pod["hostNetwork"] is True, "where the host service's probes answer"


@pytest.mark.parametrize("values", [{}, {"agent": {"securityContext": {"privileged": True}}}, IN_A_DIRECTORY])
def test_what_stays_of_proxy_mode_has_no_privilege_and_one_directory_of_the_host(values: dict[str, object]) -> None:
    pod = pod_of("DaemonSet", "imagecache-agent", mode="proxy", **values)
    (keeper,) = pod["containers"]
    security = keeper["securityContext"]

    assert "privileged" not in security
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (KEEPER, KEEPER, True)
    assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    mounted = [mount for mount in keeper["volumeMounts"] if mount["name"] in paths]
    assert [(paths[mount["name"]], mount["mountPath"]) for mount in mounted] == [(str(POD), str(POD))]
    assert all("mountPropagation" not in mount for mount in keeper["volumeMounts"])


def test_the_installer_of_proxy_mode_brings_what_the_keeper_hands_over_and_says_why_it_fails() -> None:
    pod = pod_of("DaemonSet", "imagecache-agent", mode="proxy")
    (installer,), (keeper,) = pod["initContainers"], pod["containers"]
    projected = {volume["name"] for volume in pod["volumes"] if "projected" in volume}
    given = [{mount["name"] for mount in each["volumeMounts"]} & projected for each in (installer, keeper)]

    assert pod["automountServiceAccountToken"] is False
    assert given[0] == given[1]
    assert "account" in given[0]
    assert installer["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize(("mode", "sees"), [("proxy", True), ("native", True), ("prepull", False)])
def test_pods_that_call_systemd_see_the_processes_of_their_node(mode: str, sees: bool) -> None:
    assert ("hostPID" in pod_of("DaemonSet", "imagecache-agent", mode=mode)) is sees


def test_native_mode_configures_containerd_unless_it_is_told_not_to() -> None:
    configured = pod_of("DaemonSet", "imagecache-agent", mode="native")
    left_alone = pod_of("DaemonSet", "imagecache-agent", mode="native", containerd={"configure": False})

    assert [container["name"] for container in configured["containers"]] == ["installer", "agent"]
    assert [container["name"] for container in left_alone["containers"]] == ["agent"]
    assert configured["containers"][0]["args"][:2] == ["host", "keep"]
    assert "initContainers" not in configured
    assert not any(container["securityContext"].get("privileged") for container in left_alone["containers"])


def test_prepull_mode_changes_nothing_on_the_node() -> None:
    pod = pod_of("DaemonSet", "imagecache-agent", mode="prepull")

    assert [container["name"] for container in pod["containers"]] == ["agent"]
    assert [volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume] == ["/run/containerd"]
    assert "IMAGECACHE_STORE_URL" in environment(pod["containers"][0])  # it says which images there are


def test_a_store_that_prepull_mode_shares_is_mounted() -> None:
    pod = pod_of("DaemonSet", "imagecache-agent", mode="prepull", store={"sharedHostPath": "/mnt/store"})

    (store,) = [volume for volume in pod["volumes"] if volume["name"] == "store"]
    assert store["hostPath"]["path"] == "/mnt/store"
    assert "IMAGECACHE_STORE_URL" not in environment(pod["containers"][0])


@pytest.mark.parametrize("own", ["", "/mnt/leases"])
@pytest.mark.parametrize("mode", ["native", "prepull"])
def test_agents_only_read_a_store_that_they_share(mode: str, own: str) -> None:
    """They write in another directory, which the controller sees too: it collects by what is there."""
    store = {"sharedHostPath": "/mnt/store", "sharedLeasesPath": own}
    agent = pod_of("DaemonSet", "imagecache-agent", mode=mode, store=store)
    controller = pod_of("Deployment", CONTROLLER, store=store)

    mounts = {mount["name"]: mount for mount in agent["containers"][-1]["volumeMounts"]}
    places = {volume["name"]: volume["hostPath"]["path"] for volume in agent["volumes"] if "hostPath" in volume}
    assert mounts["store"]["readOnly"] is True
    assert "readOnly" not in mounts["leases"]
    assert places["leases"] == (own or "/mnt/store/agents")
    assert environment(agent["containers"][-1])["IMAGECACHE_LEASES"] == mounts["leases"]["mountPath"]
    theirs = {mount["name"]: mount["mountPath"] for mount in controller["containers"][0]["volumeMounts"]}
    leases = environment(controller["containers"][0])["IMAGECACHE_LEASES"]
    assert leases == (theirs["leases"] if own else f"{theirs['store']}/agents")


def test_agents_write_to_a_store_of_their_own() -> None:
    agent = pod_of("DaemonSet", "imagecache-agent", mode="native")

    (store,) = [mount for mount in agent["containers"][-1]["volumeMounts"] if mount["name"] == "store"]
    assert "readOnly" not in store
    assert "IMAGECACHE_LEASES" not in environment(agent["containers"][-1])


def test_the_host_service_has_the_places_of_the_host() -> None:
    """Of a directory that it shares: it is no Pod, so that nothing is mounted for it."""
    agent = pod_of("DaemonSet", "imagecache-agent", mode="proxy", **IN_A_DIRECTORY)

    found = environment(agent["containers"][0])
    assert (found["IMAGECACHE_STORE"], found["IMAGECACHE_LEASES"]) == ("/mnt/imagecache", "/mnt/imagecache/agents")


def test_agents_show_the_store_a_token_of_their_own_audience() -> None:
    pod = pod_of("DaemonSet", "imagecache-agent", mode="native")
    (token,) = [volume["projected"]["sources"][0] for volume in pod["volumes"] if "projected" in volume]
    trust = next(volume["secret"] for volume in pod["volumes"] if "secret" in volume)

    assert token["serviceAccountToken"]["audience"] == AUDIENCE
    assert [item["key"] for item in trust["items"]] == ["ca.crt"]  # never the key


def test_a_shared_directory_is_neither_served_nor_fetched() -> None:
    found = rendered(mode="native", **IN_A_DIRECTORY)
    agent = pod_of("DaemonSet", "imagecache-agent", mode="native", **IN_A_DIRECTORY)
    controller = pod_of("Deployment", "imagecache-controller", **IN_A_DIRECTORY)

    assert not [
        name for kind, name in found if kind in {"PersistentVolumeClaim", "Secret"} or name == "imagecache-store"
    ]
    assert environment(agent["containers"][1])["IMAGECACHE_STORE"] == "/mnt/imagecache"
    assert "IMAGECACHE_STORE_URL" not in environment(agent["containers"][1])
    assert "IMAGECACHE_SERVE_ADDRESS" not in environment(controller["containers"][0])


def test_an_agent_writes_about_its_own_node_only() -> None:
    policy = rendered()["ValidatingAdmissionPolicy", "imagecache-agent"]["spec"]

    assert policy["failurePolicy"] == "Fail"
    assert "imagecache-agent" not in json.dumps(policy), "whoever renames an account would switch the policy off"
    assert {resource for rule in policy["matchConstraints"]["resourceRules"] for resource in rule["resources"]} == {
        "nodeimagecaches",
        "nodeimagecaches/status",
        "nodes",
        "events",
    }
    assert "authentication.kubernetes.io/node-name" in policy["validations"][0]["expression"]


def rights() -> dict[tuple[str, str], set[tuple[str, str, str]]]:
    """Group, resource and verb by role."""
    return {
        (kind, name): {
            (group, resource, verb)
            for rule in item["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        for (kind, name), item in rendered(taint={"enabled": True}).items()
        if kind in {"ClusterRole", "Role"}
    }


@pytest.mark.parametrize(
    ("account", "asked"),
    [
        ("imagecache-agent", [("imagecache.dev", "nodeimagecaches", "create")]),
        (
            CONTROLLER,
            [
                ("eci.alibabacloud.com", "imagecaches/status", "patch"),
                ("authentication.k8s.io", "tokenreviews", "create"),
            ],
        ),
    ],
)
def test_who_is_meant_follows_from_its_role(account: str, asked: list[tuple[str, str, str]]) -> None:
    """A policy asks for rights that one role gives and no other, and for one that none of ours must give."""
    conditions = rendered()["ValidatingAdmissionPolicy", account]["spec"]["matchConditions"]
    condition = " ".join(each["expression"] for each in conditions)
    found = rights()

    for group, resource, verb in asked:
        kind, _, part = resource.partition("/")
        place = f".subresource('{part}')" if part else ""
        assert f"authorizer.group('{group}').resource('{kind}'){place}.check('{verb}')" in condition
    assert "!authorizer.group('').resource('nodes').check('delete')" in condition
    assert [role for role, has in found.items() if set(asked) <= has] == [("ClusterRole", account)]
    assert [role for role, has in found.items() if ("", "nodes", "delete") in has] == []


def test_policies_name_no_account() -> None:
    found = [item for (kind, _), item in rendered(pods={"refuse": True}).items() if kind.endswith("AdmissionPolicy")]

    assert len(found) == 6
    for policy in found:
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert "paramKind" not in policy["spec"], "a parameter that is not there yet would refuse every pod"
        assert "imagecache-" not in json.dumps(policy["spec"]), "whoever renames an account would switch it off"


def test_nothing_of_ours_waits_for_us() -> None:
    of_no_namespace = {"imagecache-agent", CONTROLLER, "imagecache-authors"}
    for (kind, name), item in rendered().items():
        if kind.endswith("AdmissionPolicyBinding") and name not in of_no_namespace:
            selector = item["spec"]["matchResources"]["namespaceSelector"]
            (expression,) = selector["matchExpressions"]
            assert expression["key"] == "kubernetes.io/metadata.name"
            assert (expression["operator"], expression["values"]) == ("NotIn", ["kube-system", "imagecache-system"])
            labels = {"imagecache.dev/defaults": "true"} if name.endswith("namespaces") else None
            assert selector.get("matchLabels") == labels


def test_people_get_what_their_role_of_the_cluster_says() -> None:
    found = rendered()
    for name in ("view", "edit", "admin"):
        role = found["ClusterRole", f"imagecache-{name}"]
        assert role["metadata"]["labels"][f"rbac.authorization.k8s.io/aggregate-to-{name}"] == "true"
    assert ("ClusterRole", "imagecache-view") not in rendered(rbac={"aggregateClusterRoles": False})


def test_what_the_critical_class_needs_on_gke() -> None:
    quota = rendered()["ResourceQuota", "imagecache"]["spec"]["scopeSelector"]["matchExpressions"][0]
    both = rendered(controller={"priorityClassName": "system-cluster-critical"})["ResourceQuota", "imagecache"]

    assert pod_of("DaemonSet", "imagecache-agent")["priorityClassName"] == "system-node-critical"
    assert (quota["scopeName"], quota["values"]) == ("PriorityClass", ["system-node-critical"])
    assert both["spec"]["scopeSelector"]["matchExpressions"][0]["values"][1:] == ["system-cluster-critical"]
    assert ("ResourceQuota", "imagecache") not in rendered(agent={"priorityClassName": ""})
    assert ("ResourceQuota", "imagecache") not in rendered(resourceQuota={"enabled": False})


def test_registries_are_configured_by_configmaps() -> None:
    given = {"hosts": {"configMap": "registries"}, "caBundle": {"configMap": "trust", "key": "bundle.pem"}}
    pod = pod_of("Deployment", "imagecache-controller", controller=given)
    volumes = {volume["name"]: volume.get("configMap") for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    settings = environment(pod["containers"][0])

    assert volumes["hosts"] == {"name": "registries"}
    assert volumes["registry-ca"] == {"name": "trust", "items": [{"key": "bundle.pem", "path": "ca.crt"}]}
    assert settings["IMAGECACHE_HOSTS"] == mounts["hosts"]
    assert settings["IMAGECACHE_REGISTRY_CA"] == mounts["registry-ca"] + "/ca.crt"
    assert not {"hosts", "registry-ca"} & {volume["name"] for volume in pod_of("Deployment", CONTROLLER)["volumes"]}


def test_no_search_domain_completes_the_name_of_a_registry() -> None:
    """The Pod's search domains are not left out: the API server's name may need one."""
    pod = pod_of("Deployment", CONTROLLER)

    assert pod["dnsConfig"] == {"options": [{"name": "ndots", "value": "1"}]}
    assert "dnsPolicy" not in pod


def test_registries_without_verification_are_listed_by_the_release() -> None:
    def listed(**values: object) -> str:
        (controller,) = pod_of("Deployment", CONTROLLER, **values)["containers"]
        return environment(controller)["IMAGECACHE_INSECURE_REGISTRIES"]

    assert listed() == "auto", "nothing, in a cluster"
    assert listed(insecureRegistries=["registry.example:5000", "10.0.0.0/8"]) == "registry.example:5000,10.0.0.0/8"


@pytest.mark.parametrize("mode", MODES)
def test_our_own_image_is_named_by_no_cache(mode: str) -> None:
    def reserved(**values: object) -> list[str]:
        """Of the agent, and in native mode of the installer beside it."""
        containers = containers_of(pod_of("DaemonSet", "imagecache-agent", mode=mode, **values))
        (found,) = {environment(each)["IMAGECACHE_RESERVED_NAMES"] for each in containers}
        return found.split(",")

    assert reserved() == ["ghcr.io/imagecache/imagecache", "registry.k8s.io/"]
    own = reserved(image={"repository": "registry.example/own"}, agent={"reservedNames": ["pause.example/pause"]})
    assert own == ["registry.example/own", "pause.example/pause"]


def test_pull_secrets_in_both_spellings() -> None:
    pod = pod_of("Deployment", CONTROLLER, imagePullSecrets=["one", {"name": "two"}])

    assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert "imagePullSecrets" not in pod_of("Deployment", CONTROLLER)


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({"tag": "1.2"}, "ghcr.io/imagecache/imagecache:1.2"),
        ({"tag": "1.2", "digest": DIGEST}, f"ghcr.io/imagecache/imagecache:1.2@{DIGEST}"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_an_image_by_its_digest(image: dict[str, str], reference: str, mode: str) -> None:
    """Of every container, the Job of ``helm uninstall`` included. Runtimes read the digest and pass the tag over."""
    values = json.loads(json.dumps({"mode": mode, "image": image}))
    images = images_of(json.loads(json.dumps([*objects(values), *hooks(values)])))

    assert len(images) > 2
    assert set(images) == {reference}


def images_of(found: Any) -> list[str]:
    """Whatever is called an image in it, but for what the schema of a resource says of one."""
    if isinstance(found, list):
        return [image for each in found for image in images_of(each)]
    if not isinstance(found, dict) or found.get("kind") == "CustomResourceDefinition":
        return []
    own = [found["image"]] if isinstance(found.get("image"), str) else []
    return own + [image for each in found.values() for image in images_of(each)]


def test_no_variable_names_what_kustomize_changes() -> None:
    """Namespaces are filled in by kubelet, names of objects stand alone (config/base/name-references.yaml)."""
    for mode in MODES:
        found = rendered(mode=mode)
        for kind, name in (("Deployment", CONTROLLER), ("DaemonSet", "imagecache-agent")):
            for container in containers_of(found[kind, name]["spec"]["template"]["spec"]):
                values = [value for value in environment(container).values() if "imagecache-" in value]
                assert [value for value in values if value not in {"imagecache-agent", "imagecache-store"}] == []
                assert "imagecache-system" not in json.dumps(container)
