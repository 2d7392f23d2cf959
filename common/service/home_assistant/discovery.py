"""What Home Assistant is to show of a node: one discovery document, a device with its components.

Fields and templates: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery and the pages of its platforms.
"""

import re
from importlib.metadata import version
from typing import Any

from common.errors import ConfigError
from common.types import Tier
from common.wire.topics import Topics

OWN = "own"  # the option that gives a site its own policies back, as in 'dimee model operate own'
_LEVEL = re.compile(r"[a-zA-Z0-9_-]+")  # what a level of a discovery topic may be
_IS_ONLINE = "value_json.state == 'online'"


def check_names(site: str, node: str) -> None:
    """Refuse what Home Assistant takes for no discovery topic.

    Raises:
        ConfigError: A name holds other than letters, digits, dash and underscore.
    """
    for key, name in (("mqtt.site", site), ("node.id", node)):
        if not _LEVEL.fullmatch(name):
            raise ConfigError(
                f"home_assistant.is_enabled: Home Assistant takes no {key} {name!r}; use letters, digits, '-' and '_'"
            )


def discovery_document(
    tier: Tier, node: str, topics: Topics, *, revision: str, policies: tuple[str, ...]
) -> dict[str, Any]:
    """Describe a node.

    Args:
        tier: Its tier.
        node: Its id.
        topics: Its site.
        revision: The bundle that it runs; a choice in Home Assistant is for this one alone.
        policies: What may be chosen; with none there is nothing to choose.
    """
    name = f"dimee-{topics.site}-{tier}-{node}"
    components = _figures(topics.figures(tier, node))
    if policies:
        components["operating_point"] = _operating_point(topics, topics.figures(tier, node), revision, policies)
    available = {
        "topic": topics.status(tier, node),
        "value_template": f"{{{{ 'online' if {_IS_ONLINE} else 'offline' }}}}",
    }
    components = {key: component | {"availability": [available]} for key, component in components.items()}
    components["status"] = _status(topics.status(tier, node))
    return {
        "device": {
            "identifiers": [name],
            "name": f"{node} ({tier} of {topics.site})",
            "manufacturer": "dimee",
            "model": f"{tier}",
            "model_id": revision,
            "sw_version": version("dimee"),
        },
        "origin": {"name": "dimee", "sw_version": version("dimee")},
        "components": {key: component | {"unique_id": f"{name}-{key}"} for key, component in components.items()},
    }


def _status(topic: str) -> dict[str, Any]:
    return {
        "platform": "binary_sensor",
        "name": "Status",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": topic,
        "value_template": f"{{{{ 'ON' if {_IS_ONLINE} else 'OFF' }}}}",
    }


def _figures(topic: str) -> dict[str, dict[str, Any]]:
    share = "{{ none if value_json.exit_share is none else (value_json.exit_share * 100) | round(1) }}"
    latency = "{{ none if value_json.latency_ms is none else value_json.latency_ms | round(1) }}"
    sensor = {"platform": "sensor", "state_class": "measurement", "state_topic": topic}
    return {
        "exit_share": sensor | {"name": "Answered here", "unit_of_measurement": "%", "value_template": share},
        "latency": sensor
        | {"name": "Latency", "device_class": "duration", "unit_of_measurement": "ms", "value_template": latency},
        "queue": sensor | {"name": "Queue", "value_template": "{{ value_json.queue }}"},
    }


def _operating_point(topics: Topics, figures: str, revision: str, policies: tuple[str, ...]) -> dict[str, Any]:
    """Offer the policies; what is chosen goes, retained, straight to where every node of the site reads it."""
    point = f'{{"revision": "{revision}", "policy": {{{{ value | to_json }}}}}}'
    return {
        "platform": "select",
        "name": "Operating point",
        "entity_category": "config",
        "options": [OWN, *policies],
        "state_topic": figures,
        "value_template": "{{ value_json.operating_point }}",
        "command_topic": topics.operating_point,
        "command_template": f"{{% if value != '{OWN}' %}}{point}{{% endif %}}",
        "retain": True,
        "qos": 1,
    }
