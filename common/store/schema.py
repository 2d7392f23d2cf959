"""The log's tables: one row per request, one per hop, strictly typed, units in the names.

A change here is a new version: append the step that brings an older database there to ``migrations.MIGRATIONS``.
"""

import sqlalchemy as sa

_REAL: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")  # PostgreSQL's REAL is too short
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BOOLEAN = sa.Boolean().with_variant(sa.Integer(), "sqlite")  # STRICT tables know no BOOLEAN

metadata = sa.MetaData()

schema_version = sa.Table(
    "schema_version",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),  # the one row's value
    sqlite_strict=True,
)

request_log = sa.Table(
    "request_log",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("created_at", _REAL, nullable=False),  # seconds since the epoch, by the device's wall clock
    sa.Column("recorded_at", _REAL, nullable=False),  # seconds since the epoch, by the recorder's wall clock
    sa.Column("device_id", sa.Text, nullable=False),
    sa.Column("exit_tier", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("label", sa.Text),  # null where no tier could answer
    sa.Column("true_label", sa.Text),  # null where unknown
    sa.Column("total_ms", _REAL, nullable=False),  # from acceptance to answer, on the device's clock
    sa.Column("payload_bytes", _BIG, nullable=False),  # hidden-state messages of all links and attempts
    sa.Column("cost", _REAL, nullable=False),  # in layers of the device, under cost_model
    sa.Column("confidence", _REAL, nullable=False),  # 0..1, at the exit that answered
    sa.Column("threshold", _REAL),  # 0..1, in force at that exit; null where none was
    sa.Column("exit_layer", _BIG, nullable=False),  # layers run, 0..L
    sa.Column("entry_tier", sa.Text, nullable=False),
    sa.Column("pool", sa.Text),
    sa.Column("distance_easy", _REAL),  # to the pools' centroids
    sa.Column("distance_moderate", _REAL),
    sa.Column("distance_hard", _REAL),
    sa.Column("queue_ms", _REAL, nullable=False),
    sa.Column("compute_ms", _REAL, nullable=False),
    sa.Column("network_ms", _REAL, nullable=False),
    sa.Column("tokens", _BIG, nullable=False),
    sa.Column("is_truncated", _BOOLEAN, nullable=False),
    sa.Column("attempts", _BIG, nullable=False),  # messages that left the device
    sa.Column("cost_model", sa.Text, nullable=False),
    sa.Column("model_revision", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # why it is degraded or failed
    sa.Column("text", sa.Text),  # only where the configuration allows it
    sa.Column("race_winner", sa.Text),  # tier; null unless the device's own exit ran beside another tier's
    sa.Column("loser_tier", sa.Text),  # null while the loser has said nothing
    sa.Column("loser_label", sa.Text),
    sa.Column("loser_confidence", _REAL),  # 0..1
    sa.Column("signature", sa.Text),  # verified or refused; null where the device needed none, or nobody else answered
    sqlite_strict=True,
)

hop = sa.Table(
    "hop",
    metadata,
    sa.Column("request_id", sa.Text, sa.ForeignKey("request_log.request_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),  # 0 is where the request began
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("start_layer", _BIG, nullable=False),  # span of layers run, [start, end)
    sa.Column("end_layer", _BIG, nullable=False),
    sa.Column("queue_ms", _REAL, nullable=False),
    sa.Column("compute_ms", _REAL, nullable=False),
    sa.Column("received_bytes", _BIG, nullable=False),
    sa.Column("confidence", _REAL, nullable=False),
    sa.Column("predictions", sa.Text, nullable=False),  # class index at each exit head passed, as a JSON array
    sa.Column("variant", sa.Text, nullable=False, server_default=""),  # revision, where not the request's own
    sa.Column("codec", sa.Text),  # of the hidden states as they came in; null where the request began
    sa.Column("received_tokens", _BIG),
    sa.Column("received_width", _BIG),  # dimensions per token: the budget of a thin link, or all of the model's
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

# a list walks the newest rows of one filter; statistics walk the last index and never touch the rows
_column = request_log.c
sa.Index("request_log_created", _column.created_at)
sa.Index("request_log_recorded", _column.recorded_at, _column.request_id)  # what is new, and what is old enough to go
sa.Index("request_log_device", _column.device_id, _column.created_at)
sa.Index("request_log_tier", _column.exit_tier, _column.created_at)
sa.Index("request_log_label", _column.label, _column.created_at)
sa.Index("request_log_reason", _column.reason, _column.created_at)
sa.Index(
    "request_log_labelled",  # accuracy and calibration, of what is usually a small part
    _column.exit_tier,
    _column.device_id,
    _column.confidence,
    _column.label,
    _column.true_label,
    _column.created_at,
    sqlite_where=_column.true_label.is_not(None),
    postgresql_where=_column.true_label.is_not(None),
)
sa.Index(
    "request_log_exits",  # drift of a bundle's exits
    _column.model_revision,
    _column.exit_layer,
    _column.reason,
    _column.created_at,
    _column.exit_tier,
    _column.device_id,
)
sa.Index(
    "request_log_raced",
    _column.race_winner,
    _column.loser_label,
    _column.label,
    _column.exit_tier,
    _column.device_id,
    _column.reason,
    _column.created_at,
    sqlite_where=_column.race_winner.is_not(None),
    postgresql_where=_column.race_winner.is_not(None),
)
sa.Index(
    "request_log_figures",
    _column.exit_tier,
    _column.total_ms,
    _column.created_at,
    _column.device_id,
    _column.reason,
    _column.label,
    _column.true_label,
    _column.payload_bytes,
    _column.cost,
)
