"""Raw inputs to arrays: text, and labelled files."""
