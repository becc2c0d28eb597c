"""Build, check and measure on a bare GPU machine, within minutes that are counted (docs/gpu.md)."""
