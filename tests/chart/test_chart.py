"""The rendered chart, with default values and with an administrator's values."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.job import FineTuneJob
from finetune_api.stage import Stage
from finetune_operator.settings import CaBundle, CodeExecution, Settings, StagePod, load
from tests.chart.helm import CHART, ROOT, Refused, helm, notes, of_kind, rendered, the

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
DIGEST = "sha256:" + "a" * 64


def settings(*values: str) -> Settings:
    """The settings of the operator, parsed as the operator parses them."""
    return Settings.model_validate_json(the("ConfigMap", *values)["data"]["settings.json"], by_name=False)


def pod(*values: str) -> dict[str, Any]:
    return dict(the("Deployment", *values)["spec"]["template"]["spec"])


def test_helm_lint_reports_no_warning() -> None:
    assert "[WARNING]" not in helm("lint", "--strict", str(CHART))


def test_the_chart_version_equals_the_version_in_pyproject() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_every_value_in_values_yaml_has_a_comment() -> None:
    explained = False
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        # These names are conventions of Kubernetes and Helm.
        plain = text.startswith(
            ("image:", "repository:", "pullPolicy:", "requests:", "limits:", "resources:", "enabled:")
        )
        assert not text or text.startswith("#") or explained or plain, f"no comment before: {line}"
        explained = text.startswith("#")


def test_the_operator_loads_the_settings_that_the_chart_renders(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(the("ConfigMap")["data"]["settings.json"])
    read = load(path)
    assert read.trainer.image == "finetune-trainer:0.1.0"
    assert read.namespaces == ()
    assert (read.log_level, read.progress_seconds) == ("INFO", 15)
    for stage in Stage:
        assert set(read.trainer.pod(stage).resources) == {"requests", "limits"}


def test_values_are_rendered_into_the_settings() -> None:
    train = {"nodeSelector": {"gpu": "h100"}, "env": [{"name": "NCCL_DEBUG", "value": "INFO"}], "sharedMemory": "64Gi"}
    read = settings(
        'namespaces=["team-a","team-b"]',
        'logLevel="DEBUG"',
        "progressSeconds=2.5",
        f'trainer.image={{"repository":"registry.example/trainer","digest":"{DIGEST}"}}',
        'trainer.imagePullSecrets=[{"name":"registry"}]',
        'trainer.serviceAccountName="tuning"',
        'trainer.gpuResource="amd.com/gpu"',
        f"trainer.stages.train={json.dumps(train)}",
    )
    assert read.namespaces == ("team-a", "team-b")
    assert (read.log_level, read.progress_seconds) == ("DEBUG", 2.5)
    assert read.trainer.image == f"registry.example/trainer@{DIGEST}"
    assert read.trainer.image_pull_secrets == ("registry",)
    assert read.trainer.service_account_name == "tuning"
    assert read.trainer.gpu_resource == "amd.com/gpu"
    assert read.trainer.pod(Stage.TRAIN).node_selector == {"gpu": "h100"}
    assert read.trainer.pod(Stage.TRAIN).shared_memory == "64Gi"
    assert read.trainer.pod(Stage.TRAIN).resources["limits"] == {"memory": "64Gi"}, "the default of the chart is kept"


def test_the_ca_bundle_is_rendered_into_the_settings() -> None:
    assert settings().trainer.ca_bundle is None
    assert settings('trainer.caBundle={"configMap":"private-ca"}').trainer.ca_bundle == CaBundle(
        config_map="private-ca"
    )


def test_generated_programs_run_only_where_the_values_allow_it() -> None:
    default = settings().trainer.code_execution
    assert not default.allowed
    assert default.resources == CodeExecution().resources, "the chart and the operator have the same defaults"
    chosen = settings('trainer.codeExecution={"allowed":true,"resources":{"limits":{"memory":"2Gi"}}}')
    assert chosen.trainer.code_execution.allowed
    assert chosen.trainer.code_execution.resources["limits"] == {"memory": "2Gi"}


def test_the_values_schema_lists_every_setting_of_a_stage() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(schema["definitions"]["stagePod"]["properties"]) == {
        field.alias for field in StagePod.model_fields.values()
    }
    assert set(schema["properties"]) == {*VALUES, "global"}
    code_execution = schema["properties"]["trainer"]["properties"]["codeExecution"]["properties"]
    assert set(code_execution) == set(VALUES["trainer"]["codeExecution"])
    assert set(schema["properties"]["trainer"]["properties"]) == set(VALUES["trainer"])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("replicas=2", "additional properties 'replicas' not allowed"),
        ('logLevel="info"', "at '/logLevel': value must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ('trainer.stages.training={"resources":{}}', "additional properties 'training' not allowed"),
        ('trainer.stages.train.nodeselector={"a":"b"}', "additional properties 'nodeselector' not allowed"),
        ('namespaces=["Team A"]', "at '/namespaces/0'"),
        ('trainer.caBundle={"secret":"ca"}', "additional properties 'secret' not allowed"),
        ('trainer.codeExecution.allowed="yes"', "at '/trainer/codeExecution/allowed'"),
        ('image.digest="latest"', "at '/image/digest'"),
        ("serviceAccount.create=false", "set serviceAccount.name to an existing service account"),
        ("monitoring.prometheusRule.enabled=true", "needs monitoring.podMonitors.enabled"),
    ],
)
def test_an_invalid_value_is_rejected_with_a_message(value: str, sentence: str) -> None:
    with pytest.raises(Refused, match=r"^Error: ") as refused:
        rendered(value)
    assert sentence in str(refused.value)


def test_the_operator_has_one_replica_and_is_recreated_on_update() -> None:
    spec = the("Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert pod()["terminationGracePeriodSeconds"] == 30


def test_the_operator_container_has_its_arguments_probes_and_volumes() -> None:
    (container,) = pod()["containers"]
    assert container["image"] == "finetune-operator:0.1.0"
    assert container["args"] == ["--config", "/etc/finetune-operator/settings.json"]
    assert container["ports"] == [{"name": "http", "containerPort": settings().port}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"settings": "/etc/finetune-operator", "tmp": "/tmp"}
    assert {volume["name"] for volume in pod()["volumes"]} == set(mounts)


def test_changing_a_setting_restarts_the_operator() -> None:
    def annotations(*values: str) -> dict[str, str]:
        return dict(the("Deployment", *values)["spec"]["template"]["metadata"]["annotations"])

    assert annotations()["checksum/settings"] != annotations('logLevel="DEBUG"')["checksum/settings"]
    assert annotations() == annotations('serviceAccount.annotations={"a":"b"}')


def test_scheduling_and_metadata_values_reach_the_operator_pod() -> None:
    values = (
        f'image={{"repository":"registry.example/operator","digest":"{DIGEST}"}}',
        'imagePullSecrets=[{"name":"registry"}]',
        'nodeSelector={"pool":"system"}',
        'tolerations=[{"key":"system","operator":"Exists"}]',
        'affinity={"nodeAffinity":{}}',
        'priorityClassName="system-cluster-critical"',
        'podAnnotations={"note":"x"}',
        'podLabels={"team":"platform","app.kubernetes.io/name":"other"}',
        'resources={"limits":{"memory":"1Gi"}}',
    )
    found = pod(*values)
    assert found["containers"][0]["image"] == f"registry.example/operator@{DIGEST}"
    assert found["containers"][0]["resources"]["limits"] == {"memory": "1Gi"}
    assert found["imagePullSecrets"] == [{"name": "registry"}]
    assert found["nodeSelector"] == {"pool": "system"}
    assert found["tolerations"] == [{"key": "system", "operator": "Exists"}]
    assert found["affinity"] == {"nodeAffinity": {}}
    assert found["priorityClassName"] == "system-cluster-critical"
    spec = the("Deployment", *values)["spec"]
    assert spec["template"]["metadata"]["annotations"]["note"] == "x"
    labels = spec["template"]["metadata"]["labels"]
    assert labels["team"] == "platform"
    assert spec["selector"]["matchLabels"].items() <= labels.items(), "podLabels must not override selector labels"


def test_an_existing_service_account_is_used() -> None:
    values = ("serviceAccount.create=false", 'serviceAccount.name="mine"')
    assert not of_kind("ServiceAccount", *values)
    assert pod(*values)["serviceAccountName"] == "mine"
    (subject,) = the("ClusterRoleBinding", *values)["subjects"]
    assert subject["name"] == "mine"


@pytest.mark.parametrize(("values", "namespace"), [((), "default"), (('namespaces=["team-a"]',), "team-a")])
def test_the_notes_contain_a_valid_first_job(values: tuple[str, ...], namespace: str) -> None:
    text = notes(*values)
    manifest = text.partition("kubectl apply -f - <<'EOF'\n")[2].partition("\nEOF\n")[0]
    job = FineTuneJob.model_validate_json(json.dumps(yaml.safe_load(manifest)))
    assert job.metadata.namespace == namespace
    assert f"kubectl --namespace {namespace} create secret generic storage" in text
    assert "rollout status deployment/finetune-operator" in text


def test_a_long_release_name_gives_valid_object_names() -> None:
    text = helm("template", "r" * 53, str(CHART), "--set=monitoring.podMonitors.enabled=true")
    for document in filter(None, yaml.safe_load_all(text)):
        assert len(document["metadata"]["name"]) <= 63
