"""``python -m common.bench PART``: one process of a benchmark: contestant, rival's server, shaped link, or crowd."""

import logging
import sys

import msgspec

from common.bench import driver, proxy
from common.bench.growth import crowd
from common.bench.parts import Crowd, Drive, Part, Serve, Shape

logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
match msgspec.json.decode(sys.argv[1], type=Part):
    case Drive() as part:
        driver.drive(part)
    case Serve() as part:
        from common.bench.http_server import serve  # litserve is an optional extra

        serve(part)
    case Shape() as part:
        proxy.shape(part)
    case Crowd() as part:
        crowd.attend(part)
