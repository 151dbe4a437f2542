"""The pages on Kubernetes: somebody leads a job through its life by their commands, to the letter, and gets what they promise."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from example_modules import EXAMPLES, check_statements
from s3_server import S3Bucket

from backend_job import StateBackendJob
from cluster.cluster import S3_ACCESS_KEY, S3_SECRET_KEY, Cluster
from cluster_s3 import s3_of, s3_storage
from installation import PROJECT, operator_pods, until_operator_runs
from orders_job import NAME
from page_commands import blocks, commands
from s3_orders_job import S3OrdersJob
from user_shell import WHERE_TESTS_INSTALL, UserShell, says_ready

RUNS: Final = r"orders +True +Running +2/2 "
DESCRIBED: Final = r"Name: +orders\n.*Kind: +StreamJob\n.*Conditions:.*Events:.*Deployed"
DEPLOYED: Final = r" Deployed +StreamJob/orders +revision 1"
LOGGED: Final = r"\[pod/orders-(coordinator|w\d)-\w+/checkdam\] "
OPERATOR_LOGGED: Final = r'\{"time": .*"message": '
LOOKS: Final[list[tuple[list[str], list[str]]]] = [
    (commands("docs/how-to/troubleshooting.md", ""), [RUNS, DESCRIBED, DEPLOYED, LOGGED]),
    (commands("docs/how-to/monitoring.md", ""), ["orders condition met", DEPLOYED]),
    (commands("docs/how-to/monitoring.md", "Metrics"), [r"kind: PrometheusRule.*alert: CheckdamJobStalled"]),
    (commands("docs/how-to/monitoring.md", "Logs"), [LOGGED]),
    (commands("docs/how-to/runbooks.md", "CheckdamJobStalled"), [RUNS, DESCRIBED]),
    (
        commands("docs/how-to/runbooks.md", "CheckdamJobNotReady"),
        [r"(?m)^Ready=True .", DEPLOYED, r"orders-coordinator-\w+ +1/1 +Running(.*\norders-w\d-\w+ +1/1 +Running){2}"],
    ),
    (commands("docs/how-to/runbooks.md", "CheckdamJobRestarting"), [DEPLOYED, LOGGED]),
    (commands("docs/how-to/runbooks.md", "CheckdamCheckpointTooOld"), [r'"uri":"s3://']),
    (commands("docs/how-to/runbooks.md", "CheckdamStrangersRejected"), [r"epoch"]),
    (
        commands("docs/how-to/runbooks.md", "CheckdamOperatorDown"),
        [r"deployment.apps/checkdam +2/2(.*\npod/checkdam-){2}", r"(Name: +checkdam-.*Events:.*){2}", OPERATOR_LOGGED],
    ),
    (
        commands("docs/how-to/runbooks.md", "CheckdamOperatorNoLeader"),
        [r"checkdam +checkdam-\w+-\w+_", OPERATOR_LOGGED],
    ),
    (commands("docs/how-to/runbooks.md", "CheckdamReconcileErrors"), [OPERATOR_LOGGED]),
    (
        commands("docs/how-to/runbooks.md", "CheckdamApiRequestsFailing"),
        [r"streamjobs\.checkdam\.dev ", OPERATOR_LOGGED],
    ),
    (commands("docs/how-to/runbooks.md", "CheckdamWatchStale"), [OPERATOR_LOGGED]),
]
"""Commands that only show something → what must be in there of a job that is well."""


def says(user: UserShell, command: str, wanted: str) -> None:
    """Run a command, in whose output a regular expression must be found."""
    printed = user.run(command)
    assert re.search(wanted, printed, re.DOTALL), f"no {wanted!r} of `{command}` in:\n{printed}"


def storage(bucket: str) -> dict[str, Any]:
    """A bucket of the cluster's S3 server, by the keys that the pages have people put into a Secret."""
    found = s3_storage(bucket)
    found["s3"]["credentialsSecret"] = "streams-s3"
    return found


def write_manifest(job: S3OrdersJob, folder: Path, **spec: Any) -> None:
    """Write the pages' job.yaml, but for what there is not here: their registry, their S3, and two whole CPUs.

    The results are in a folder that another namespace reaches too.
    """
    manifest = yaml.safe_load(blocks("docs/how-to/run-on-kubernetes.md", "From a laptop to a cluster", "yaml")[1])
    has = manifest["spec"]
    has |= {"jobId": "production/orders", **spec}
    has["checkpoint"] |= {"interval": "1s", "storage": storage(job.bucket)}
    del has["image"], has["worker"]["resources"]
    has["program"]["configMap"] = NAME
    [results] = has["worker"]["podTemplate"]["spec"]["volumes"]
    del results["persistentVolumeClaim"]
    results["hostPath"] = {"path": str(job.folder.parent)}
    (folder / "job.yaml").write_text(yaml.safe_dump(manifest))


