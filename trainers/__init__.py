"""One file per training method; `harness.registry` looks them up."""
