"""The embedded small language model of the `local` profile: its packages, its server, its process."""
