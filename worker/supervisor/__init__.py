"""The supervisor of a worker pool: one connection to the broker, N executor processes, and the decisions between them.

`core` decides, without sockets, clocks or processes; `pool` is the asyncio shell around it. No user code and no dspy
is ever imported here, so that no program can make a healthy pool look dead.
"""
