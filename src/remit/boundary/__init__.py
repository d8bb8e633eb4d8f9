"""The boundary: Envoy's configuration, its certificates, and the servers that Envoy and the forwarder ask.

Lives here: pure configuration (`resources`, `http_chain`, `upstreams`), the CA, SDS, the check's wire, the refusal of
opaque TCP, the access-log spool. Only here grpc and Envoy's protos are imported. May import `core` and `control`.
Must not know: how a decision is made, where secrets or records are kept, how a cell is built.
"""
