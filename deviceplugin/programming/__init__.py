"""Getting images into the regions of FPGAs."""
