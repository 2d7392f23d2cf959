"""The inference log: schema, the one writer, queries; the only place that knows SQLAlchemy."""
