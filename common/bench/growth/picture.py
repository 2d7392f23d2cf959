"""A growth run as a picture: latency and answers over the rate, cost over devices, workers and length."""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from common.bench.growth.steps import Step, by_role
from common.bench.growth.sweeps import Growth

mpl.use("agg")


def draw(growth: Growth, path: Path) -> None:
    """Draw one panel for each sweep."""
    figure, ((rate, devices), (workers, length)) = plt.subplots(2, 2, figsize=(13, 8.5), layout="constrained")
    _draw_rate(rate, growth)
    _draw_latency(devices, [step.setup.devices for step in growth.devices[:-1]], growth.devices[:-1])
    devices.set_xlabel("light devices, at half of the capacity")
    _draw_workers(workers, growth.workers)
    _draw_cost(length, growth.length)
    machine = growth.context.machine
    figure.suptitle(
        f"{machine.processor}, {machine.cores} cores; {growth.context.bundle} {growth.context.revision}, "
        f"{growth.context.precision}; commit {machine.commit}"
    )
    figure.savefig(path)
    plt.close(figure)


def _draw_rate(axes: Axes, growth: Growth) -> None:
    offered = [step.setup.rate_hz or 0.0 for step in growth.rate]
    _draw_latency(axes, offered, growth.rate, style="o")  # a rate may have several steps
    axes.set_xscale("linear")
    axes.set_xlabel("requests per second")
    if growth.knee_hz is not None:
        axes.axvline(growth.knee_hz, color="grey", linestyle=":")
    answered = axes.twinx()
    answered.plot(offered, [step.throughput_hz for step in growth.rate], "kx", label="answered")
    answered.set_ylabel("answers per second")
    answered.set_ylim(bottom=0)
    answered.legend(loc="lower right")


def _draw_latency(axes: Axes, at: list[float] | list[int], steps: list[Step], style: str = "o-") -> None:
    for name, values in (
        ("p50", [step.flowed.p50_ms for step in steps]),
        ("p95", [step.flowed.p95_ms for step in steps]),
        ("p99", [step.flowed.p99_ms for step in steps]),
    ):
        axes.plot(at, [float("nan") if value is None else value for value in values], style, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    axes.legend(loc="upper left")


def _draw_workers(axes: Axes, steps: list[Step]) -> None:
    names = [f"{step.setup.edges} + {step.setup.clouds}" for step in steps]
    for shift, label, values in (
        (0.0, "answers per second", [step.throughput_hz for step in steps]),
        (0.4, "per core used", [step.per_core_hz for step in steps]),
    ):
        axes.bar([place + shift for place in range(len(steps))], values, 0.4, align="edge", label=label)
    axes.set_xticks([place + 0.4 for place in range(len(steps))], names)
    axes.set_xlabel("edges + cloud workers, each round")
    axes.legend(loc="lower right")


def _draw_cost(axes: Axes, steps: list[Step]) -> None:
    tokens = [step.setup.tokens or 0 for step in steps]
    for role in ("edge", "broker"):
        axes.plot(tokens, [by_role(step.cpu_ms)[role] for step in steps], "o-", label=role)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens")
    axes.set_ylabel("processor time, ms per request")
    axes.legend(loc="upper left")
