"""Who may keep how much: fair shares, quotas, and which objects go first; no I/O."""
