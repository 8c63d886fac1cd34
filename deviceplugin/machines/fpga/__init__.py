"""Trees of real FPGA cards as the kernel lays them out, to be simulated by name."""
