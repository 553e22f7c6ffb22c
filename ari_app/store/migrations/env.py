"""Alembic's environment: the engine comes from ``ari_app.store.migrate``."""

from alembic import context

from ari_app.store.models import Table

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