def write_files(job: S3OrdersJob, folder: Path) -> None:
    """Write the other files that the pages' commands name."""
    keys = {"AWS_ACCESS_KEY_ID": S3_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET_KEY}
    (folder / "keys.env").write_text("".join(f"{name}={value}\n" for name, value in keys.items()))
    [savepoint] = blocks("docs/how-to/savepoints-on-kubernetes.md", "", "yaml file=before-the-sale.yaml")
    (folder / "before-the-sale.yaml").write_text(savepoint)
    words = yaml.safe_load(blocks("docs/how-to/install.md", "A first job", "yaml file=words.yaml")[0])
    words["spec"]["checkpoint"]["storage"] = storage(job.bucket)
    (folder / "words.yaml").write_text(yaml.safe_dump(words))
    (folder / "charts").symlink_to(PROJECT / "charts")


@pytest.fixture
def job(checkdam: Cluster, namespaces: Callable[[], str], shared_folder: Path) -> S3OrdersJob:
    """A job that nobody has applied yet. Its program and the folder for its results are there."""
    shared_folder.chmod(0o777)  # Kubernetes gives volumes of this kind to no group
    job = S3OrdersJob(checkdam, namespaces(), bucket=s3_of(checkdam).new_bucket().name, folder=shared_folder / "orders")
    give_program(job)
    return job


def give_program(job: S3OrdersJob) -> None:
    """Put the program where job.yaml has it."""
    job.kubectl("create", "configmap", NAME, f"--from-file={EXAMPLES / NAME / 'orders.py'}")


@pytest.fixture
def user(job: S3OrdersJob, tmp_path: Path) -> UserShell:
    """Somebody with the files of the pages, whose job is what they call `orders`, `JOB` or `NAME`."""
    write_manifest(job, tmp_path)
    write_files(job, tmp_path)
    names = {
        "NAMESPACE": job.namespace,
        "JOB": NAME,
        "NAME": NAME,
        "POD": operator_pods(job.cluster)[0]["metadata"]["name"],
        **WHERE_TESTS_INSTALL,
        "6471": ":6471",  # any port of this computer, of which others may have that one
    }
    return replace(UserShell.of(job.cluster, job.namespace, tmp_path), folder=tmp_path, names=names)


def test_a_job_is_led_through_its_life_by_the_commands_of_the_pages(
    job: S3OrdersJob, user: UserShell, namespaces: Callable[[], str]
) -> None:
    _run(job, user)
    _look(job, user)
    _rotate_the_keys(job, user)
    _take_a_savepoint(job, user)
    _scale(job, user)
    _upgrade(job, user)
    _suspend(job, user)
    _move(job, user, namespaces())


def _run(job: S3OrdersJob, user: UserShell) -> None:
    [secret] = commands("docs/how-to/run-on-kubernetes.md", "Checkpoints")
    apply, wait, watch = commands("docs/how-to/run-on-kubernetes.md", "From a laptop to a cluster")
    _, apply_words, wait_for_words, show = commands("docs/how-to/install.md", "A first job")
    for command in (secret, apply, apply_words, wait):
        user.run(command)
    user.watch(watch, lambda line: line.startswith(NAME) and says_ready(line))
    user.run(wait_for_words)
    says(user, show, RUNS + r".*\nwords +True +Running +2/2 ")
    job.until_more(0)


def _look(job: S3OrdersJob, user: UserShell) -> None:
    job.until(lambda: job.object()["status"].get("lastCheckpoint"), "checkpoint in the status")
    until_operator_runs(job.cluster)  # the test before may have broken it
    for shown, wanted in LOOKS:
        for command, each in zip(shown, wanted, strict=True):
            says(user, command, each)

    show, describe, logs, forward = commands("docs/how-to/run-on-kubernetes.md", "Look at it")
    says(user, show, RUNS)
    says(user, describe, DESCRIBED)
    says(user, logs, LOGGED)
    user.watch(forward, lambda line: _state_by(line, job) == "RUNNING")


