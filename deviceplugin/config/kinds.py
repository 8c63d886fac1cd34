"""The names of the kinds of accelerators, as a setting enables them."""

from typing import Final

GPU: Final = "gpu"
FPGA: Final = "fpga"
VACCEL: Final = "vaccel"
