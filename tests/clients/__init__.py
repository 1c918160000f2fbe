"""Tests of the clients in other languages, with their own toolchains, against real brokers and pools."""
