"""Which resources a machine becomes."""

import pytest

from deviceplugin.config.model import (
    Config,
    Flags,
    MigStrategy,
    ResourcePattern,
    ResourcePatterns,
    SharedResource,
    Sharing,
    SharingStrategy,
)
from deviceplugin.machine import Machine
from deviceplugin.resources import matches, plan
from tasuki.devices.model import unhealthy
from tests.builders import a_gpu, a_machine, a_mig_instance

GPU = "nvidia.com/gpu"
SHARED = "nvidia.com/gpu.shared"


def entry(*, name: str = GPU, rename: str = "", replicas: int = 2, devices: object = "all") -> SharedResource:
    return SharedResource(name=name, rename=rename or name, replicas=replicas, devices=devices)  # type: ignore[arg-type]


def config(*entries: SharedResource, mig: MigStrategy = MigStrategy.NONE, one: bool = False) -> Config:
    return Config(
        flags=Flags(mig_strategy=mig),
        sharing=Sharing(
            strategy=SharingStrategy.TIME_SLICING if entries else SharingStrategy.NONE,
            fail_requests_greater_than_one=one,
            resources=entries,
        ),
    )


def offered(machine: Machine, chosen: Config) -> dict[str, str]:
    return {r.name: " ".join(s.id for s in r.slices) for r in plan(machine, chosen).resources}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        pytest.param(config(), {GPU: "GPU-0 GPU-1"}, id="whole GPUs"),
        pytest.param(config(entry()), {GPU: "GPU-0::0 GPU-0::1 GPU-1::0 GPU-1::1"}, id="all shared"),
        pytest.param(
            config(entry(rename=SHARED)), {SHARED: "GPU-0::0 GPU-0::1 GPU-1::0 GPU-1::1"}, id="shared and renamed"
        ),
        pytest.param(
            config(entry(rename=SHARED, devices=("1",))),
            {GPU: "GPU-0", SHARED: "GPU-1::0 GPU-1::1"},
            id="one exclusive, one shared",
        ),
        pytest.param(
            config(entry(devices=1)),
            {GPU: "GPU-0::0 GPU-0::1 GPU-1"},
            id="a count shares the first, under one name",
        ),
        pytest.param(
            config(entry(rename="a.b/two", devices=("0",)), entry(rename="a.b/three", replicas=3, devices=("GPU-1",))),
            {"a.b/two": "GPU-0::0 GPU-0::1", "a.b/three": "GPU-1::0 GPU-1::1 GPU-1::2"},
            id="different replicas for each GPU, by index and by UUID",
        ),
        pytest.param(config(entry(name="nvidia.com/other")), {GPU: "GPU-0 GPU-1"}, id="an entry for another resource"),
    ],
)
def test_sharing(chosen: Config, expected: dict[str, str]) -> None:
    assert offered(a_machine(count=2), chosen) == expected


def test_requests_are_limited_only_where_slices_are_shared() -> None:
    made = plan(a_machine(count=2), config(entry(rename=SHARED, devices=("1",)), one=True))

    assert {r.name: r.one_per_request for r in made.resources} == {GPU: False, SHARED: True}


MIXED = a_machine(
    a_gpu(0),
    a_gpu(1, mig=(a_mig_instance(1, 0), a_mig_instance(1, 1), a_mig_instance(1, 2, "3g.20gb"))),
)
UNIFORM = a_machine(a_gpu(0, mig=(a_mig_instance(0, 0), a_mig_instance(0, 1))))


@pytest.mark.parametrize(
    ("machine", "strategy", "expected"),
    [
        pytest.param(MIXED, MigStrategy.NONE, {GPU: "GPU-0 GPU-1"}, id="none ignores MIG"),
        pytest.param(
            MIXED,
            MigStrategy.MIXED,
            {GPU: "GPU-0", "nvidia.com/mig-1g.5gb": "MIG-1-0 MIG-1-1", "nvidia.com/mig-3g.20gb": "MIG-1-2"},
            id="mixed offers each profile",
        ),
        pytest.param(UNIFORM, MigStrategy.SINGLE, {GPU: "MIG-0-0 MIG-0-1"}, id="single offers MIG as GPUs"),
        pytest.param(MIXED, MigStrategy.SINGLE, {}, id="single refuses a mixed node"),
        pytest.param(a_machine(count=1), MigStrategy.SINGLE, {GPU: "GPU-0"}, id="single without any MIG"),
        pytest.param(
            a_machine(a_gpu(0, mig=(a_mig_instance(0, 0, "1g.5gb+me"),))),
            MigStrategy.MIXED,
            {"nvidia.com/mig-1g.5gb.me": "MIG-0-0"},
            id="a plus is no part of a resource name",
        ),
        pytest.param(
            a_machine(a_gpu(0, mig=(a_mig_instance(0, 0, "1c.2g.10gb"), a_mig_instance(0, 1, "2g.10gb")))),
            MigStrategy.MIXED,
            {"nvidia.com/mig-2g.10gb": "MIG-0-1"},
            id="a profile without a name takes only itself out",
        ),
    ],
)
def test_mig(machine: Machine, strategy: MigStrategy, expected: dict[str, str]) -> None:
    assert offered(machine, config(mig=strategy)) == expected


