"""Brings a database to the schema of this release: forward only, each time in one transaction.

A new database is made from ``schema``; an older one takes the steps between. Both must end in the same schema, so a
step speaks SQL of its own and never uses the tables of ``schema``, which move on.
"""

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from common.errors import StoreError
from common.store.schema import metadata, schema_version
from common.store.views import make_views

Migration = Callable[[sa.Connection], None]


def _index_recording_and_labels(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE INDEX request_log_recorded ON request_log (recorded_at, request_id)")
    connection.exec_driver_sql(
        "CREATE INDEX request_log_labelled ON request_log "
        "(exit_tier, device_id, confidence, label, true_label, created_at) WHERE true_label IS NOT NULL"
    )


def _add_races_and_variants(connection: sa.Connection) -> None:
    real = "REAL" if connection.dialect.name == "sqlite" else "DOUBLE PRECISION"
    kinds = {"race_winner": "TEXT", "loser_tier": "TEXT", "loser_label": "TEXT", "loser_confidence": real}
    for name, kind in kinds.items():
        connection.exec_driver_sql(f"ALTER TABLE request_log ADD COLUMN {name} {kind}")
    connection.exec_driver_sql("ALTER TABLE hop ADD COLUMN variant TEXT DEFAULT '' NOT NULL")
    connection.exec_driver_sql(
        "CREATE INDEX request_log_raced ON request_log "
        "(race_winner, loser_label, label, exit_tier, device_id, reason, created_at) WHERE race_winner IS NOT NULL"
    )


def _tell_how_thin_hops_were(connection: sa.Connection) -> None:
    integer = "INTEGER" if connection.dialect.name == "sqlite" else "BIGINT"
    for column in ("codec TEXT", f"received_tokens {integer}", f"received_width {integer}"):
        connection.exec_driver_sql(f"ALTER TABLE hop ADD COLUMN {column}")


def _index_exits(connection: sa.Connection) -> None:
    connection.exec_driver_sql(
        "CREATE INDEX request_log_exits ON request_log "
        "(model_revision, exit_layer, reason, created_at, exit_tier, device_id)"
    )


def _keep_verdicts_on_signatures(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE request_log ADD COLUMN signature TEXT")


MIGRATIONS: tuple[Migration, ...] = (
    _index_recording_and_labels,
    _add_races_and_variants,
    _tell_how_thin_hops_were,
    _index_exits,
    _keep_verdicts_on_signatures,
)  # MIGRATIONS[k] brings version k + 1 to version k + 2

_LOCK_KEY = 0x64696D6565  # "dimee"; keeps two recorders from making the same PostgreSQL schema at once


def upgrade(engine: sa.Engine, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Make or bring up to date the log's schema; give the version found before, 0 for a new database.

    Raises:
        StoreError: The database is of a newer release, or belongs to something else.
    """
    latest = len(migrations) + 1
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
        found = current_version(connection)
        if found == 0:
            _refuse_foreign(connection)
            metadata.create_all(connection)
        else:
            refuse_newer(connection, found, latest)
            for migration in migrations[found - 1 :]:
                migration(connection)
        if found != latest:
            make_views(connection)
            connection.execute(sa.delete(schema_version))
            connection.execute(sa.insert(schema_version).values(version=latest))
    return found


def current_version(connection: sa.Connection) -> int:
    """Read the schema's version; 0 where there is no log yet."""
    if not sa.inspect(connection).has_table(schema_version.name):
        return 0
    return connection.execute(sa.select(sa.func.max(schema_version.c.version))).scalar() or 0


def refuse_newer(connection: sa.Connection, found: int, latest: int = len(MIGRATIONS) + 1) -> None:
    """Raise a StoreError where a newer release has written the database."""
    if found > latest:
        url = connection.engine.url.render_as_string(hide_password=True)
        raise StoreError(
            f"{url}: the log has schema version {found}, this release knows up to {latest}; upgrade dimee to use it"
        )


def _refuse_foreign(connection: sa.Connection) -> None:
    tables = sa.inspect(connection).get_table_names()
    ours = set(metadata.tables) & set(tables)
    if ours or (tables and connection.dialect.name == "sqlite"):
        url = connection.engine.url.render_as_string(hide_password=True)
        raise StoreError(
            f"{url}: holds the table {min(ours or tables)!r} but no dimee log; name a database of the log's own"
        )
