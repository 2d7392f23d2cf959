"""``python -m common.cli``, for processes that start others."""

from common.cli.root import main

main()
