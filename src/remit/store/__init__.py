"""The control plane's state: tables, repositories, migrations. The only room that knows SQLAlchemy and Alembic.

The adapter behind `control.ports_control.Store`; only `remit.app` imports it. Must not know: HTTP, Envoy, cells.
"""
