"""The root command and how commands speak; commands themselves live with what they command."""
