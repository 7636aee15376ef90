"""Alembic's environment: runs the packages' revisions on the connection that `config.schema` hands over, and tells it of each."""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], on_version_apply=attributes["on_version_apply"], render_as_batch=True, transactional_ddl=True)
context.run_migrations()
