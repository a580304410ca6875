"""The Ray cluster: connecting to it, its nodes, a trial's resources on them, and sweeps as its jobs."""
