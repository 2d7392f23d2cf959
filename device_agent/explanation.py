"""An answer in words, for ``dimee device ask``."""

from common.types import POOLS, Answer


def explain(answer: Answer) -> str:
    """Say what was answered, where, after how many layers and why."""
    lines = [f"{answer.label or 'no answer'}  (confidence {answer.confidence:.3f})"]
    if answer.pool:
        distances = ", ".join(f"{pool} {distance:.3f}" for pool, distance in zip(POOLS, answer.distances, strict=False))
        lines.append(f"  pool      {answer.pool}  (distance to {distances})")
    lines.append(f"  entered   {answer.entry_tier}")
    asked = "" if answer.threshold is None else f", asked for {answer.threshold:.3f}"
    lines.append(f"  answered  {answer.exit_tier} after layer {answer.exit_layer}: {answer.reason}{asked}")
    lines.extend(
        f"  {hop.tier:<8}  {hop.node}: layers {hop.start}-{hop.end}, queue {hop.queue_ms:.2f} ms, "
        f"compute {hop.compute_ms:.2f} ms"
        for hop in answer.hops
    )
    lines.append(f"  time      {answer.total_ms:.2f} ms, of which network {answer.network_ms:.2f} ms")
    lines.append(
        f"  sent      {answer.payload_bytes} bytes of hidden states; cost {answer.cost:g} ({answer.cost_model})"
    )
    if answer.is_truncated:
        lines.append(f"  cut       the text was longer than the model reads; {answer.tokens} tokens were used")
    if answer.detail:
        lines.append(f"  note      {answer.detail}")
    return "\n".join(lines)
