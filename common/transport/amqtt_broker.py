"""amqtt as the embedded broker needs it: a proper take-over, and the access list on every way in and out."""

import logging
from collections import Counter
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import Action

from common.transport.access import AccessList
from common.transport.door import LISTENER

_LOGGER = logging.getLogger(__name__)
_CONFIG: dict[str, Any] = {
    "listeners": {LISTENER: {"type": "external"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},  # TLS has asked before
}


class AmqttBroker(Broker):  # type: ignore[misc]
    """amqtt, whose clients are held to an access list if there is one; create it on the loop that runs it."""

    def __init__(self, access: AccessList | None) -> None:
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # a client's every slip is an error or a traceback there
        super().__init__(_CONFIG)
        self._access = access
        self._refused: Counter[str] = Counter()

    async def _delete_session(self, client_id: str) -> None:
        """Close the older connection of the id too; amqtt leaves it open and deaf (MQTT 3.1.1, 3.1.4-2)."""
        _, handler = self._sessions.get(client_id, (None, None))
        await super()._delete_session(client_id)
        if handler is not None:
            await handler.handle_connection_closed()
            if handler.writer is not None:
                handler.writer.put_out()

    async def _topic_filtering(self, session: Any, topic: str, action: Action) -> bool:
        """Say who may publish; subscriptions are granted as by Mosquitto, and what they bring is sifted on its way."""
        if self._access is None or action is not Action.PUBLISH or self._access.may_publish(session.client_id, topic):
            return True
        self._refused[session.client_id] += 1
        if self._refused[session.client_id].bit_count() == 1:  # the 1st, 2nd, 4th, ...
            _LOGGER.warning("%s may not publish to %.80r", session.client_id, topic)
        return False

    def _get_handler(self, session: Any) -> Any:
        """Give what sends to a client: amqtt itself would send retained messages and wills past its filter."""
        handler = super()._get_handler(session)
        if handler is None or self._access is None:
            return handler
        return _Sifted(handler, session.client_id, self._access)


class _Sifted:
    """Sends a client only what it may hear."""

    def __init__(self, handler: Any, name: str, access: AccessList) -> None:
        self._handler = handler
        self._name = name
        self._access = access

    async def mqtt_publish(self, topic: str, *message: Any, **flags: Any) -> Any:
        """Send a message, or nothing."""
        if self._access.may_hear(self._name, topic):
            return await self._handler.mqtt_publish(topic, *message, **flags)
        return None
