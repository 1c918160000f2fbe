"""The conformance kit: plays `protocol/vectors` against a broker, a client or a worker of any language, by rule.

`engine` runs the steps of one transcript over a driver; `brokers`, `clients` and `workers` are drivers over real
sockets; `runs` gives each transcript a verdict. Stands on the protocol and on sockets, and on no implementation of a
role, so that what it says of ours is worth as much as what it says of others.
"""
