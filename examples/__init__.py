"""Programs and scripts to look at, and to copy from."""
