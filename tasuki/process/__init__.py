"""How a process starts, reports and stops."""
