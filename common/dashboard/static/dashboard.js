// Shows what /api/events sends. Text from the log is only ever set as text, never as markup.
const SVG = "http://www.w3.org/2000/svg";
const TIERS = ["device", "edge", "cloud"];
const PARTS = ["compute", "network", "queue"];
const OUTCOMES = ["right", "wrong"];
const ROWS = 50;

const at = (id) => document.getElementById(id);

function make(name, text = "", className = "") {
  const element = document.createElement(name);
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function draw(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const number = (value, digits = 1) =>
  value === null || Number.isNaN(value) ? "-" : value.toLocaleString("en", { maximumFractionDigits: digits });
const percent = (value) => (value === null || Number.isNaN(value) ? "-" : `${(100 * value).toFixed(1)} %`);
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en", { hour12: false });
const sum = (items, of) => items.reduce((total, item) => total + of(item), 0);
const answered = (minute) => sum(TIERS, (tier) => minute.answered[tier]);

function fact(name, value) {
  const box = make("div");
  box.append(make("dt", name), make("dd", value));
  return box;
}

function legend(id, names, unit, most) {
  const parts = names.flatMap((name) => {
    const key = draw("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" });
    key.append(draw("rect", { width: 1, height: 1, class: `s-${name}` }));
    return [key, document.createTextNode(name)];
  });
  at(id).replaceChildren(...parts, make("span", `; the top is ${number(most)} ${unit}`));
}

function stack(id, minutes, names, value, unit) {
  const most = Math.max(1e-9, ...minutes.map((minute) => sum(names, (name) => value(minute, name))));
  const width = 600 / minutes.length;
  const bars = [];
  minutes.forEach((minute, place) => {
    let floor = 160;
    for (const name of names) {
      const height = (160 * value(minute, name)) / most;
      floor -= height;
      if (height > 0) {
        bars.push(draw("rect", { x: place * width, y: floor, width: width * 0.85, height, class: `s-${name}` }));
      }
    }
  });
  at(id).replaceChildren(...bars);
  legend(`${id}-legend`, names, unit, bars.length ? most : 0);
}

function load(view, node) {
  const recent = view.minutes.slice(-5);
  const isDevice = node.tier === "device";
  const rate = sum(recent, (m) => (isDevice ? m.by_device[node.node] : m.answered[node.tier]) ?? 0) / recent.length;
  const whose = isDevice ? "asked" : "answered by its tier";
  return `, ${number(rate, rate < 10 ? 1 : 0)} a minute ${whose}${node.counters.inference_saturated ? ", saturated" : ""}`;
}

function own(view, node) {
  const part = view.parts.find((one) => one.node === node.node);
  return part ? [make("small", `median ${number(part.queue_ms, 2)} ms waiting, ${number(part.compute_ms, 2)} ms computing`), make("br")] : [];
}

function showNodes(view) {
  const items = view.nodes.map((node) => {
    const item = make("li", "", node.tier);
    item.append(
      make("strong", node.node), make("span", ` ${node.tier}, `), make("span", node.state, node.state),
      make("span", load(view, node)), make("br"),
      ...own(view, node),
      make("small", node.model_revision ? `revision ${node.revisions.join(", ") || node.model_revision}` : "revision unknown"),
    );
    if (node.update) item.append(make("br"), make("small", node.update, /^(refused|stuck)/.test(node.update) ? "failed" : ""));
    return item;
  });
  at("broker").hidden = !view.is_broker_known || view.is_broker_connected;
  const none = view.is_broker_known ? "no node has spoken yet" : "not watched: start it with --config to see the nodes";
  at("nodes").replaceChildren(...(items.length ? items : [make("li", none)]));
}

function savings(view, all) {
  const alone = view.cloud_only;
  if (alone === null) return [];
  const bytes = alone.bytes_per_token * sum(view.minutes, (m) => m.tokens) + alone.bytes_per_message * all;
  return [
    fact("cost saved against cloud-only", percent(1 - sum(view.minutes, (m) => m.cost) / (alone.cost * all))),
    fact("bytes saved against cloud-only", percent(1 - sum(view.minutes, (m) => m.payload_bytes) / bytes)),
  ];
}

function showFigures(view) {
  const all = sum(view.minutes, answered);
  const labelled = sum(view.minutes, (minute) => minute.labelled);
  at("figures").replaceChildren(
    fact("answers", number(all, 0)),
    ...TIERS.map((tier) => fact(`by the ${tier}`, percent(sum(view.minutes, (m) => m.answered[tier]) / all))),
    fact("median time", `${number(view.latency_ms_p50)} ms`),
    fact("95th percentile", `${number(view.latency_ms_p95)} ms`),
    fact("bytes an answer", number(sum(view.minutes, (m) => m.payload_bytes) / all, 0)),
    fact("cost an answer", number(sum(view.minutes, (m) => m.cost) / all, 2)),
    fact("disagreements", number(sum(view.minutes, (m) => m.disagreements), 0)),
    ...savings(view, all),
    fact("degraded or failed", number(sum(view.minutes, (m) => m.fallbacks), 0)),
    fact("accuracy", labelled ? `${percent(sum(view.minutes, (m) => m.correct) / labelled)} of ${labelled}` : "-"),
  );
}

function showRequests(view) {
  const rows = view.requests.slice(0, ROWS).map((request) => {
    const row = make("tr");
    const link = make("a", request.request_id);
    link.href = `/requests/${encodeURIComponent(request.request_id)}`;
    const name = make("td");
    name.append(link);
    const tier = make("td", `${request.exit_tier}, layer ${request.exit_layer}`, `tier ${request.exit_tier}`);
    row.append(
      make("td", clock(request.recorded_at)), name, make("td", request.device_id), tier,
      make("td", request.reason, request.reason), make("td", request.label ?? "-"),
      make("td", percent(request.confidence), "n"), make("td", number(request.total_ms), "n"),
    );
    return row;
  });
  if (!at("requests").contains(document.activeElement)) at("requests").replaceChildren(...rows);
}

function share(minute, outcome) {
  if (!minute.labelled) return 0;
  return (100 * (outcome === "right" ? minute.correct : minute.labelled - minute.correct)) / minute.labelled;
}

function show(view) {
  showNodes(view);
  showFigures(view);
  stack("tiers", view.minutes, TIERS, (minute, tier) => minute.answered[tier], "a minute");
  stack("accuracy", view.minutes, OUTCOMES, share, "%");
  stack("parts", view.minutes, PARTS, (m, part) => (answered(m) ? m[`${part}_ms`] / answered(m) : 0), "ms");
  showRequests(view);
}

function follow() {
  at("site").hidden = false;
  const source = new EventSource("/api/events");
  source.onmessage = (event) => {
    at("link").textContent = "live";
    at("link").className = "";
    show(JSON.parse(event.data));
  };
  source.onerror = () => {
    at("link").textContent = "connection lost, trying again";
    at("link").className = "lost";
  };
}

function story(request) {
  const why = {
    confident: `it was ${percent(request.confidence)} sure, and ${percent(request.threshold)} was asked for`,
    final: "it is the last exit of the way",
    degraded: `no better answer came in time: ${request.detail}`,
    failed: `no tier could answer: ${request.detail}`,
  }[request.reason];
  const pool = request.pool ? `It looked ${request.pool} and entered` : "It entered";
  return `${pool} at the ${request.entry_tier}. The ${request.exit_tier} answered ${request.label ?? "nothing"} after layer ${request.exit_layer}: ${why}.`;
}

async function explain(requestId) {
  at("request").hidden = false;
  at("request-title").textContent = `Request ${requestId}`;
  const reply = await fetch(`/api/requests/${encodeURIComponent(requestId)}`);
  at("link").textContent = "";
  if (!reply.ok) {
    at("story").textContent = await reply.text();
    return;
  }
  const request = await reply.json();
  at("story").textContent = story(request);
  at("way").replaceChildren(...request.hops.map((hop) => {
    const item = make("li", "", hop.tier);
    item.append(
      make("span", hop.tier, "tier"),
      make("span", ` ${hop.node}: layers ${hop.start_layer} to ${hop.end_layer}, ${percent(hop.confidence)} sure there, `
        + `${number(hop.queue_ms, 2)} ms waiting and ${number(hop.compute_ms, 2)} ms computing`
        + (hop.predictions.length ? `, its exits said class ${hop.predictions.join(", then ")}` : "")
        + (hop.received_bytes ? `, ${number(hop.received_bytes, 0)} bytes came in` : "")),
    );
    return item;
  }));
  at("facts").replaceChildren(
    fact("total", `${number(request.total_ms, 2)} ms`), fact("network", `${number(request.network_ms, 2)} ms`),
    fact("device", request.device_id), fact("tokens", number(request.tokens, 0)),
    fact("bytes sent", number(request.payload_bytes, 0)), fact("cost", number(request.cost, 2)),
    fact("true label", request.true_label ?? "unknown"), fact("revision", request.model_revision),
  );
}

const asked = location.pathname.match(/^\/requests\/(.+)$/);
if (asked) explain(decodeURIComponent(asked[1]));
else follow();
