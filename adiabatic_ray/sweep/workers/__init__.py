"""What runs in the cluster's processes: trials, and the work around them that needs the encoder."""
