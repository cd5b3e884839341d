"""What doctor finds: backends that work, crash, hang or are missing, and what is around them."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparring import backend, data
from sparring.backend import choice as backend_choice
from sparring.cli import app, main
from sparring.errors import DataError, SettingsError
from sparring.experiments import doctor, machine
from sparring.experiments.findings import BackendFinding, DatasetFinding

GIBIBYTE = 1 << 30


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a module of that name and code before the real one."""
    monkeypatch.syspath_prepend(tmp_path / "fakes")

    def write(name: str, code: str) -> None:
        folder = tmp_path / "fakes" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(code, encoding="utf-8")

    return write


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a shell script of that name before all other commands."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def write(name: str, code: str) -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)

    return write


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs sparring doctor in this process, an empty folder and with no downloads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["doctor", *arguments])

    return run


# Backends


@pytest.mark.backend
def test_a_backend_that_works() -> None:
    found = doctor.probe_backend(backend.name)
    assert found.state == "works", found
    assert found.version == sys.modules[backend.name].__version__
    assert found.devices == tuple(backend.devices())
    assert found.steps_per_second is not None
    assert found.steps_per_second > 0
    assert found.images_per_second == 64 * found.steps_per_second
    assert found.error is None
    assert found.hint is None


def test_a_backend_that_cannot_be_imported(fake: Callable[[str, str], None]) -> None:
    # As TensorFlow puts it, the error followed by advice.
    fake(
        "jax",
        "print('standard output is not the answer')\n"
        "raise ImportError('Traceback:\\nImportError: libfoo.so.7: cannot open shared object file'"
        "\n    '\\n\\nSee the web for some common causes')",
    )
    found = doctor.probe_backend("jax")
    assert found.state == "broken"
    assert found.error == "ImportError: libfoo.so.7: cannot open shared object file"


def test_a_backend_that_crashes(fake: Callable[[str, str], None]) -> None:
    fake("jax", "import os\nos.write(2, b'Check failed: no such device')\nos.abort()")
    found = doctor.probe_backend("jax")
    assert found.state == "broken"
    assert found.error == "crashed: Aborted; last: Check failed: no such device"


def test_a_backend_that_hangs(fake: Callable[[str, str], None]) -> None:
    # What imports frameworks hangs before any of them takes its time.
    fake("keras", "import os, time\nos.write(2, b'waiting for the driver')\ntime.sleep(600)")
    found = doctor.probe_backend("torch", timeout=5)
    assert found.state == "broken"
    assert found.error == "no answer within 5 s; last: waiting for the driver"


def test_a_gpu_that_only_nvidia_smi_sees(
    command: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    command("nvidia-smi", "echo 'NVIDIA H200, 143771 MiB, 570.86.15'\n" * 2)
    answers = '{"version": "%s", "devices": ["cpu"], "steps_per_second": 10.0}'
    monkeypatch.setattr(doctor, "_PROBE", f"print('{answers % '2.13.0+cpu'}')")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hints = {name: doctor.probe_backend(name, has_gpu=True).hint for name in backend_choice.NAMES}
    assert hints == {
        "torch": "sees no GPU: pip install --force-reinstall torch",
        "tensorflow": "sees no GPU: pip uninstall -y tensorflow-cpu; "
        "pip install 'tensorflow[and-cuda]'",
        "jax": "sees no GPU: pip install 'jax[cuda12]'",
    }
    monkeypatch.setattr(doctor, "_PROBE", f"print('{answers % '2.13.0+cu130'}')")
    hint = doctor.probe_backend("torch", has_gpu=True).hint
    assert hint == "sees no GPU: torch 2.13.0+cu130 may need a newer driver"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = doctor.examine()
    assert {backend.hint for backend in found.backends} == {
        "sees no GPU: CUDA_VISIBLE_DEVICES is ''"
    }
    assert found.gpus == 2 * ("NVIDIA H200, 143771 MiB, driver 570.86.15",)
    lines = str(found).splitlines()
    assert "GPUs      2 x NVIDIA H200, 143771 MiB, driver 570.86.15" in lines
    assert "            sees no GPU: CUDA_VISIBLE_DEVICES is ''" in lines
    assert any(
        line.endswith("works on cpu: 10 steps/s, 640 images/s") and "jax" in line for line in lines
    )


def test_an_nvidia_smi_that_fails(command: Callable[[str, str], None]) -> None:
    command("nvidia-smi", "echo 'NVIDIA-SMI has failed: no driver'; exit 9")
    found = doctor.examine(probe=False)
    assert found.gpus == ()
    assert found.gpu_error == "nvidia-smi: NVIDIA-SMI has failed: no driver"
    assert f"GPUs      {found.gpu_error}" in str(found).splitlines()


# The machine


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def test_cores_and_memory_of_a_control_group_of_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pod/container"
    _write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "proc/meminfo": f"MemTotal: {64 << 20} kB\nMemFree: 1 kB\n"
            f"MemAvailable: {32 << 20} kB\n",
            "sys/fs/cgroup/pod/cpu.max": "50000 100000\n",
            f"{group}/cpu.max": "max 100000\n",
            f"{group}/memory.max": f"{4 * GIBIBYTE}\n",
            f"{group}/memory.current": f"{3 * GIBIBYTE}\n",
            f"{group}/memory.stat": f"anon 7\ninactive_file {2 * GIBIBYTE}\n",
            "sys/fs/cgroup/pod/memory.max": "max\n",
        },
    )
    assert machine.cores(tmp_path) == (0.5, os.cpu_count())
    assert machine.memory(tmp_path) == (4 * GIBIBYTE, 3 * GIBIBYTE)


