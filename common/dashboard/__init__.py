"""A web page that shows a site live; it reads the log and the retained statuses, and writes nothing."""
