"""Checks the manifests for Kubernetes and Compose: `ops/kubernetes/check`.

Each Kubernetes object against the schema of the oldest version that the README promises and the newest that there is, strictly: a
misspelt key is an error, which an API server only warns about. The Compose file against the Compose specification. Then what no
schema knows: that names which have to be the same are.
"""

import json
import pathlib
import sys

import compose_spec
import kubernetes_validate
import yaml

KUBERNETES = pathlib.Path(__file__).parent
COMPOSE = KUBERNETES.parent / "compose"
VERSIONS = ("1.30", "1.37")
# Not the API server's.
OTHERS = {"kustomization.yaml", "adapter-values.yaml"}

complaints = []


def complain(where, what):
    complaints.append(f"{where.parent.name}/{where.name}: {what}")


def load(file):
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def kubernetes():
    kustomization = load(KUBERNETES / "kustomization.yaml")[0]
    files = {file.name for file in KUBERNETES.glob("*.yaml")} - OTHERS
    if files != set(kustomization["resources"]):
        complain(KUBERNETES / "kustomization.yaml", f"does not name each of {', '.join(sorted(files))}, and nothing else")
    objects = {}
    for name in sorted(files):
        for document in load(KUBERNETES / name):
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    complain(KUBERNETES / name, f"{document['kind']} {'.'.join(map(str, error.path))}: {error.message} (Kubernetes {version})")
            objects[document["kind"], document["metadata"]["name"]] = document["spec"] if "spec" in document else document
    together(objects, load(KUBERNETES / "adapter-values.yaml")[0])


def together(objects, adapter):
    where = KUBERNETES / "relay.yaml"
    relays = objects["StatefulSet", "gatepass-relay"]
    labels, pod = relays["template"]["metadata"]["labels"], relays["template"]["spec"]
    selectors = {
        "the StatefulSet": relays["selector"]["matchLabels"],
        "the disruption budget": objects["PodDisruptionBudget", "gatepass-relay"]["selector"]["matchLabels"],
        "the network policy": objects["NetworkPolicy", "gatepass-relay"]["podSelector"]["matchLabels"],
        "the clients' service": objects["Service", "gatepass-relay"]["selector"],
        "the service of each": objects["Service", "gatepass-relay-each"]["selector"],
    }
    for what, selector in selectors.items():
        if selector.items() - labels.items():
            complain(where, f"{what} selects {selector}, which these pods are not")
    if ("Service", relays["serviceName"]) not in objects:
        complain(where, f"there is no service {relays['serviceName']}")
    relay = pod["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in relay["ports"]}
    for probe, path in (("livenessProbe", "live"), ("readinessProbe", "ready"), ("startupProbe", "live")):
        asked = relay.get(probe, {}).get("httpGet", {})
        if asked.get("path") != f"/health/{path}" or asked.get("port") not in ports:
            complain(where, f"{probe} asks {asked}")
    open_ports = {port["port"] for rule in objects["NetworkPolicy", "gatepass-relay"]["ingress"] for port in rule["ports"]}
    if open_ports != set(ports.values()):
        complain(where, f"the network policy opens {open_ports}, the relay {set(ports.values())}")
    volumes = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"] for claim in relays["volumeClaimTemplates"]}
    for container in pod["initContainers"] + pod["containers"]:
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        if mounts - volumes:
            complain(where, f"{container['name']} mounts {mounts - volumes}, which is not there")
        confined = container["securityContext"]
        if confined["allowPrivilegeEscalation"] or not confined["readOnlyRootFilesystem"] or confined["capabilities"] != {"drop": ["ALL"]}:
            complain(where, f"{container['name']} may do too much")
    scaler = objects["HorizontalPodAutoscaler", "gatepass-relay"]
    if (scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]) not in objects or "replicas" in relays:
        complain(where, "the autoscaler scales something else, or the StatefulSet sets what it scales")
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["metrics"]}
    given = {rule["name"]["as"] for rule in adapter["rules"]["custom"]}
    if asked != given:
        complain(KUBERNETES / "adapter-values.yaml", f"gives {given}, the autoscaler asks for {asked}")


def compose():
    file = COMPOSE / "compose.yaml"
    whole = load(file)[0]
    # YAML's merges are resolved by now, which the package does not do.
    try:
        compose_spec.PyCompose.from_json(json.dumps(whole)).validate()
    except ValueError as error:
        complain(file, str(error))
    for kind in ("configs", "secrets", "networks", "volumes"):
        used = set()
        for service in whole["services"].values():
            for one in service.get(kind, []):
                name = one if isinstance(one, str) else one["source"]
                used.add(name.partition(":")[0])
        if used != set(whole[kind]):
            complain(file, f"{kind}: {', '.join(sorted(used ^ set(whole[kind])))} is not both made and used")
    for one in whole["configs"].values():
        if not (COMPOSE / one["file"]).is_file():
            complain(file, f"there is no {one['file']}")
    for name, service in whole["services"].items():
        if "ALL" not in service["cap_drop"] or not service["read_only"]:
            complain(file, f"{name} may do too much")


kubernetes()
compose()
print("\n".join(complaints) or "Kubernetes and Compose: well formed, and what belongs together does")
sys.exit(bool(complaints))
