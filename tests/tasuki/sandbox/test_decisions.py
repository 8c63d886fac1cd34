"""The kubelet's and the scheduler's decisions, without sockets."""

import pytest

from deviceplugin.container import DeviceNode, Mount
from protos.deviceplugin.v1beta1 import api_pb2
from tasuki.sandbox.allocation import AdmissionError, choose, in_no_order, reserve
from tasuki.sandbox.container_options import merge
from tasuki.sandbox.pods import Container, Pod
from tasuki.sandbox.scheduling import must_end_first, shortages
from tasuki.sandbox.table import table
from tasuki.sandbox.views import ResourceView

GPU = "nvidia.com/gpu"


def view(*healthy: str, unhealthy: tuple[str, ...] = ()) -> ResourceView:
    return ResourceView(GPU, frozenset(healthy), frozenset(unhealthy), connected=True)


def wants(name: str, count: int, *, job: str = "") -> Pod:
    return Pod(name, (Container("main", {GPU: count}),), uid=name, job=job)


class TestAllocation:
    @pytest.mark.parametrize(
        ("preferred", "followed"),
        [
            pytest.param(["c", "d"], {"c", "d"}, id="wholly"),
            pytest.param(["c"], {"c"}, id="and filled up with any other"),
            pytest.param(["in-use", "unknown", "d"], {"d"}, id="as far as its devices are free"),
        ],
    )
    def test_the_preference_is_followed(self, preferred: list[str], followed: set[str]) -> None:
        reservation = reserve(view("a", "c", "d", "in-use"), 2, {"in-use"}, set())

        chosen = choose(reservation, preferred)

        assert len(chosen) == 2
        assert followed <= set(chosen) <= {"a", "c", "d"}

    def test_reusable_devices_are_taken_first_and_must_be_included(self) -> None:
        reservation = reserve(view("a", "b", "c"), 2, {"a"}, {"a"})

        assert reservation.taken == {"a"}
        assert reservation.available == {"b", "c"}
        assert (reservation.missing, reservation.size) == (1, 2)

    def test_enough_reusable_devices_leave_nothing_to_choose(self) -> None:
        reservation = reserve(view("a", "b"), 1, {"a", "b"}, {"a", "b"})

        assert reservation.missing == 0
        assert set(choose(reservation, [])) == reservation.taken

    def test_too_few_free_devices_are_counted(self) -> None:
        with pytest.raises(AdmissionError, match="2 requested, 1 available"):
            reserve(view("a", "b"), 2, {"a"}, set())

    def test_without_healthy_devices_nothing_is_allocated_at_all(self) -> None:
        with pytest.raises(AdmissionError, match="its 1 devices are unhealthy"):
            reserve(view(unhealthy=("a",)), 0, set(), set())

    def test_the_order_of_ids_is_scrambled_and_always_the_same(self) -> None:
        ids = [f"GPU-{n}" for n in range(20)]

        assert in_no_order(ids) == in_no_order(reversed(ids)) != ids  # type: ignore[arg-type]
        assert sorted(in_no_order(ids)) == sorted(ids)


class TestMerging:
    def test_the_first_resource_wins_and_the_conflict_is_told(self) -> None:
        first = api_pb2.ContainerAllocateResponse(
            envs={"A": "1", "B": "1"},
            mounts=[api_pb2.Mount(container_path="/m", host_path="/1", read_only=True)],
            devices=[api_pb2.DeviceSpec(container_path="/dev/x", host_path="/dev/1", permissions="rw")],
            annotations={"n": "1"},
            cdi_devices=[api_pb2.CDIDevice(name="a/b=1")],
        )
        second = api_pb2.ContainerAllocateResponse(
            envs={"A": "2", "B": "1"},
            mounts=[api_pb2.Mount(container_path="/m", host_path="/2")],
            devices=[api_pb2.DeviceSpec(container_path="/dev/x", host_path="/dev/2", permissions="rw")],
            annotations={"n": "2"},
            cdi_devices=[api_pb2.CDIDevice(name="a/b=1"), api_pb2.CDIDevice(name="a/b=2")],
        )

        merged = merge({"y/second": second, "x/first": first})

        assert merged.edits.envs == {"A": "1", "B": "1"}
        assert merged.edits.mounts == (Mount("/1", "/m"),)
        assert merged.edits.nodes == (DeviceNode("/dev/1", "/dev/x"),)
        assert merged.edits.annotations == {"n": "1"}
        assert merged.edits.cdi_devices == ("a/b=1", "a/b=2")
        assert len(merged.conflicts) == 4

    def test_the_same_node_of_two_slices_is_there_once_without_a_conflict(self) -> None:
        node = api_pb2.DeviceSpec(container_path="/dev/nvidia0", host_path="/dev/nvidia0", permissions="rw")

        merged = merge({GPU: api_pb2.ContainerAllocateResponse(devices=[node, node])})

        assert merged.edits.nodes == (DeviceNode("/dev/nvidia0", "/dev/nvidia0"),)
        assert merged.conflicts == ()


class TestScheduling:
    @pytest.mark.parametrize(
        ("resources", "told"),
        [
            pytest.param({GPU: view(*"abcdefgh")}, "wants 2 nvidia.com/gpu, 1 free of 8", id="in use"),
            pytest.param(
                {GPU: view(*"abcdefg", unhealthy=("h",))},
                "wants 2 nvidia.com/gpu, 0 free of 7, 1 more unhealthy",
                id="unhealthy",
            ),
            pytest.param(
                {"x/y": ResourceView("x/y")},
                "wants 2 nvidia.com/gpu, which this node does not offer; it offers x/y",
                id="not offered",
            ),
        ],
    )
    def test_a_shortage_says_what_is_missing(self, resources: dict[str, ResourceView], told: str) -> None:
        missing = shortages(wants("b", 2), [wants("a", 7)], resources)

        assert [str(m) for m in missing] == [told]

    def test_a_pod_that_fits_lacks_nothing(self) -> None:
        assert shortages(wants("b", 1), [wants("a", 7)], {GPU: view(*"abcdefgh")}) == ()

    @pytest.mark.parametrize(
        ("count", "ended"),
        [
            pytest.param(1, [], id="it fits"),
            pytest.param(2, ["j1"], id="one is enough"),
            pytest.param(3, ["j1", "j2"], id="two are enough"),
            pytest.param(5, [], id="never enough"),
        ],
    )
    def test_the_oldest_jobs_end_for_a_pod_that_needs_their_place(self, count: int, ended: list[str]) -> None:
        running = [wants("a", 1), wants("j1", 1, job="j"), wants("j2", 1, job="j")]

        first = must_end_first(wants("b", count), running, {GPU: view(*"abcd")})

        assert [pod.name for pod in first] == ended

    def test_a_job_that_holds_nothing_of_what_is_missing_goes_on(self) -> None:
        running = [Pod("other", (Container("main", {"example.com/nic": 1}),), job="o"), wants("j", 4, job="j")]

        first = must_end_first(wants("b", 1), running, {GPU: view(*"abcd")})

        assert [pod.name for pod in first] == ["j"]


def test_a_cell_of_a_table_may_have_several_lines_and_colours_take_no_room() -> None:
    drawn = table(["\x1b[1mA\x1b[0m", "B"], [(["x", "yy"], ["1"])])

    assert drawn == "\x1b[1mA\x1b[0m   B\nx   1\nyy"
