"""The object cache: a node's share of the data that training reads, kept on local disks and served over HTTP."""
