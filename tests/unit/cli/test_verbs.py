"""Every verb: what it prints where, and its exit code."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import typer
import yaml

from imagecache.cli.doctor import show
from imagecache.digest import DiffID, Digest
from imagecache.errors import ContainerdUnavailable, RegistryUnavailable, StoreCorrupt
from imagecache.host.checks import Check, Status
from imagecache.host.mounter import KernelMounter
from imagecache.settings.table import Settings
from imagecache.store.layer_name import LayerName, Space
from imagecache.store.store import Store
from testkit.builder import layer_record
from testkit.store import put_bundle

from .conftest import Shell

ID = r"imc-[a-z0-9]{20}"
BUNDLE = "imc-aaaaaaaaaaaaaaaaaaaa"
DIFF_IDS = [DiffID(Digest.sha256(text)) for text in (b"base", b"app")]
LAYERS = [LayerName(space=Space.LAYERS, digest=diff_id) for diff_id in DIFF_IDS]


def columns(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_create_prints_lines_without_a_terminal(imagecache: Shell) -> None:
    result = imagecache("create", "-f", imagecache.manifest())

    lines = result.stdout.splitlines()
    assert lines[0] == "imagecache.eci.alibabacloud.com/a created"
    assert re.fullmatch(r"nginx:1\.25: sha256:[0-9a-f]{12}, 2 layers, 2\.0KiB", lines[1])
    assert lines[2] == "nginx:1.25: ready"
    assert re.fullmatch(rf"imagecache\.eci\.alibabacloud\.com/a ready \({ID}\)", lines[3])
    assert lines[4:] == ["docker.io/library/nginx:1.25 attached"]
    assert result.stderr == ""


def test_create_without_attach_from_stdin(imagecache: Shell) -> None:
    text = Path(imagecache.manifest()).read_text()

    result = imagecache("create", "--no-attach", "-f", "-", stdin=text)

    assert "attached" not in result.stdout
    assert imagecache.host.attacher.attached == {}


def test_create_for_programs(imagecache: Shell) -> None:
    result = imagecache("create", "--json", "-f", imagecache.manifest())
    events = [json.loads(line) for line in result.stdout.splitlines()]

    assert [event["event"] for event in events] == [
        "accepted",
        "resolved",
        "planned",
        "progress",
        "progress",
        "imageReady",
        "ready",
        "attached",
    ]
    assert events[0]["resumed"] is False
    assert [layer["size"] for layer in events[2]["layers"]] == [1000, 1000]
    assert (events[4]["done"], events[4]["total"]) == (4000, 4000)
    assert events[-1]["images"] == ["docker.io/library/nginx:1.25"]


def test_create_fails_with_reason_hint_and_code(imagecache: Shell) -> None:
    result = imagecache("create", "--json", "-f", imagecache.manifest(image="nginx:9"), code=14)

    assert result.stderr == "error: nginx:9: the registry has no such tag\nhint: check the tag\n"
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["event"], last["reason"], last["image"], last["exitCode"], last["nextStep"]) == (
        "error",
        "ImageNotFound",
        "nginx:9",
        14,
        "fix_input",
    )
    again = imagecache("create", "-f", imagecache.manifest())
    assert again.stdout.startswith("imagecache.eci.alibabacloud.com/a resumed\n")


def test_create_again_is_refused_and_notes_are_on_stderr(imagecache: Shell) -> None:
    file = imagecache.manifest(days="imageCacheSize: 5\n  flavour: sweet")
    result = imagecache("create", "-f", file)

    assert result.stderr.splitlines() == [
        "note: spec.flavour: unknown field, ignored",
        "note: spec.imageCacheSize: 5 GiB is raised to 20",
    ]
    refused = imagecache("create", "-f", file, code=4)
    assert refused.stderr.splitlines()[-2] == 'error: imagecaches.eci.alibabacloud.com "a" already exists'


def test_several_files_go_on_after_a_failure(imagecache: Shell) -> None:
    files = [imagecache.manifest("x", image="nginx:9"), imagecache.manifest("y"), imagecache.manifest("z", image="q:1")]
    arguments = [word for file in files for word in ("-f", file)]

    result = imagecache("create", *arguments, code=14)

    assert result.stderr.count("error: ") == 2
    assert [columns(line)[3] for line in imagecache("get").stdout.splitlines()[1:]] == ["Failed", "Ready", "Failed"]


def test_a_malformed_file_stops_all_before_anything_is_done(imagecache: Shell) -> None:
    good, bad = imagecache.manifest("good"), imagecache.manifest("Bad")

    result = imagecache("create", "-f", good, "-f", bad, code=2)

    assert f"{bad}:4: metadata.name: 'Bad' is not a valid name" in result.stderr
    assert imagecache("get").stdout == ""


def test_get_is_kubectls_table(imagecache: Shell) -> None:
    assert imagecache("get").stderr == "No resources found\n"
    imagecache("create", "-f", imagecache.manifest("demo-cache"))
    imagecache("create", "-f", imagecache.manifest("b", image="nginx:9"), code=14)
    imagecache.host.clock.advance(330)

    table = [columns(line) for line in imagecache("get").stdout.splitlines()]

    assert table[0] == ["NAME", "AGE", "CACHEID", "PHASE", "PROGRESS"]
    assert [(row[0], row[1], row[3], row[4]) for row in table[1:]] == [
        ("b", "5m30s", "Failed", "0%"),
        ("demo-cache", "5m30s", "Ready", "100%"),
    ]
    assert all(re.fullmatch(ID, row[2]) for row in table[1:])
    assert imagecache("get", "demo-cache").stdout.splitlines()[1].startswith("demo-cache   5m30s   imc-")


def test_get_wide_name_yaml_json(imagecache: Shell) -> None:
    imagecache("create", "-f", imagecache.manifest())
    imagecache("create", "-f", imagecache.manifest("b", image="nginx:9"), code=14)

    wide = [columns(line) for line in imagecache("get", "-o", "wide").stdout.splitlines()]
    assert wide[0] == ["NAME", "AGE", "CACHEID", "PHASE", "PROGRESS", "NODES", "SIZE", "REASON"]
    assert wide[1][5:] == ["1/1", "3.9KiB"]
    assert wide[2][5:] == ["ImageNotFound: nginx:9: the registry has no such tag; check the tag"]
    names = imagecache("get", "-o", "name").stdout.splitlines()
    assert names == ["imagecache.eci.alibabacloud.com/a", "imagecache.eci.alibabacloud.com/b"]
    document = yaml.safe_load(imagecache("get", "a", "-o", "yaml").stdout)
    assert document["status"]["phase"] == "Ready"
    assert document["status"]["expireDateTime"] == "2024-05-08T12:00:00Z"
    assert document["spec"] == {"images": ["nginx:1.25"], "retentionDays": 7}
    listed = json.loads(imagecache("get", "-o", "json").stdout)
    assert (listed["kind"], len(listed["items"])) == ("List", 2)
    assert json.loads(imagecache("get", "a", "-o", "json").stdout) == json.loads(json.dumps(document))


def test_get_of_nobody(imagecache: Shell) -> None:
    result = imagecache("get", "nobody", code=3)

    assert result.stderr.splitlines()[0] == 'error: imagecaches.eci.alibabacloud.com "nobody" not found'


def test_get_watch_shows_every_change(imagecache: Shell) -> None:
    imagecache("create", "-f", imagecache.manifest("first-name"))
    steps = iter(["create", "delete", "nothing"])

    def sleep() -> None:
        match next(steps, None):
            case "create":
                imagecache("create", "-f", imagecache.manifest("b"))
            case "delete":
                imagecache("delete", "first-name")
            case None:
                raise KeyboardInterrupt

    imagecache.on_sleep = sleep
    lines = imagecache("get", "-w", code=130).stdout.splitlines()

    assert [columns(line)[0] for line in lines] == ["NAME", "first-name", "b"]
    assert lines[2].index("imc-") == lines[1].index("imc-")


def test_get_watch_one_that_goes_away(imagecache: Shell) -> None:
    imagecache("create", "-f", imagecache.manifest())
    steps = iter(["delete", "nothing"])

    def sleep() -> None:
        if (step := next(steps, None)) is None:
            raise KeyboardInterrupt
        if step == "delete":
            imagecache("delete", "a")

    imagecache.on_sleep = sleep
    assert len(imagecache("get", "a", "-w", "-o", "name", code=130).stdout.splitlines()) == 1


def test_describe(imagecache: Shell) -> None:
    imagecache("create", "-f", imagecache.manifest())
    imagecache("create", "-f", imagecache.manifest("b", image="redis:7"))
    imagecache.host.clock.advance(90)

    text = imagecache("describe", "a").stdout

    assert "Name:         a\n" in text
    assert "Annotations:  k8s.aliyun.com/imc-enable-reuse: true\n" in text
    assert "Created:      2024-05-01T12:00:00Z (90s ago)\n" in text
    assert "Phase:        Ready (100%)\n" in text
    assert "Size:         3.9KiB\n" in text
    assert "Expires:      2024-05-08T12:00:00Z\n" in text
    assert "Attached:     yes\n" in text
    assert re.search(r"nginx:1\.25 +linux/amd64 +sha256:[0-9a-f]{64} +2 +2\.0KiB +no +yes\n", text)
    assert re.search(r"[0-9a-f]{12} +2\.0KiB +1 +b\n", text)
    assert re.search(r"[0-9a-f]{12} +2\.0KiB +1 +<none>\n", text)
    assert re.search(r"Normal +Pulled +90s +Successfully pulled image nginx:1\.25\n", text)


def test_describe_says_what_only_the_cache_makes_usable(imagecache: Shell) -> None:
    imagecache("create", "-f", imagecache.manifest())
    assert "Note:" not in imagecache("describe", "a").stdout
    documents = imagecache.host.store.documents
    for key, document in documents.items():
        images = tuple(msgspec.structs.replace(image, notes=("will not pull", "odd")) for image in document.images)
        documents[key] = msgspec.structs.replace(document, images=images)

    text = imagecache("describe", "a").stdout

    assert "Note:         nginx:1.25: will not pull\nNote:         nginx:1.25: odd\n" in text


def test_describe_says_when_it_is_built_anew(imagecache: Shell) -> None:
    path = Path(imagecache.manifest())
    for text, shown in (
        ("0 3 * * *", "Next refresh: 2024-05-02T03:00:00Z, by this host's agent\n"),
        (
            "daily",
            "Refresh:      metadata.annotations[imagecache.dev/refresh-schedule]: 'daily' is no schedule: it needs",
        ),
    ):
        line = f'    imagecache.dev/refresh-schedule: "{text}"\nspec:'
        path.write_text(Path(imagecache.manifest()).read_text().replace("spec:", line))
        imagecache("apply", "-f", str(path))

        assert shown in imagecache("describe", "a").stdout


def test_describe_a_failure_says_whose_turn_it_is(imagecache: Shell) -> None:
    imagecache.host.builder.failure = RegistryUnavailable("no answer", image="nginx:1.25")
    imagecache("create", "-f", imagecache.manifest(), code=10)
    imagecache("create", "-f", imagecache.manifest(), code=10)

    text = imagecache("describe", "a").stdout

    assert "Reason:       RegistryUnavailable: nginx:1.25: no answer\n" in text
    assert "Next step:    run the same create again; it may succeed later\n" in text
    assert "Layers:       <none>\n" in text
    assert re.search(r"Warning +RegistryUnavailable +0s \(x2\) +nginx:1\.25: no answer\n", text)


def test_delete_says_what_stays(imagecache: Shell) -> None:
    imagecache("create", "-f", imagecache.manifest())
    layer = layer_record("base", ("base",)).name
    imagecache.host.store.held[layer] = "agent"

    result = imagecache("delete", "a")

    assert result.stdout == 'imagecache.eci.alibabacloud.com "a" deleted\n'
    assert result.stderr == f"note: {layer} stays: leased by agent\n"
    assert imagecache("delete", "a", code=3).stdout == ""


def test_attach_and_detach(imagecache: Shell) -> None:
    imagecache("create", "--no-attach", "-f", imagecache.manifest())

    assert imagecache("attach", "a").stdout == "docker.io/library/nginx:1.25 attached\n"
    assert imagecache("detach", "a").stdout == "docker.io/library/nginx:1.25 detached\n"
    imagecache.host.attacher.failure = ContainerdUnavailable("nobody listens at /x", hint="start containerd")
    assert imagecache("attach", "a", code=63).stderr == "error: nobody listens at /x\nhint: start containerd\n"


def test_the_name_of_a_private_image_is_withheld(imagecache: Shell) -> None:
    imagecache.host.builder.private = frozenset({"nginx:1.25"})

    created = imagecache("create", "-f", imagecache.manifest()).stdout.splitlines()[-1]

    assert created == "docker.io/library/nginx:1.25 layers attached, name withheld (private)"
    assert imagecache("attach", "a").stdout == (
        "docker.io/library/nginx:1.25 layers attached, name withheld (private: containers need their own credential)\n"
    )


def test_the_name_of_an_unverified_image_is_withheld(imagecache: Shell) -> None:
    imagecache.host.builder.unverified = frozenset({"nginx:1.25"})

    created = imagecache("create", "-f", imagecache.manifest()).stdout.splitlines()[-1]

    assert created == "docker.io/library/nginx:1.25 layers attached, name withheld (unverified registry)"
    assert "insecure_registries" in imagecache("attach", "a").stdout
    described = imagecache("describe", "a").stdout
    assert described[described.index("Images:") :].splitlines()[1].split()[-1] == "VERIFIED"
    assert described[described.index("Images:") :].splitlines()[2].split()[-1] == "no"


def test_what_has_expired_is_deleted_by_the_next_create(imagecache: Shell) -> None:
    imagecache("create", "-f", imagecache.manifest())
    imagecache.host.clock.advance(days=7)

    result = imagecache("create", "-f", imagecache.manifest())

    assert result.stderr == "note: a has expired and was deleted\n"
    assert result.stdout.startswith("imagecache.eci.alibabacloud.com/a created\n")
    imagecache.host.clock.advance(days=7)
    imagecache.host.attacher.failure = ContainerdUnavailable("nobody listens")
    result = imagecache("create", "-f", imagecache.manifest("b"), code=63)
    assert "note: a has expired and could not be deleted: nobody listens\n" in result.stderr


class RecordingMounter(KernelMounter):
    def __init__(self) -> None:
        super().__init__()
        self.mounted_images: list[tuple[Sequence[Path], Path]] = []

    def mount_image(self, images: Sequence[Path], target: Path, scratch: Path) -> None:
        del scratch
        self.mounted_images.append((images, target))


def test_mount(imagecache: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounter, asked = RecordingMounter(), []

    def made(_settings: Settings, *, overlays: Sequence[str]) -> RecordingMounter:
        asked.append(overlays)
        return mounter

    monkeypatch.setattr("imagecache.apps.mount.mounter", made)
    store = Store.open(imagecache.folder / "store")
    put_bundle(store, BUNDLE, DIFF_IDS, [b"base", b"app"])

    done = imagecache("mount", "busybox", str(tmp_path))

    assert done.stdout == f"busybox mounted at {tmp_path} (2 layers, {BUNDLE})\n"
    assert mounter.mounted_images == [([store.layers.path(name) for name in LAYERS], tmp_path)]
    imagecache("mount", "--inode-numbers", "short", "busybox", str(tmp_path))
    assert asked == [("index=off", "xino=on"), ("index=off", "xino=off")]
    assert "nothing:1" in imagecache("mount", "nothing:1", str(tmp_path), code=3).stderr


def test_umount_of_what_is_no_mount(imagecache: Shell, tmp_path: Path) -> None:
    assert f"mounted at {tmp_path}" in imagecache("umount", str(tmp_path), code=3).stderr


@pytest.mark.parametrize("worst", [Status.OK, Status.WARNING, Status.PROBLEM])
def test_checks_are_shown_and_the_worst_decides(worst: Status, capsys: pytest.CaptureFixture[str]) -> None:
    checks = (
        Check("kernel", "erofs", Status.OK, "mounts files directly"),
        Check("store", "space", worst, "3% free", "delete caches" if worst else ""),
    )
    codes = {Status.OK: 0, Status.WARNING: 80, Status.PROBLEM: 81}

    for as_json in (False, True):
        with pytest.raises(typer.Exit) as ended:
            show(checks, as_json=as_json)
        assert ended.value.exit_code == codes[worst]
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "ok       kernel      erofs: mounts files directly"
    assert (lines[-3].strip() == "-> delete caches") == bool(worst)
    assert json.loads(lines[-1])["severity"] == worst.name.lower()


def test_doctor_finds_no_containerd(imagecache: Shell, tmp_path: Path) -> None:
    address = str(tmp_path / "containerd.sock")

    found = [
        json.loads(line)
        for line in imagecache("doctor", "--json", "--address", address, code=81).stdout.split("\n")[:-1]
    ]

    assert {check["area"] for check in found} >= {"kernel", "store", "containerd"}
    connection = next(check for check in found if check["name"] == "connection")
    assert (connection["severity"], address in connection["detail"]) == ("problem", True)
    isolation = next(check for check in found if check["name"] == "isolation of workers")
    assert (isolation["severity"], isolation["detail"].startswith("no_new_privs, seccomp, ")) == ("ok", True)


def test_check(imagecache: Shell) -> None:
    assert imagecache("check").stdout == "0 files checked, no problems\n"

    store = Store.open(imagecache.folder / "store")
    put_bundle(store, BUNDLE, DIFF_IDS, [b"base", b"app"])
    layer, stray = store.layers.path(LAYERS[0]), store.root / "layers/stray"
    layer.unlink()
    layer.write_bytes(b"x")
    stray.touch()
    problem = "has 1 bytes; the bundle records 4"
    report = json.loads(imagecache("check", "--json", code=StoreCorrupt.exit_code).stdout)

    assert report["corrupt"] == [{"path": str(layer), "problem": problem, "movedTo": None}]
    assert not report["healthy"]
    result = imagecache("check", "--quarantine", code=StoreCorrupt.exit_code)
    lines = result.stdout.splitlines()
    aside = re.search(r"set aside as (.*)\)", lines[0])
    assert aside is not None
    assert Path(aside[1]).read_bytes() == b"x"
    assert lines == [
        f"corrupt    {layer}: {problem} (set aside as {aside[1]})",
        f"unexpected {stray}: not a layer image",
        "7 files checked, 1 problem",
    ]
    assert "create it again" in result.stderr


def test_check_deep_proves_layer_images(imagecache: Shell) -> None:
    """These layer images have the digest that the bundle says, and are none."""
    put_bundle(Store.open(imagecache.folder / "store"), BUNDLE, DIFF_IDS, [b"base", b"app"])

    assert imagecache("check").stdout == "7 files checked, no problems\n"
    assert "2 problems" in imagecache("check", "--deep", code=StoreCorrupt.exit_code).stdout


def test_containerd_config(imagecache: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No containerd runs here, so its program is asked for its version."""
    program = tmp_path / "bin/containerd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho containerd github.com/containerd/containerd v2.1.0 abc\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    main = tmp_path / "etc/config.toml"
    flags = ("--address", str(tmp_path / "no.sock"), "--containerd-config", str(main))

    text = imagecache("containerd-config", "print", *flags).stdout
    installed = imagecache("containerd-config", "install", *flags)

    assert tomllib.loads(text)["proxy_plugins"]["imagecache"]["type"] == "snapshot"
    assert installed.stdout == f"{main.parent}/imagecache.toml created\n{main} created\n"
    assert "restart containerd" in installed.stderr
    assert (main.parent / "imagecache.toml").read_text() == text
    again = imagecache("containerd-config", "install", *flags)
    assert (again.stdout.count("unchanged"), again.stderr) == (2, "")
    undone = imagecache("containerd-config", "undo", *flags)
    assert (undone.stdout.count("removed"), "restart containerd" in undone.stderr) == (2, True)
    assert imagecache("containerd-config", "undo", *flags).stderr == ""


def test_bare_and_wrong_commands(imagecache: Shell) -> None:
    assert "create" in imagecache(code=2).output
    assert "create" in imagecache("--help").stdout
    assert imagecache("--version").stdout.startswith("imagecache 0.")
    assert "No such command" in imagecache("frobnicate", code=2).stderr
    assert "table" in imagecache("get", "-o", "xml", code=2).stderr
