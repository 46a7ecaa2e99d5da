"""The manifests are valid, hardened, drain in time, and name only what exists."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server import config
from server.app import LAST_SCRAPE_SECONDS
from tests.deploy import artifacts, queries
from tests.deploy.artifacts import ROOT, SERVERS
from tests.server.kit import Harness, fake_model, running

HERE = ROOT / "deploy/kubernetes"
KUBECTL = shutil.which("kubectl")
VERSION = "1.32"  # preStop.sleep needs 1.30
OPERATORS = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1"}
built_with_kubectl = pytest.mark.skipif(KUBECTL is None, reason="needs kubectl")


@cache
def built(folder: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    run = subprocess.run([KUBECTL or "", "kustomize", str(HERE / folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return list(yaml.safe_load_all(run.stdout))


def of(folder: str, kind: str) -> list[dict[str, Any]]:
    return [one for one in built(folder) if one["kind"] == kind]


def base(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HERE / "base" / f"{name}.yaml").read_text())
    return found


def pod() -> dict[str, Any]:
    found: dict[str, Any] = base("deployment")["spec"]["template"]["spec"]
    return found


def server() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


def selected(labels: dict[str, str]) -> list[str]:
    """Deployments whose pods have these labels."""
    made = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in of("full", "Deployment")}
    return [name for name, have in made.items() if labels.items() <= have.items()]


def test_every_file_is_used_by_a_kustomization() -> None:
    for path in HERE.rglob("kustomization.yaml"):
        wanted = yaml.safe_load(path.read_text())
        for name in (*wanted["resources"], *wanted.get("components", [])):
            assert (path.parent / name).exists()
        here = {one.name for one in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert here == {name for name in wanted["resources"] if not name.startswith("../")}


@built_with_kubectl
@pytest.mark.parametrize("folder", ["dense", "moe", "both", "full"])
def test_the_schema_of_kubernetes_accepts_every_object(folder: str) -> None:
    for one in built(folder):
        if one["apiVersion"] not in OPERATORS:
            kubernetes_validate.validate(one, VERSION, strict=True)


@built_with_kubectl
def test_objects_of_operators_have_what_these_need() -> None:
    (monitor,) = of("full", "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for pod in (one["spec"]["template"] for one in of("full", "Deployment")):
        labels, (container,) = pod["metadata"]["labels"], pod["spec"]["containers"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert endpoint["port"] in {port["name"] for port in container["ports"]}
        assert labels[monitor["spec"]["jobLabel"]] == "dyno", "the job of rules and dashboards"
    assert endpoint["authorization"]["credentials"]["name"] == "dyno-keys"
    deployments = {one["metadata"]["name"] for one in of("full", "Deployment")}
    assert {one["spec"]["scaleTargetRef"]["name"] for one in of("full", "ScaledObject")} == deployments
    for scaled in of("full", "ScaledObject"):
        assert scaled["spec"]["minReplicaCount"] >= 1
        assert [trigger["type"] for trigger in scaled["spec"]["triggers"]] == ["prometheus"] * 2
    assert all("replicas" not in one["spec"] for one in of("full", "Deployment")), "the autoscaler says how many"


@pytest.mark.parametrize("name", SERVERS)
async def test_the_autoscaler_asks_for_metrics_that_exist(name: str) -> None:
    scaled = yaml.safe_load((HERE / f"autoscaling/{name}.yaml").read_text())
    async with running(fake_model("fake")) as harness:
        exported = await exported_by(harness)
    asked = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    for query in asked:
        assert queries.names(query) <= exported
        assert f'model="{SERVERS[name]}"' in query
    assert ["dyno_requests_waiting" in asked[0], "time_to_first_token" in asked[1]] == [True, True]


async def exported_by(harness: Harness) -> set[str]:
    return {name for name, _ in await harness.series()}


def test_the_rules_are_those_of_prometheus_beside_it() -> None:
    spec = importlib.util.spec_from_file_location("rules", HERE / "rules.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (HERE / "monitoring/rules.yaml").read_text()
    assert text == module.written()
    groups = yaml.safe_load(text)["spec"]["groups"]
    assert sorted(map(str, (rule for group in groups for rule in group["rules"]))) == sorted(map(str, queries.rules()))
    assert len({group["name"] for group in groups}) == len(groups)


@built_with_kubectl
def test_selectors_choose_their_own_pods_and_callers_are_others() -> None:
    for kind, path in {
        "Service": "selector",
        "NetworkPolicy": "podSelector",
        "PodDisruptionBudget": "selector",
    }.items():
        for one in of("full", kind):
            chosen = one["spec"][path]
            assert selected(chosen.get("matchLabels", chosen)) == [one["metadata"]["name"]], kind
    for policy in of("full", "NetworkPolicy"):
        assert policy["spec"]["egress"] == []
        callers = [
            way["podSelector"]["matchLabels"]
            for rule in policy["spec"]["ingress"]
            for way in rule["from"][:1]
            if "podSelector" in way
        ]
        assert callers == [{"dyno.dev/client": "true"}]


@built_with_kubectl
def test_architectures_differ_in_their_names_and_models_only() -> None:
    dense, moe = (one["spec"]["template"]["spec"] for one in of("full", "Deployment"))
    assert [spec["containers"][0].pop("args") for spec in (dense, moe)] == [["--model", m] for m in SERVERS.values()]
    assert [spec.pop("serviceAccountName") for spec in (dense, moe)] == ["dyno-dense", "dyno-moe"]
    built.cache_clear()
    assert dense == moe


def test_a_pod_can_do_little_and_is_bounded() -> None:
    image = artifacts.stages()["server"]
    user, _, group = image.last("USER").partition(":")
    security = pod()["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, int(user), int(group))
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert server()["resources"]["limits"].keys() == {"cpu", "memory"}
    assert pod()["automountServiceAccountToken"] is False


def test_no_service_writes_into_the_environment_of_the_server() -> None:
    """A service called dyno makes DYNO_PORT=tcp://…, which is a setting of ours."""
    assert pod()["enableServiceLinks"] is False


