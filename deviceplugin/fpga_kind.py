"""FPGA functions as a kind of accelerator: offered by a catalogue, claimed by Allocate, programmed on demand.

Read fpga_plan for what is offered, fpga_claims for who may have it. Claims are touched from the event loop alone;
`plan` and `scan` run in a worker thread, on snapshots.
"""


