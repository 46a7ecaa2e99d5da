"""docker-compose.yml is valid, hardened, and names only what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from client.cli import app
from tests.deploy import artifacts
from tests.deploy.artifacts import CARD, COMPOSE, ROOT

SERVICES = sorted(artifacts.services())


@pytest.mark.parametrize("path", [COMPOSE, CARD], ids=lambda path: path.name)
def test_the_compose_schema_accepts_it(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    verdict = subprocess.run(command, capture_output=True, text=True, check=False)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def _has_compose() -> bool:
    docker = shutil.which("docker")
    asked = docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode
    return asked == 0


@pytest.mark.skipif(not _has_compose(), reason="no docker compose here")
@pytest.mark.parametrize("more", [(), ("load",)], ids=["alone", "with load"])
@pytest.mark.parametrize("files", [(COMPOSE,), (COMPOSE, CARD)], ids=["cpu", "cuda"])
def test_docker_compose_puts_it_together(files: tuple[Path, ...], more: tuple[str, ...]) -> None:
    named = [word for file in files for word in ("-f", str(file))]
    profiles = [word for profile in more for word in ("--profile", profile)]
    command = ["docker", "compose", *named, *profiles, "config", "--quiet"]
    verdict = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert verdict.returncode == 0, verdict.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_little(name: str) -> None:
    service = artifacts.services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"cpus", "mem_limit", "pids_limit"} <= service.keys()
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & service.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_the_logs_of_a_service_are_bounded(name: str) -> None:
    assert artifacts.services()[name]["logging"] == {"driver": "local"}


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


@pytest.mark.parametrize("name", artifacts.SERVERS)
def test_published_ports_are_those_that_the_image_exposes(name: str) -> None:
    exposed = artifacts.stages()["server"].last("EXPOSE").split()
    assert [port.split(":")[-1] for port in artifacts.services()[name]["ports"]] == exposed


def test_no_port_of_this_machine_is_taken_twice() -> None:
    ports = [port.split(":")[1] for service in artifacts.services().values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 6


@pytest.mark.parametrize("name", artifacts.SERVERS)
def test_what_the_image_writes_to_outlives_a_read_only_root(name: str) -> None:
    image, service = artifacts.stages()["server"], artifacts.services()[name]
    kept = [volume.split(":")[1] for volume in service["volumes"]]
    assert [image.last("VOLUME")] == kept == [image.environment()["XDG_CACHE_HOME"]]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == [image.last("WORKDIR")]


def test_the_architectures_differ_in_nothing_but_the_model() -> None:
    own = {"command", "ports", "volumes"}
    dense, moe = ({k: v for k, v in artifacts.services()[name].items() if k not in own} for name in artifacts.SERVERS)
    assert dense == moe
    loads = [artifacts.services()[f"load-{name}"]["command"] for name in artifacts.SERVERS]
    assert [word for word in loads[0] if word not in loads[1]] == ["--target=http://dense:8000"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_nobody_special(name: str) -> None:
    user, _, _ = artifacts.services()[name]["user"].partition(":")
    assert int(user) > 0
    if "build" in artifacts.services()[name]:
        target = artifacts.services()[name]["build"]["target"]
        assert artifacts.services()[name]["user"] == artifacts.stages()[target].last("USER")


def test_there_is_no_secret_in_the_files() -> None:
    project = artifacts.compose()
    (secret,) = project["secrets"].values()
    assert (ROOT / secret["file"]).read_bytes() == b""
    given = [pair for service in project["services"].values() for pair in service.get("environment", {}).items()]
    assert [pair for pair in given if re.search("KEY|PASSWORD|TOKEN|SECRET", pair[0]) and pair[1]] == []


@pytest.mark.parametrize("name", [f"load-{name}" for name in artifacts.SERVERS])
def test_the_load_is_one_that_the_client_understands_and_prepares_in_time(name: str) -> None:
    program, *words = artifacts.services()[name]["command"]
    command = get_command(app).commands[program]  # type: ignore[attr-defined]
    given = command.make_context(program, list(words)).params
    assert given["target"] == f"http://{name.removeprefix('load-')}:8000"
    assert given["requests"] >= given["rate"] * given["seconds"], "the load would end before its time"


def test_the_card_is_given_to_both_and_named_as_the_server_names_it() -> None:
    over = artifacts.compose(artifacts.CARD)["services"]
    assert over.keys() == artifacts.SERVERS.keys()
    for service in over.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert service["build"]["args"].keys() <= {
            line.partition("=")[0] for stage in artifacts.stages().values() for line in stage.all("ARG")
        }
    shares = [float(service["environment"]["DYNO_CACHE_SHARE"]) for service in over.values()]
    assert sum(shares) < 1


def test_prometheus_scrapes_the_servers_where_they_serve_metrics() -> None:
    settings = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    job = next(job for job in settings["scrape_configs"] if job["job_name"] == "dyno")
    port = artifacts.stages()["server"].environment()["DYNO_PORT"]
    assert job["static_configs"] == [{"targets": [f"{name}:{port}" for name in artifacts.SERVERS]}]
    assert job["metrics_path"] == "/metrics"
    assert (
        job["authorization"]["credentials_file"] == f"/run/secrets/{artifacts.services()['prometheus']['secrets'][0]}"
    )


def test_prometheus_reads_the_files_that_are_mounted() -> None:
    prometheus = artifacts.services()["prometheus"]
    source, target, _ = prometheus["volumes"][0].split(":")
    (flag,) = (word for word in prometheus["command"] if word.startswith("--config.file="))
    mounted = flag.removeprefix("--config.file=")
    assert mounted.startswith(target + "/")
    settings = yaml.safe_load((ROOT / source / mounted.removeprefix(target + "/")).read_text())
    assert {path.name for rule in settings["rule_files"] for path in (ROOT / source).glob(rule)} == {
        "alerts.yml",
        "recording.yml",
    }


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    grafana = artifacts.services()["grafana"]
    mounts = {target: ROOT / source for source, target, *rest in (v.split(":") for v in grafana["volumes"]) if rest}
    provisioning = mounts[grafana["environment"]["GF_PATHS_PROVISIONING"]]
    (provider,) = yaml.safe_load((provisioning / "dashboards/dyno.yml").read_text())["providers"]
    assert provider["options"]["path"] in mounts
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounts[str(home.parent)] / home.name).is_file()
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["uid"] == "prometheus"
