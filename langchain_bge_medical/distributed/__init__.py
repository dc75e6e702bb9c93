"""Past one machine: the service on Ray Serve, scoring and indexing offline on Ray Data. Needs the extra `ray`."""
