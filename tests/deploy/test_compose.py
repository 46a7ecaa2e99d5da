"""docker-compose.yml is valid, hardened, and names only what exists."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml

from tests.deploy import artifacts
from tests.deploy.artifacts import COMPOSE, ROOT

SERVICES = sorted(artifacts.services())


def test_the_compose_schema_accepts_it() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    verdict = subprocess.run(command, capture_output=True, text=True, check=False)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_little(name: str) -> None:
    service = artifacts.services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"cpus", "mem_limit", "pids_limit"} <= service.keys()
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & service.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_published_on_this_machine_only(name: str) -> None:
    assert [port for port in artifacts.services()[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_the_folders_of_a_service_exist_and_stay_as_they_are(name: str) -> None:
    project = artifacts.compose()
    for volume in project["services"][name].get("volumes", []):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (ROOT / source).is_dir()
            assert rest.endswith(":ro")
        else:
            assert source in project["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_has_a_health_check(name: str) -> None:
    services = artifacts.services()
    for awaited in services[name].get("depends_on", {}):
        stage = services[awaited].get("build", {}).get("target", "")
        assert "healthcheck" in services[awaited] or artifacts.stages()[stage].all("HEALTHCHECK")


@pytest.mark.parametrize("name", [name for name in SERVICES if "build" in artifacts.services()[name]])
def test_a_built_image_names_a_stage_of_its_dockerfile(name: str) -> None:
    build = artifacts.services()[name]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).samefile(artifacts.DOCKERFILE)
    assert build["target"] in artifacts.stages()


@pytest.mark.parametrize("name", [name for name in SERVICES if "build" not in artifacts.services()[name]])
def test_a_foreign_image_has_a_version_and_room_for_a_digest(name: str) -> None:
    written = yaml.safe_load(COMPOSE.read_text())["services"][name]["image"]
    assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+\$\{[A-Z]+_DIGEST:-\}", written)


def test_published_ports_are_those_that_the_image_exposes() -> None:
    exposed = artifacts.stages()["server"].last("EXPOSE").split()
    assert [port.split(":")[-1] for port in artifacts.services()["dyno"]["ports"]] == exposed


def test_what_the_image_writes_to_outlives_a_read_only_root() -> None:
    image, service = artifacts.stages()["server"], artifacts.services()["dyno"]
    kept = [volume.split(":")[1] for volume in service["volumes"]]
    assert [image.last("VOLUME")] == kept == [image.environment()["XDG_CACHE_HOME"]]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == [image.last("WORKDIR")]


def test_prometheus_scrapes_the_server_where_it_serves_metrics() -> None:
    settings = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    job = next(job for job in settings["scrape_configs"] if job["job_name"] == "dyno")
    port = artifacts.stages()["server"].environment()["DYNO_PORT"]
    assert job["static_configs"] == [{"targets": [f"dyno:{port}"]}]
    assert job["metrics_path"] == "/metrics"


def test_prometheus_reads_the_file_that_is_mounted() -> None:
    prometheus = artifacts.services()["prometheus"]
    source, target, _ = prometheus["volumes"][0].split(":")
    (flag,) = (word for word in prometheus["command"] if word.startswith("--config.file="))
    mounted = flag.removeprefix("--config.file=")
    assert mounted.startswith(target + "/")
    assert (ROOT / source / mounted.removeprefix(target + "/")).is_file()
