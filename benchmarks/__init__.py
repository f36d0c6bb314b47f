"""Measurements beside peers, as ratios in one run. Each prints JSON and keeps it in results/."""
