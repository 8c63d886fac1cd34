"""`tasuki xds`: tells every Envoy which caches there are."""
