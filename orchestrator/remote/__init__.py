"""Jobs of a cluster: a command of this machine, run there by Ray Jobs with this machine's code."""