def _state_by(line: str, job: S3OrdersJob) -> str | None:
    """What the coordinator says that its job does, as soon as `kubectl port-forward` has said where it is reached."""
    found = re.match(r"Forwarding from (127\.0\.0\.1:\d+) -> 6471", line)
    if found is None:
        return None
    headers = {"Authorization": f"Bearer {_token(job)}"}
    request = urllib.request.Request(f"http://{found[1]}/v1/job", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return str(json.load(answer)["state"])


def _token(job: S3OrdersJob) -> str:
    """What opens the HTTP API of the job."""
    about = (f"--selector=checkdam.dev/job={job.name}", "--output=jsonpath={.items[*].data.token}")
    return b64decode(job.kubectl("get", "secrets", *about)).decode()


def _rotate_the_keys(job: S3OrdersJob, user: UserShell) -> None:
    rotate, last_checkpoint = commands("docs/how-to/rotate-secrets.md", "Keys of S3")
    pods = job.names()
    says(user, rotate, "secret/streams-s3 configured")
    says(user, last_checkpoint, f'"uri":"s3://{job.bucket}/')
    job.until_more(job.check() + 1000)
    assert job.names() == pods


def _take_a_savepoint(job: S3OrdersJob, user: UserShell) -> None:
    apply, wait, show = commands("docs/how-to/savepoints-on-kubernetes.md", "")
    show_all, describe = commands("docs/how-to/runbooks.md", "CheckdamSavepointsFailing")
    mark, delete = commands("docs/how-to/savepoints-on-kubernetes.md", "Delete one with its files")
    user.run(apply)
    user.run(wait)
    completed = r"before-the-sale +Completed +orders +s3://"
    says(user, show, completed)
    says(user, show_all, f"{job.namespace} +{completed}")
    about = replace(user, names={**user.names, "NAME": "before-the-sale"})
    says(about, describe, r"Name: +before-the-sale\n.*Kind: +Savepoint\n.*State: +Completed")

    bucket = S3Bucket(s3_of(job.cluster), job.bucket)
    stored = bucket.keys
    uri = job.kubectl("get", "savepoint", "before-the-sale", "--output=jsonpath={.status.uri}")
    metadata = f"{uri.removeprefix(bucket.uri).strip('/')}/_metadata"
    assert metadata in stored()
    user.run(mark)
    job.until(lambda: job.object()["status"].get("disposals"), "note of the files")
    user.run(delete)
    job.until(lambda: True if metadata not in stored() else None, "end of the files")


def _scale(job: S3OrdersJob, user: UserShell) -> None:
    scale, wait = commands("docs/how-to/scale-on-kubernetes.md", "")
    user.run(scale)
    user.run(wait)
    assert len(job.names("worker")) == 4
    job.until_more(job.check() + 1000)


def _upgrade(job: S3OrdersJob, user: UserShell) -> None:
    apply, watch, wait = commands("docs/how-to/upgrade-a-job.md", "")
    [restart] = commands("docs/how-to/upgrade-a-job.md", "What restarts a job, and what does not")
    deployment, events = commands("docs/how-to/upgrade-a-job.md", "Watch it")
    pods, before = set(job.names()), _revision(job)
    write_manifest(job, user.folder, restart={"initialDelay": "2s"})
    user.run(apply)
    user.watch(watch, lambda line: says_ready(line) and _revision(job) > before)
    user.run(wait)
    assert not pods & set(job.names())
    assert len(job.names("worker")) == 2

    pods = set(job.names())
    user.run(restart)
    user.run(wait)
    assert not pods & set(job.names())
    says(user, deployment, rf'"revision":{before + 2}\b')
    says(user, events, rf" Deployed +StreamJob/orders +revision {before + 2}\b")
    job.until_more(job.check())


def _revision(job: S3OrdersJob) -> int:
    return int(job.object()["status"]["deployment"]["revision"])


def _suspend(job: S3OrdersJob, user: UserShell) -> None:
    suspend, wait, show, resume = commands("docs/how-to/suspend-and-resume.md", "")
    [suspend_all] = commands("docs/how-to/suspend-and-resume.md", "Maintenance")
    _, _, until_gone, forget, _ = commands("docs/how-to/rotate-secrets.md", "Of a job")  # the others are the same
    token = _token(job)
    user.run(suspend)
    user.run(wait)
    suspended = user.run(show)
    assert re.search(r"^orders +True +Suspended ", suspended, re.MULTILINE)
    assert "words" not in suspended
    written = job.check()
    user.run(until_gone)
    assert job.names() == []
    user.run(forget)
    user.run(resume)
    job.until_more(written + 1000)
    assert _token(job) != token

    user.run(suspend_all)
    user.run(wait)
    replace(job, name="words").wait("jsonpath={.status.state}=Suspended")


def _move(job: S3OrdersJob, user: UserShell, namespace: str) -> None:
    suspend, wait, apply, wait_again, delete = commands(
        "docs/how-to/back-up-and-recover.md", "Go on in another cluster"
    )
    moved = replace(job, namespace=namespace)
    give_program(moved)
    [secret] = commands("docs/how-to/run-on-kubernetes.md", "Checkpoints")
    _name_context(user, "new", namespace)
    _name_context(user, "old", job.namespace)
    user.run(secret.replace("kubectl", "kubectl --context new"))
    written = job.check()
    user.run(suspend)
    user.run(wait)
    user.run(apply)
    user.run(wait_again)
    user.run(delete)
    assert moved.object()["status"]["restoredFrom"].startswith(f"s3://{job.bucket}/")
    moved.until_more(written + 1000)
    assert job.kubectl("get", "streamjobs", "--output=name").split() == ["streamjob.checkdam.dev/words"]


def _name_context(user: UserShell, name: str, namespace: str) -> None:
    """Have a context in the user's kubeconfig that chooses a namespace of the cluster."""
    current = json.loads(user.run("kubectl config view --minify --output json"))["contexts"][0]["context"]
    same = f"--cluster {current['cluster']} --user {current['user']}"
    user.run(f"kubectl config set-context {name} {same} --namespace {namespace}")


def test_argo_cd_is_told_of_checkdams_resources_and_a_field_stays_that_is_taken_out_of_git(
    checkdam: Cluster, namespace: str, tmp_path: Path
) -> None:
    patch, _, _ = commands("docs/how-to/gitops.md", "Argo CD")  # the others are those of an installation
    [own] = commands("docs/how-to/gitops.md", "What is not in Git")
    names = {"namespace argocd": f"namespace {namespace}"}
    user = replace(UserShell.of(checkdam, namespace, tmp_path), folder=tmp_path, names=names)

    file = tmp_path / "gitops" / "argocd" / "argocd-cm.yaml"
    file.parent.mkdir(parents=True)
    of_page = (PROJECT / file.relative_to(tmp_path)).read_text()
    file.write_text(of_page.replace("namespace: argocd", f"namespace: {namespace}"))
    user.run("kubectl create configmap argocd-cm --from-literal url=https://argocd.example.com")
    user.run(patch)
    merged = json.loads(user.run("kubectl get configmap argocd-cm --output json"))["data"]
    assert merged == {"url": "https://argocd.example.com", **yaml.safe_load(of_page)["data"]}

    [parallelism] = blocks("docs/how-to/gitops.md", "What is not in Git", "text")
    (tmp_path / "parallelism.yaml").write_text(parallelism)
    tool = "kubectl apply --server-side --field-manager tool --filename in-git.yaml"
    in_git = yaml.safe_load((PROJECT / "gitops" / "example" / "base" / "flight-delays.yaml").read_text())
    in_git["spec"]["checkpoint"]["storage"] = storage("any")
    for spec in ({"suspend": True, "parallelism": 8}, {"suspend": True}):  # so it has no pods
        (tmp_path / "in-git.yaml").write_text(yaml.safe_dump(in_git | {"spec": in_git["spec"] | spec}))
        user.run(tool)
        user.run(own)
    ask = "kubectl get streamjob flight-delays --output jsonpath={.spec.parallelism}"
    assert user.run(ask) == "8"


def test_the_jobs_of_the_examples_complete_by_the_commands_of_their_pages(
    checkdam: Cluster, namespace: str, tmp_path: Path
) -> None:
    _, word_count, watch = commands("examples/README.md", "In a cluster")  # the first is that of the quick start
    program, claims, apply, watch_again, keys, apply_rocksdb = commands(
        "examples/state-backends/README.md", "In a cluster"
    )
    names = {"KEY": S3_ACCESS_KEY, "SECRET": S3_SECRET_KEY}
    user = replace(UserShell.of(checkdam, namespace, tmp_path), folder=tmp_path, names=names)
    _copy_examples(tmp_path / "examples", s3_of(checkdam).new_bucket().name)
    for command in (word_count, program, claims, apply, keys, apply_rocksdb):
        user.run(command)
    user.watch(watch, _all_completed("word-count"))
    state_backends = ("memory-state-backend", "fs-state-backend", "rocksdb-state-backend")
    user.watch(watch_again, _all_completed(*state_backends))
    for name in state_backends:
        check_statements(StateBackendJob(checkdam, namespace, name).rows(), 200_000)


def _copy_examples(folder: Path, bucket: str) -> None:
    """The examples, with a bucket of the cluster's S3 server in the manifest where the page wants one."""
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns(".checkdam", "__pycache__"))
    file = folder / "state-backends" / "rocksdb-state-backend.yaml"
    manifest = yaml.safe_load(file.read_text())
    manifest["spec"]["checkpoint"]["storage"] = s3_storage(bucket)
    file.write_text(yaml.safe_dump(manifest))


def _all_completed(*names: str) -> Callable[[str], bool]:
    """Tells by lines of `kubectl get streamjobs --watch` whether these jobs have completed."""
    rest = set(names)

    def enough(line: str) -> bool:
        name, *words = line.split()
        if "Completed" in words:
            rest.discard(name)
        return not rest

    return enough
