import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webhooks.mutations.protection_findings import reaches_devices


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/dev/nvidia0",
            "/dev/nvidiactl",
            "/dev/nvidia-caps/nvidia-cap1",
            "/dev/dri",
            "/dev/dri/renderD128",
            "/dev/kfd",
        ),
        *("/dev/dfl-port.0", "/dev/xdma0_user", "/dev/xclmgmt768", "/dev/vfio/1", "/dev/accel0", "/dev/char/195:0"),
        *("/proc/driver/nvidia", "/proc/driver/nvidia-caps/mig-minors", "/run/nvidia/driver", "/var/run/nvidia"),
        *("/proc/1/root/dev", "/proc/self/root"),
        *("/var/lib/kubelet/device-plugins", "/var/lib/kubelet/pod-resources/kubelet.sock"),
    ],
)
def test_a_path_of_accelerators(path: str) -> None:
    assert reaches_devices(path)


@pytest.mark.parametrize(
    "path",
    ["/", "/dev", "/proc", "/proc/driver", "/run", "/var/run", "/var", "/var/lib", "/var/lib/kubelet", "", "."],
)
def test_a_folder_above_accelerators(path: str) -> None:
    assert reaches_devices(path)


@pytest.mark.parametrize(
    "path",
    ["/dev/", "//dev", "///dev//nvidia0", "/dev/./nvidia0", "/data/../dev/nvidia0", "/dev/shm/..", "/var//run/nvidia/"],
)
def test_a_path_that_is_written_otherwise(path: str) -> None:
    assert reaches_devices(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/dev/null", "/dev/shm", "/dev/nvme0n1", "/dev/infiniband", "/dev/hugepages", "/data", "/data/dev/nvidia0"),
        *("/sys", "/proc/meminfo", "/run/containerd", "/var/lib/kubelet/pods", "/var/lib/docker", "/device", "/etc"),
    ],
)
def test_other_paths_of_the_host(path: str) -> None:
    assert not reaches_devices(path)


@settings(max_examples=200, deadline=None)
@given(
    above=st.lists(st.sampled_from(["", ".", "x/..", "/"]), max_size=5),
    target=st.sampled_from(["dev", "dev/nvidia0", "proc/driver/nvidia", "var/run/nvidia"]),
    slashes=st.integers(0, 3),
)
def test_no_detour_hides_a_path(above: list[str], target: str, slashes: int) -> None:
    assert reaches_devices("/" + "/".join([*above, target]) + "/" * slashes)