def test_cores_and_memory_of_control_groups_of_version_1(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            # The path is the host's; the container sees its group at the top.
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
            "proc/meminfo": f"MemTotal: {64 << 20} kB\nMemAvailable: {GIBIBYTE >> 10} kB\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "25000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{8 * GIBIBYTE}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIBIBYTE}\n",
        },
    )
    assert machine.cores(tmp_path) == (0.25, os.cpu_count())
    assert machine.memory(tmp_path) == (8 * GIBIBYTE, GIBIBYTE)


def test_cores_and_memory_without_limits(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "proc/self/cgroup": "1:cpu:/\n4:memory:/\n",
            "proc/meminfo": "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "7\n",
        },
    )
    unlimited, there = machine.cores(tmp_path / "nothing is here")
    assert 1 <= unlimited <= there
    assert machine.cores(tmp_path) == (unlimited, there)
    assert machine.memory(tmp_path) == (2 << 20, 1 << 20)
    total, free = machine.memory(tmp_path / "nothing is here")
    assert total is not None
    assert total > 1 << 20
    assert free is None


@pytest.mark.parametrize(("load", "told"), [(0.4, False), (3.0, True)])
def test_a_machine_where_others_compute(
    monkeypatch: pytest.MonkeyPatch, load: float, told: bool
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(machine, "cores", lambda: (2, 4))
    text = str(doctor.examine(probe=False))
    assert ("Load 3.0 on 2 cores" in text) is told
    assert ("OMP_NUM_THREADS=1 may be faster" in text) is told


# Data sets, disk, packages


def test_downloads_are_where_keras_puts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras.src.backend.config import keras_home  # it has no public name

    assert data.cache_folder() == Path(keras_home()).expanduser() / "datasets"
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    assert data.cache_folder() == tmp_path / "keras" / "datasets"


def test_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "datasets"
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in names:
        _write(cache / "fashion-mnist", {f"{name}-ubyte.gz": "<!doctype html>"})
    digits, fashion, cifar, *_ = doctor.examine(probe=False).datasets
    assert digits == DatasetFinding("digits", "present")
    assert fashion == DatasetFinding("fashion-mnist", "present", str(cache / "fashion-mnist"))
    assert cifar.state == "missing"
    assert cifar.error == f"not in {cache}: training downloads it, or --data-dir names it"
    monkeypatch.setattr(backend_choice, "NAMES", ())
    digits, fashion, *_ = doctor.examine().datasets
    assert digits.state == "verified"
    assert fashion.state == "damaged"
    assert fashion.error is not None
    assert fashion.error.endswith("a download that went wrong? Fetch the file anew.")
    # In a folder named, both are looked for, and what is wrong is said.
    (cache / "cifar-10-batches-py").mkdir()
    _, fashion, cifar, *_ = doctor.examine(cache, probe=False).datasets
    assert fashion.error is not None
    assert "expected a file train-images-idx3-ubyte.gz or train-images-idx3" in fashion.error
    assert cifar.error is not None
    assert "pickled" in cifar.error
    with pytest.raises(DataError, match="nowhere: no such folder"):
        doctor.examine(tmp_path / "nowhere")


def test_the_files_of_a_data_set_are_those_that_load_reads(tmp_path: Path) -> None:
    batches = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    _write(tmp_path / "cifar-10-batches-bin", dict.fromkeys(batches, ""))
    assert [path.name for path in data.files("cifar10", tmp_path)] == batches
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    _write(tmp_path, {"cifar-10-binary.tar.gz": ""})
    assert data.files("cifar10", tmp_path) == [tmp_path / "cifar-10-binary.tar.gz"]
    assert data.files("digits", tmp_path) == []
    with pytest.raises(SettingsError, match="Valid: digits, fashion-mnist, cifar10"):
        data.files("cifar")


def test_space_of_folders_that_are_not_made_yet(tmp_path: Path) -> None:
    found = doctor.examine(out=tmp_path / "a" / "b", probe=False).runs
    assert found.path == str(tmp_path / "a" / "b")
    assert found.free_bytes is not None
    assert found.free_bytes > 0
    assert found.writable
    (tmp_path / "file").touch()
    assert not doctor.examine(out=tmp_path / "file" / "b", probe=False).runs.writable


def test_extras_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import email

    written = email.message_from_string(
        "Provides-Extra: torch\nProvides-Extra: test\nProvides-Extra: new\nProvides-Extra: odd\n"
    )
    requirements = [
        "numpy",
        "torch; extra == 'torch'",
        "pytest>=1; extra == 'test'",
        "pytest>=1000; extra == 'new'",
        "no-such-package; extra == 'new'",
        "no-such-package; extra == 'odd' and sys_platform == 'none'",
    ]
    monkeypatch.setattr(metadata, "metadata", lambda name: written)
    monkeypatch.setattr(metadata, "requires", lambda name: requirements)
    found = doctor.examine(probe=False)
    assert found.extras is not None
    assert list(found.extras) == ["test", "new", "odd"]
    assert [len(missing) for missing in found.extras.values()] == [0, 2, 0]
    last = str(found).splitlines()[-1]
    assert last == "Extras    test, odd present; new missing: pip install 'sparring[new]'"

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    assert str(doctor.examine(probe=False)).endswith("Sparring is not installed as a package")


# The command line


def _answering(monkeypatch: pytest.MonkeyPatch, **errors: str) -> None:
    def probe(name: str, timeout: float, *, has_gpu: bool) -> BackendFinding:
        if name in errors:
            return BackendFinding(name, "broken", "1.0", error=errors[name])
        return BackendFinding(name, "works", "2.21.0", ("gpu:0", "gpu:1", "cpu"), 12.34, 789.76)

    monkeypatch.setattr(doctor, "probe_backend", probe)


def test_one_screen(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, jax=f"ImportError: {'/a/long/path' * 20}", torch="ImportError: tiré")
    answer = call()
    assert answer.exit_code == 0, answer.output
    assert "Probing tensorflow: importing it" in answer.stderr
    lines = answer.stdout.splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    works = "works on gpu:0, gpu:1, cpu: 12.3 steps/s, 790 images/s"
    assert f"          tensorflow  2.21.0       {works}" in lines
    assert "Backends  torch       1.0          broken: ImportError: tiré" in lines
    assert "Default torch" in answer.stdout


def test_text_that_standard_output_cannot_encode(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    _answering(monkeypatch, torch="ImportError: tiré")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setattr(sys, "argv", ["sparring", "doctor"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert rb"broken: ImportError: tir\xe9" in written.getvalue()


def test_json(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, jax="no")
    found = json.loads(call("--json").stdout)
    assert [(each["name"], each["state"]) for each in found["backends"]] == [
        ("torch", "works"), ("tensorflow", "works"), ("jax", "broken"),
    ]  # fmt: skip
    assert found["backends"][0]["images_per_second"] == 789.76
    assert found["usable"] is True
    assert found["cores"] == machine.cores()[0]
    assert found["runs"]["free_bytes"] > 0


def test_exit_codes(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, **dict.fromkeys(backend_choice.NAMES, "broken"))
    assert call().exit_code == 1
    assert json.loads(call("--json").stdout)["usable"] is False
    answer = call("--no-probe")
    assert answer.exit_code == 0
    assert answer.stderr == ""
    assert answer.stdout.count("installed, not probed") == 3
    answer = call("--no-probe", "--data-dir", "nowhere")
    assert answer.exit_code == 1
    assert answer.stderr == "sparring: nowhere: no such folder\n"
    monkeypatch.setattr(backend_choice, "installed", list)
    answer = call("--no-probe")
    assert answer.exit_code == 1
    for name in backend_choice.NAMES:
        assert f"not installed: pip install 'sparring[{name}]'" in answer.stdout


def test_a_default_backend_that_does_not_exist(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "trch")
    answer = call("--no-probe")
    assert "KERAS_BACKEND: unknown backend 'trch'. Did you mean 'torch'? Valid:" in answer.stdout
