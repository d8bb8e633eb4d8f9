"""Alembic's entry: it runs in the transaction that `store.migrations.upgrade` hands over, and only there."""

from alembic import context

from remit.store import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables.metadata)
context.run_migrations()
