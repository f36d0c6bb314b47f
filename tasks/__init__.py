"""One file per benchmark; each holds a tuple `TASKS`. `harness.registry` looks them up."""
