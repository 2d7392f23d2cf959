"""A tier's work on one batch: decode, run, and answer, escalate or refuse."""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from common.channel.contract import Signer
from common.engine.escalation import Escalation, unpack_state
from common.engine.pipeline import Exited, Pipeline, State, Unsure, Verdict
from common.engine.variants import Chosen, Variants
from common.errors import ConfigError, ModelMismatchError, WireError
from common.service.served import Identity, ServedModel
from common.service.telemetry.tracing import ESCALATED, NoTracer, Place, Tracer
from common.service.telemetry.vitals import Meter, NoMeter
from common.store.quarantine import Name, Quarantine
from common.transport.contract import Delivery, Publication, Transport
from common.types import Hop, Tier
from common.wire import codec
from common.wire.codec import Peek
from common.wire.messages import Failure, FailureCode, HiddenStates, Outcome
from common.wire.topics import checked

_LOGGER = logging.getLogger(__name__)
_NO_METER = NoMeter()
_MOST_QUARANTINED = 256


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    message: HiddenStates
    model: ServedModel
    state: State
    queue_ms: float
    delivery: Delivery
    place: Place

    @property
    def name(self) -> Name:
        return Name(self.message.device_id, self.message.request_id)


class TierWorker:
    """Runs a tier's layers over what devices and nearer tiers send; stateless but for recent answers."""

    def __init__(
        self,
        identity: Identity,
        pipeline: Pipeline,
        transport: Transport,
        *,
        escalation: Escalation | None,
        max_remembered: int,
        variants: Sequence[Pipeline] = (),
        quarantine: Quarantine | None = None,
        meter: Meter = _NO_METER,
        signer: Signer | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._signer = signer
        self.counters: Counter[str] = Counter()
        self._meter = meter
        self._tracer = NoTracer() if tracer is None else tracer
        self._quarantine = quarantine or Quarantine(None, most=_MOST_QUARANTINED)
        self._identity = identity
        self._transport = transport
        first = ServedModel(variants=Variants((pipeline, *variants)), escalation=escalation)
        self.models: Mapping[str, ServedModel] = first.by_revision()  # replaced whole, never changed
        self._remembered: OrderedDict[tuple[str, str], Publication] = OrderedDict()
        self._max_remembered = max_remembered

    def serve(self, model: ServedModel) -> None:
        """Take requests of another revision from now on; from one thread at a time, beside ``handle``."""
        self.models = {**model.by_revision(), **self.models}

    def drop(self, revision: str) -> None:
        """Take no more requests of a model; what is being run ends."""
        self.models = {name: model for name, model in self.models.items() if model.revision != revision}

    def handle(self, deliveries: list[Delivery]) -> None:
        """Answer, escalate or refuse what was waiting together, by what runs and split point; a suspect runs alone."""
        jobs = [job for delivery in deliveries if (job := self._accept(delivery))]
        together: dict[tuple[int, Chosen, Name | None], list[_Job]] = {}
        for job in jobs:
            chosen = job.model.variants.choose(job.message.split_point, job.message.budget_ms - job.queue_ms)
            suspect = job.name if self._quarantine.suspects(job.name) else None
            together.setdefault((job.message.split_point, chosen, suspect), []).append(job)
        for (_, chosen, _), those in together.items():
            self._run(chosen, those)

    def turn_away(self, shed: Peek) -> None:
        """Tell a device at once that there is no place for its request, so that it answers by itself."""
        try:
            failure = Failure(
                request_id=shed.request_id, code="overloaded", detail="too much waits", node=self._identity.node
            )
            reply = _reply(self._identity.topics.outcome(checked("device", shed.device_id)), codec.encode(failure))
        except (ConfigError, ValueError):  # its name is no name; whoever it is gets nothing
            return
        self._hand_over([shed.request_id], [reply])

    def quickest_ms(self) -> float:
        """Give how long the quickest way of computing takes; infinite where there is only one."""
        return min(model.variants.quickest_ms() for model in self.models.values())

    def _accept(self, delivery: Delivery) -> _Job | None:
        self.counters["received"] += 1
        try:
            message = codec.decode(delivery.payload)
        except WireError as exc:  # nobody to answer: count it, keep it, name the topic
            self._count_refusal(delivery, exc)
            return None
        if not isinstance(message, HiddenStates):
            self._count_refusal(delivery, WireError(f"a tier takes hidden states, not {type(message).__name__}"))
            return None
        if self._quarantine.holds(Name(message.device_id, message.request_id)):
            self._refuse(message, "internal", WireError("in quarantine: computing it failed before"))
            return None
        queue_ms = (time.monotonic() - delivery.received_at) * 1000
        if self._repeat(message) or self._is_expired(message, queue_ms):
            return None
        try:
            self._check_signer(message)
            model = self._model_of(message)
            state = _state(message, model.variants)
            place = self._tracer.join(message.traceparent)
            return _Job(message=message, model=model, state=state, queue_ms=queue_ms, delivery=delivery, place=place)
        except ConfigError as exc:
            self._refuse(message, "unsigned", exc)
        except ModelMismatchError as exc:
            self._refuse(message, "model_mismatch", exc)
        except WireError as exc:
            self._quarantine.put_bytes(delivery.topic, delivery.payload, str(exc))
            self._refuse(message, "bad_message", exc)
        return None

    def _check_signer(self, message: HiddenStates) -> None:
        if message.needs_signature and self._signer is None:
            raise ConfigError("this tier has no certificate of the site's to sign outcomes with")

    def _model_of(self, message: HiddenStates) -> ServedModel:
        models = self.models
        if message.model_revision not in models:
            raise ModelMismatchError(
                f"request is of model revision {message.model_revision[:32]!r}, this tier serves {', '.join(models)}"
            )
        return models[message.model_revision]

    def _run(self, chosen: Chosen, jobs: Sequence[_Job]) -> None:
        try:
            with self._quarantine.in_hand([job.name for job in jobs]):
                verdicts = chosen.pipeline.advance([job.state for job in jobs], upto=chosen.upto)
        except Exception as exc:  # noqa: BLE001 - the message boundary: one input must not stop the tier, nor its batch
            self._isolate(chosen, jobs, exc)
            return
        replies = [self._settle(chosen, job, verdict) for job, verdict in zip(jobs, verdicts, strict=True)]
        self._hand_over([job.message.request_id for job in jobs], replies)

    def _isolate(self, chosen: Chosen, jobs: Sequence[_Job], exc: Exception) -> None:
        if len(jobs) > 1:
            for job in jobs:
                self._run(chosen, [job])
            return
        (job,) = jobs
        _LOGGER.error("%s: inference failed", job.message.request_id, exc_info=exc)
        self._quarantine.strike(job.name, job.delivery.topic, job.delivery.payload, f"computing it failed: {exc}")
        self._refuse(job.message, "internal", exc)

    def _settle(self, chosen: Chosen, job: _Job, verdict: Verdict) -> Publication:
        hops = (*job.message.hops, self._hop(chosen, job, verdict))
        self._meter.hop(hops[-1], has_answered=isinstance(verdict, Exited))
        match verdict:
            case Exited():
                self.counters["answered"] += 1
                self.counters["cut_short"] += verdict.layer == chosen.upto < chosen.pipeline.depth
                reply = self._answer(job.message, verdict, hops)
            case Unsure() if job.model.escalation is None:
                raise AssertionError("the last tier is never unsure")
            case Unsure():
                self.counters["escalated"] += 1
                left_ms = max(0.0, job.message.budget_ms - hops[-1].queue_ms - hops[-1].compute_ms)
                carried = job.model.escalation.pack(
                    job.message.request_id,
                    job.message.device_id,
                    verdict.state,
                    budget_ms=left_ms,
                    hops=hops,
                    revision=job.message.model_revision,
                    needs_signature=job.message.needs_signature,
                    traceparent=job.place.traceparent,
                )
                reply = _reply(self._identity.topics.request(Tier.CLOUD), codec.encode(carried))
        self._trace(job, verdict, hops[-1])
        self._remembered[job.name] = reply
        while len(self._remembered) > self._max_remembered:
            self._remembered.popitem(last=False)
        return reply

    def _trace(self, job: _Job, verdict: Verdict, hop: Hop) -> None:
        reason = str(verdict.reason) if isinstance(verdict, Exited) else ESCALATED
        revision = hop.variant or job.message.model_revision
        self._tracer.hop(job.place, hop, received_at=job.delivery.received_at, reason=reason, revision=revision)

    def _answer(self, message: HiddenStates, exited: Exited, hops: tuple[Hop, ...]) -> Publication:
        outcome = Outcome(
            request_id=message.request_id,
            model_revision=message.model_revision,
            reason=exited.reason,
            logits=exited.logits,
            confidence=exited.confidence,
            exit_layer=exited.layer,
            threshold=exited.threshold,
            hops=hops,
        )
        payload = codec.encode(outcome)
        if message.needs_signature and self._signer is not None:
            payload = codec.encode(self._signer.sign(message.device_id, payload))
        return _reply(self._identity.topics.outcome(message.device_id), payload)

    def _hand_over(self, request_ids: Sequence[str], replies: Sequence[Publication]) -> None:
        refusals = self._transport.publish_all(replies)
        for request_id, reply, refusal in zip(request_ids, replies, refusals, strict=True):
            if refusal is not None:  # the device sends it again, and it is remembered
                self.counters["unsent"] += 1
                _LOGGER.warning("%s: could not be sent to %s: %s", request_id, reply.topic, refusal)

    def _repeat(self, message: HiddenStates) -> bool:
        if (remembered := self._remembered.get((message.device_id, message.request_id))) is None:
            return False
        self.counters["repeated"] += 1
        self._hand_over([message.request_id], [remembered])
        return True

    def _is_expired(self, message: HiddenStates, queue_ms: float) -> bool:
        if queue_ms < message.budget_ms:
            return False
        self.counters["expired"] += 1
        _LOGGER.info("%s: dropped, its %.0f ms ran out in the queue", message.request_id, message.budget_ms)
        return True

    def _refuse(self, message: HiddenStates, code: FailureCode, exc: Exception) -> None:
        self.counters["refused"] += 1
        _LOGGER.warning("%s from %s: refused: %s", message.request_id, message.device_id, exc)
        failure = Failure(request_id=message.request_id, code=code, detail=str(exc), node=self._identity.node)
        reply = _reply(self._identity.topics.outcome(message.device_id), codec.encode(failure))
        self._hand_over([message.request_id], [reply])

    def _count_refusal(self, delivery: Delivery, exc: Exception) -> None:
        self.counters["refused"] += 1
        self._quarantine.put_bytes(delivery.topic, delivery.payload, str(exc))
        _LOGGER.warning("refused %d bytes on %s: %s", len(delivery.payload), delivery.topic, exc)

    def _hop(self, chosen: Chosen, job: _Job, verdict: Verdict) -> Hop:
        revision = chosen.pipeline.manifest.revision
        best = verdict.best
        here_ms = (time.monotonic() - job.delivery.received_at) * 1000
        return Hop(
            tier=self._identity.tier,
            node=self._identity.node,
            start=job.message.split_point,
            end=best.layer,
            queue_ms=max(0.0, here_ms - best.compute_ms),  # for those taken with it, too
            compute_ms=best.compute_ms,
            received_bytes=len(job.delivery.payload),
            confidence=best.confidence,
            predictions=best.predictions[len(job.state.predictions) :],
            confidences=best.confidences[len(job.state.confidences) :],
            variant="" if revision == job.message.model_revision else revision,
            codec=job.message.codec,
            received_tokens=job.state.form[0],
            received_width=job.state.form[1],
        )


def _reply(topic: str, payload: bytes) -> Publication:
    return Publication(topic, payload, qos=0)  # the device asks again, and it is remembered


def _state(message: HiddenStates, variants: Variants) -> State:
    pipeline = variants.of(message.model_revision)
    state = unpack_state(message, pipeline.manifest, pipeline.links, pipeline.embedding)
    if state.layers_run not in variants.split_points:
        raise WireError(f"split point {state.layers_run} is none of {sorted(variants.split_points)}")
    return state
