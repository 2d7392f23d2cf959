"""The thin links of the shipped bundle: there, small enough, and what they carry still says the same."""

import numpy as np
import pytest

from common.engine.thinness import Always, Thinness
from common.evaluation.thinning import Behind, bring
from common.inputs.examples import read_examples
from common.model.bundle import open_bundle
from common.model.thin_links import open_thin_links, read_table
from tests.evaluation.test_codecs import SENTENCES

_MOST_BYTES = 25 * 1024**2


def test_every_split_point_has_a_link_and_the_bundle_stays_small() -> None:
    bundle = open_bundle()

    assert set(open_thin_links(bundle)) == {bundle.manifest.depths.device, bundle.manifest.depths.edge}
    assert sum(seal.num_bytes for seal in bundle.manifest.files.values()) <= _MOST_BYTES
    assert read_table(bundle).training["recipe"] == "prune"
    Always(Thinness(codec="graded", budget=128, tokens=0.75), open_thin_links(bundle))  # what [link] may ask for


@pytest.mark.parametrize(("budget", "fewer", "agreement"), [(192, 7.5, 0.95), (128, 11, 0.93)])
def test_what_a_link_carries_says_the_same_in_fewer_bytes(budget: int, fewer: float, agreement: float) -> None:
    bundle = open_bundle()
    links = open_thin_links(bundle)
    texts = [(text, None) for text in read_examples(SENTENCES).texts[:60]]

    for point, stood in bring(bundle, texts).items():
        behind, thinness = Behind(bundle, point, links[point]), Thinness(codec="graded", budget=budget)
        whole, thin = (
            behind.logits(stood.states, each)[-1].argmax(axis=1) for each in (Thinness(codec="float32"), thinness)
        )
        sizes = [behind.tensor_bytes(stood.states, each) for each in (Thinness(codec="int8"), thinness)]
        assert (whole == thin).mean() >= agreement
        assert sizes[0] >= fewer * sizes[1]
        assert np.isfinite(sizes).all()
