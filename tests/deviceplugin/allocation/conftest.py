"""Configurations in one line each, and machines that hypothesis makes up."""

from collections.abc import Callable

import pytest

from deviceplugin.config.model import (
    Config,
    DeviceIdStrategy,
    DeviceListStrategy,
    DeviceNodes,
    Flags,
    Imex,
    PluginFlags,
    TasukiOptions,
)


@pytest.fixture
def configure() -> Callable[..., Config]:
    def configuration(
        *strategies: str,
        ids: str = "uuid",
        device_specs: bool = False,
        device_nodes: bool = False,
        memory_caps: bool = False,
        imex: tuple[int, ...] = (),
        imex_required: bool = False,
        dev_root: str = "/",
        driver_root: str = "/",
        mps_root: str = "",
        annotation_prefix: str = "cdi.k8s.io/",
        ctk: str = "/usr/bin/nvidia-ctk",
        switches: bool = False,
    ) -> Config:
        return Config(
            flags=Flags(
                nvidia_dev_root=dev_root,
                nvidia_driver_root=driver_root,
                mps_root=mps_root,
                gdrcopy_enabled=switches,
                gds_enabled=switches,
                mofed_enabled=switches,
                plugin=PluginFlags(
                    pass_device_specs=device_specs,
                    device_list_strategy=tuple(map(DeviceListStrategy, strategies or ("envvar",))),
                    device_id_strategy=DeviceIdStrategy(ids),
                    cdi_annotation_prefix=annotation_prefix,
                    nvidia_ctk_path=ctk,
                ),
            ),
            imex=Imex(channel_ids=imex, required=imex_required),
            tasuki=TasukiOptions(memory_caps=memory_caps, device_nodes=DeviceNodes(enabled=device_nodes)),
        )

    return configuration
