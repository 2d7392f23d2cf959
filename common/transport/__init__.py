"""MQTT, an in-process loopback with the same contract, and the embedded broker; the only place that knows paho."""
