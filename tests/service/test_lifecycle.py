"""How a process settles down."""

import gc

from common.service.lifecycle import keep_loaded


def test_the_collector_passes_over_what_was_loaded_at_the_start() -> None:
    loaded = [[place] for place in range(100)]

    try:
        keep_loaded()
        assert not any(each is loaded for each in gc.get_objects())
    finally:
        gc.unfreeze()
    assert any(each is loaded for each in gc.get_objects())
