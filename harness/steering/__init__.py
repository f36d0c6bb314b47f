"""The D-STEER experiment: a vector between two checkpoints, followed in steps, with controls."""