def test_every_variable_is_one_that_the_server_knows() -> None:
    names = {one["name"]: one.get("value", "") for one in server()["env"]}
    assert config.unknown_variables(names) == []
    given = {name: value for name, value in names.items() if value}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (artifacts.stages()["server"].environment() | given).items():
            patch.setenv(name, value)
        patch.setenv("DYNO_API_KEYS", "a:inference:0123456789abcdef")
        settings = config.load(["--model", "tales-dense"])
    ports = {one["name"]: one["containerPort"] for one in server()["ports"]}
    assert (settings.port, settings.grpc_port) == (ports["http"], ports["grpc"])
    hook = server()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] >= hook + settings.drain_seconds + LAST_SCRAPE_SECONDS + 10


def test_what_the_image_writes_to_is_a_volume() -> None:
    image = artifacts.stages()["server"]
    mounts = {one["mountPath"]: one["name"] for one in server()["volumeMounts"]}
    assert mounts.keys() == {image.last("VOLUME"), image.last("WORKDIR")}
    assert {volume["name"] for volume in pod()["volumes"]} == set(mounts.values())


async def test_probes_ask_for_what_the_server_answers() -> None:
    async with running(fake_model("fake")) as harness:
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = server()[name]["httpGet"]
            assert probe["port"] == "http"
            async with harness.session.get(harness.url + probe["path"]) as response:
                assert response.status == 200
    assert server()["livenessProbe"]["httpGet"]["path"] == "/livez", "a server that drains is not to be killed"


@built_with_kubectl
def test_the_patches_for_a_model_from_the_hub_apply(tmp_path: Path) -> None:
    first, more = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    mine = yaml.safe_load(textwrap.dedent(first))
    mine["resources"] = [os.path.relpath(HERE / "both", tmp_path)]
    mine["patches"] += yaml.safe_load(more)
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(mine))
    made = {(one["kind"], one["metadata"]["name"]): one for one in built(str(tmp_path))}
    for one in made.values():
        kubernetes_validate.validate(one, VERSION, strict=True)
    pod = made["Deployment", "dyno-dense"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["--model", "org/name", "--dtype", "bfloat16"]
    cache = artifacts.stages()["server"].environment()["XDG_CACHE_HOME"]
    (volume,) = (mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == cache)
    assert {"name": volume, "emptyDir": {"sizeLimit": "5Gi"}} in pod["volumes"]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "10Gi"}
    assert container["startupProbe"]["failureThreshold"] == 900
    assert made["NetworkPolicy", "dyno-dense"]["spec"]["egress"] != []
    assert made["NetworkPolicy", "dyno-moe"]["spec"]["egress"] == []


def test_the_limits_that_the_pages_name_are_those_of_the_manifest() -> None:
    """docs/deploy.md says what a model from the hub would exceed."""
    page = (ROOT / "docs/deploy.md").read_text()
    assert {"name": "kernels", "emptyDir": {"sizeLimit": "512Mi"}} in pod()["volumes"] and "kernels (512 MiB)" in page
    assert server()["resources"]["limits"]["memory"] == "3Gi" and "Memory (3 GiB)" in page
    probe = server()["startupProbe"]
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (2, 90) and "90 are three minutes" in page


def test_no_key_is_written_down() -> None:
    found = [path for path in HERE.rglob("*.yaml") if "kind: Secret" in Path(path).read_text()]
    assert found == []
    (keys,) = (one for one in server()["env"] if one["name"] == "DYNO_API_KEYS")
    assert keys["valueFrom"]["secretKeyRef"] == {"name": "dyno-keys", "key": "api-keys"}