def test_mig_slices_can_be_timeshared() -> None:
    chosen = config(entry(name="nvidia.com/mig-3g.20gb"), mig=MigStrategy.MIXED)

    assert offered(MIXED, chosen)["nvidia.com/mig-3g.20gb"] == "MIG-1-2::0 MIG-1-2::1"


@pytest.mark.parametrize(
    ("machine", "strategy", "problem"),
    [
        pytest.param(a_machine(a_gpu(0, mig=())), MigStrategy.MIXED, "has no MIG devices", id="MIG mode, nothing cut"),
        pytest.param(MIXED, MigStrategy.SINGLE, "off on GPU 0", id="single, one GPU not in MIG mode"),
        pytest.param(
            a_machine(a_gpu(0, mig=(a_mig_instance(0, 0), a_mig_instance(0, 1, "3g.20gb")))),
            MigStrategy.SINGLE,
            "1g.5gb, 3g.20gb",
            id="single, two profiles",
        ),
        pytest.param(
            a_machine(a_gpu(0, mig=(a_mig_instance(0, 0, "1c.2g.10gb"),))),
            MigStrategy.MIXED,
            "no resource name",
            id="a profile without a name",
        ),
    ],
)
def test_what_is_left_out_is_said(machine: Machine, strategy: MigStrategy, problem: str) -> None:
    assert any(problem in sentence for sentence in plan(machine, config(mig=strategy)).problems)


def test_patterns_name_models_and_profiles() -> None:
    chosen = Config(
        flags=Flags(mig_strategy=MigStrategy.MIXED),
        resources=ResourcePatterns(
            gpus=(ResourcePattern("*A100*", "nvidia.com/a100"), ResourcePattern("*", GPU)),
            mig=(ResourcePattern("1*", "nvidia.com/small"), ResourcePattern("*", "nvidia.com/big")),
        ),
    )

    assert offered(MIXED, chosen) == {
        "nvidia.com/a100": "GPU-0",
        "nvidia.com/small": "MIG-1-0 MIG-1-1",
        "nvidia.com/big": "MIG-1-2",
    }


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        pytest.param("*", "", True, id="anything"),
        pytest.param("A*0", "A100", True, id="both ends"),
        pytest.param("A10*100", "A100", False, id="ends must not overlap"),
        pytest.param("*1*0*", "A100", True, id="pieces in order"),
        pytest.param("*0*1*", "A100", False, id="pieces out of order"),
        pytest.param("A?00", "A100", False, id="only the star is special"),
        pytest.param("*" * 50 + "b", "a" * 200, False, id="many stars take no time"),
    ],
)
def test_patterns(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@pytest.mark.parametrize(
    ("chosen", "misfit"),
    [
        pytest.param(config(entry(devices=3)), "3 devices are to be shared, but it has 2", id="too many"),
        pytest.param(config(entry(devices=("0", "7"))), "no device 7", id="an index that is not there"),
        pytest.param(config(entry(), entry(devices=("1",))), "shared by two entries", id="one device twice"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told_apart(chosen: Config, misfit: str) -> None:
    made = plan(a_machine(count=2), chosen)

    assert len(made.misfits) == 1
    assert misfit in made.misfits[0]
    assert made.resources


def test_every_slice_of_a_sick_device_is_sick() -> None:
    machine = a_machine(a_gpu(0, health=unhealthy("XID 79")), a_gpu(1))

    slices = plan(machine, config(entry(replicas=3))).resources[0].slices

    assert [s.device.health.healthy for s in slices] == [False, False, False, True, True, True]
