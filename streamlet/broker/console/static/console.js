// The console's page. No build step: preact through htm, charts by uPlot, everything shown as text nodes and attributes.
import { html, render, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./htm-preact.js";

const API = "/_streamlet/console/api/";
const TOKEN = document.querySelector('meta[name="streamlet-token"]').content;
const POINTS = 120; // seconds of rates that are kept
const RING = 2n ** 128n;
const ENDPOINT = location.origin;

// --- the broker ---------------------------------------------------------------------------------------------------------

async function ask(name, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", "X-Streamlet-Token": TOKEN },
  };
  let answer;
  try {
    answer = await fetch(API + name, options);
  } catch {
    throw new Error("The broker does not answer. Is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.code && !/^(Wrong|Refused|NotFound|TooLarge)$/.test(content.code) ? `${content.code}: ${content.error}` : content.error || `HTTP ${answer.status}`);
  return content;
}
const place = (s) => ({ account: s.account, region: s.region });
const operate = (s, operation, members) => ask("operation", { operation, members, ...(s ? place(s) : {}) });

// --- texts --------------------------------------------------------------------------------------------------------------

const keyOf = (s) => JSON.stringify([s.account, s.region, s.name]);
const pathOf = (s, tab) => `#/s/${[s.account, s.region, s.name].map(encodeURIComponent).join("/")}${tab && tab !== "records" ? `/${tab}` : ""}`;
const whole = (n) => Math.round(n).toLocaleString("en-US");
const short = (n) => n >= 1e6 ? `${(n / 1e6).toFixed(n >= 1e7 ? 0 : 1)} M` : n >= 1e4 ? `${(n / 1e3).toFixed(n >= 1e5 ? 0 : 1)} k` : n >= 10 || n === 0 ? whole(n) : n.toFixed(1).replace(/\.0$/, "");
function bytes(n) {
  if (n == null) return "–";
  for (const unit of ["B", "KiB", "MiB"]) { if (n < 1024) return `${unit === "B" || n >= 100 ? Math.round(n) : n.toFixed(1)} ${unit}`; n /= 1024; }
  return `${n.toFixed(1)} GiB`;
}
function span(ms) {
  if (ms == null) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = Math.floor(ms / 1000);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} d`;
}
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB") + "." + String(ms % 1000).padStart(3, "0");
const when = (ms) => new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const shardName = (index) => `shardId-${String(index).padStart(12, "0")}`;
const share = (shard) => Number((BigInt(shard.end) - BigInt(shard.start) + 1n) * 1000000n / RING) / 1e4;
const percent = (n) => `${n >= 9.95 ? n.toFixed(0) : n.toFixed(1)} %`;
const quote = (text) => /^[\w.-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`;

// --- small parts --------------------------------------------------------------------------------------------------------

let say = () => {};
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
  } catch {
    say("The browser did not let it be copied: select it by hand");
  }
}
const Copy = ({ text, what }) => html`<div class="copy"><pre tabindex="0" aria-label=${what}>${text}</pre>
  <button type="button" onClick=${() => copy(text)} aria-label=${`Copy ${what}`}>Copy</button></div>`;
const Trouble = ({ text, onClose }) => text ? html`<div class="note bad" role="alert">${onClose && html`<button class="bare" type="button" aria-label="Dismiss" onClick=${onClose}>✕</button>`}${text}</div>` : null;

function Dialog({ title, children, onClose, onSubmit, action, danger }) {
  const ref = useRef();
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState("");
  useEffect(() => {
    const node = ref.current, before = document.activeElement;
    node.showModal();
    return () => { node.close(); if (before && before.isConnected) before.focus(); };
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    if (busy) return;
    if (!onSubmit) { onClose(); return; }
    setBusy(true); setTrouble("");
    try {
      await onSubmit(new FormData(event.target));
      onClose();
    } catch (error) { setTrouble(error.message); setBusy(false); }
  };
  return html`<dialog ref=${ref} aria-label=${title} onCancel=${(e) => { e.preventDefault(); onClose(); }} onClick=${(e) => { if (e.target === ref.current) onClose(); }}>
    <form onSubmit=${submit}><h2>${title}</h2>${children}<${Trouble} text=${trouble} />
      <div class="ends"><button type="button" onClick=${onClose}>${onSubmit ? "Cancel" : "Close"}</button>
        ${onSubmit && html`<button type="submit" class=${danger ? "bad" : "main"} disabled=${busy}>${action}</button>`}</div>
    </form></dialog>`;
}

function useWidth() {
  const ref = useRef();
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const look = () => ref.current && setWidth(ref.current.clientWidth);
    look();
    const observer = new ResizeObserver(look);
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

// --- rates --------------------------------------------------------------------------------------------------------------

const COUNTED = ["records_in", "records_out", "bytes_in", "bytes_out"];
const history = new Map(); // stream -> {at: [], records_in: [], ...} per second
let before = null;

function remember(tick) {
  const seconds = before ? (tick.at_ms - before.at_ms) / 1000 : 0;
  const known = new Map((before ? before.streams : []).map((s) => [keyOf(s), s]));
  for (const s of tick.streams) {
    const key = keyOf(s), last = known.get(key);
    let kept = history.get(key);
    if (!kept) {
      kept = { at: [] };
      for (const name of COUNTED) kept[name] = [];
      for (let back = POINTS; back > 0; back--) { kept.at.push(tick.at_ms / 1000 - back); for (const name of COUNTED) kept[name].push(null); }
      history.set(key, kept);
    }
    if (!last || seconds <= 0.05) continue;
    kept.at.push(tick.at_ms / 1000);
    // A shard that expired takes its counts along: the total then falls, and no rate is below zero.
    for (const name of COUNTED) kept[name].push(Math.max(0, s[name] - last[name]) / seconds);
    if (kept.at.length > POINTS) for (const name of ["at", ...COUNTED]) kept[name].shift();
  }
  const there = new Set(tick.streams.map(keyOf));
  for (const key of history.keys()) if (!there.has(key)) history.delete(key);
  before = tick;
}
const rate = (s, name) => { const kept = history.get(keyOf(s)); return (kept && kept[name].at(-1)) || 0; };

function useTicks() {
  const [tick, setTick] = useState(null);
  const [live, setLive] = useState(true);
  useEffect(() => {
    const source = new EventSource(API + "events");
    source.onopen = () => setLive(true);
    source.onerror = () => setLive(false);
    source.onmessage = (event) => {
      const next = JSON.parse(event.data);
      if (before && before.started_ms !== next.started_ms) { location.reload(); return; } // another broker: another token
      remember(next);
      setTick(next);
    };
    return () => source.close();
  }, []);
  return [tick, live];
}

const BINARY = [...Array(34).keys()].map((power) => 2 ** power); // steps of 64 KiB, not of 97.7

function Chart({ stream, names, unit, format, label, tick, theme }) {
  const [ref, width] = useWidth();
  const plot = useRef();
  const kept = history.get(keyOf(stream));
  const data = () => { const kept = history.get(keyOf(stream)); return kept ? [kept.at, kept[names[0]], kept[names[1]]] : [[], [], []]; };
  useEffect(() => {
    if (!width) return undefined;
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const series = (name, tone) => ({ label: name, stroke: color(tone), width: 2, fill: tone === "--in" ? color(tone) + "1f" : undefined, points: { show: false }, spanGaps: false });
    plot.current = new uPlot({
      width, height: 128, legend: { show: false }, cursor: { show: false }, padding: [8, 24, 0, 0],
      scales: { y: { range: (_, __, high) => [0, Math.max(unit, high * 1.15 || 0)] } },
      axes: [{ ...axis, size: 22, space: 90, values: (_, all) => all.map((t) => new Date(t * 1000).toLocaleTimeString("en-GB")) },
        { ...axis, size: 64, space: 34, incrs: unit === 1024 ? BINARY : undefined, values: (_, all) => all.map((n) => format(n)) }],
      series: [{}, series("in", "--in"), series("out", "--out")],
    }, data(), ref.current.querySelector(".plot"));
    return () => plot.current.destroy();
  }, [width, theme, keyOf(stream)]);
  useEffect(() => { if (plot.current && kept) plot.current.setData(data()); }, [tick]);
  const now = (name) => format(rate(stream, name));
  return html`<section class="panel chart" ref=${ref} aria-label=${label}>
    <div class="head"><div class="stat"><b>${now(names[0])}/s</b><span><i></i>${label} in</span></div>
      <div class="stat out"><b>${now(names[1])}/s</b><span><i></i>${label} out</span></div></div>
    <div class="plot" role="img" aria-label=${`${label} per second over the last two minutes`}></div></section>`;
}

// --- records ------------------------------------------------------------------------------------------------------------

const FORMATS = [["auto", "As it looks"], ["json", "JSON"], ["text", "Text"], ["avro", "Avro"], ["kpl", "KPL aggregate"], ["hex", "Hex"]];

function View({ view }) {
  if (view.problem) return html`<div class="note">${view.problem}</div>`;
  if (view.as === "kpl") return html`<p class="small soft">${whole(view.count)} user records in one${view.count > view.records.length ? `; the first ${view.records.length} are shown` : ""}</p>
    ${view.records.map((r, n) => html`<div key=${n}><p class="small"><span class="badge kind">${n}</span> <b class="mono">${r.key}</b> <span class="soft">${r.kind}, ${bytes(r.size)}${r.hash ? `, hash key ${r.hash}` : ""}${r.cut ? ", cut off" : ""}</span></p><pre class=${r.kind === "json" || r.kind === "text" ? "" : "hex"}>${r.text}</pre></div>`)}`;
  return html`<pre class=${view.as === "hex" ? "hex" : ""} tabindex="0" aria-label="Payload">${view.text}</pre>
    ${view.cut && html`<p class="small soft">Cut off here: the payload goes on.</p>`}${view.more && html`<p class="small soft">More values follow.</p>`}
    ${view.schema && html`<details><summary class="small">Schema of its writer</summary><pre>${view.schema}</pre></details>`}`;
}

let lastSchema = "";
function Detail({ stream, row }) {
  const [form, setForm] = useState("auto");
  const [schema, setSchema] = useState(lastSchema);
  const [view, setView] = useState(null);
  const [trouble, setTrouble] = useState("");
  useEffect(() => {
    let on = true;
    ask("record", { stream: stream.name, ...place(stream), shard: row.shard, position: row.position, as: form, schema: form === "avro" ? schema : "" })
      .then((answer) => { if (on) { setView(answer.view); setTrouble(""); } }, (error) => on && setTrouble(error.message));
    return () => { on = false; };
  }, [form, schema]);
  return html`<div class="detail">
    <dl class="meta">
      <div><dt>Sequence number</dt><dd class="mono">${row.number}</dd></div><div><dt>Partition key</dt><dd class="mono">${row.key}</dd></div>
      <div><dt>Arrived</dt><dd>${when(row.at_ms)}</dd></div><div><dt>Shard, size</dt><dd>${shardName(row.shard)}, ${whole(row.size)} B</dd></div></dl>
    <div class="actions"><label class="row">Show as <select value=${form} onChange=${(e) => setForm(e.target.value)}>${FORMATS.map(([id, text]) => html`<option key=${id} value=${id}>${text}</option>`)}</select></label>
      ${view && view.text != null && html`<button type="button" onClick=${() => copy(view.text)}>Copy payload</button>`}
      <button type="button" onClick=${() => copy(row.number)}>Copy sequence number</button></div>
    ${form === "avro" && html`<label>Writer's schema (JSON), for values that do not carry it<textarea rows="4" value=${schema} onChange=${(e) => { lastSchema = e.target.value; setSchema(lastSchema); }} spellcheck=${false}></textarea></label>`}
    <${Trouble} text=${trouble} />${view && html`<${View} view=${view} />`}</div>`;
}

function Records({ stream, shape, focusShard, setFocusShard, refresh }) {
  const [search, setSearch] = useState("");
  const [order, setOrder] = useState("newest");
  const [from, setFrom] = useState("");
  const [live, setLive] = useState(false);
  const [page, setPage] = useState({ records: [], cursor: null, scanned: 0 });
  const [open, setOpen] = useState("");
  const [busy, setBusy] = useState(true);
  const [trouble, setTrouble] = useState("");
  const turn = useRef(0), seen = useRef(-1);
  const load = async (cursor, kept) => {
    const mine = ++turn.current;
    setBusy(true);
    if (cursor === null) seen.current = stream.records_in;
    try {
      let records = kept, scanned = cursor ? page.scanned : 0, answer, rounds = 0;
      do {
        answer = await ask("records", {
          stream: stream.name, ...place(stream), shards: focusShard === "" ? [] : [Number(focusShard)], search, limit: 50, cursor,
          from_ms: order === "newest" ? null : order === "oldest" ? 0 : Date.parse(from) || 0,
        });
        if (turn.current !== mine) return;
        records = records.concat(answer.records);
        scanned += answer.scanned;
        cursor = answer.cursor;
      } while (cursor && records.length < kept.length + 20 && ++rounds < 12);
      setPage({ records, cursor, scanned, left: answer.shards_left_out });
      setTrouble("");
    } catch (error) { if (turn.current === mine) setTrouble(error.message); }
    if (turn.current === mine) setBusy(false);
  };
  useEffect(() => { setOpen(""); load(null, []); return () => { turn.current++; }; }, [keyOf(stream), order, from, focusShard, refresh]);
  useEffect(() => { const timer = setTimeout(() => { if (!busy || search) load(null, []); }, 250); return () => clearTimeout(timer); }, [search]);
  useEffect(() => { if (live && !open && !busy && order === "newest" && stream.records_in !== seen.current) load(null, []); }, [stream.records_in, live, open]);
  const walk = (event) => {
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...event.currentTarget.querySelectorAll("button.rec")], at = all.indexOf(document.activeElement);
    if (at >= 0 && all[at + step]) { event.preventDefault(); all[at + step].focus(); }
  };
  const fresh = stream.records_in - seen.current;
  const indexes = shape ? shape.shard_list.filter((s) => s.stored) : [];
  return html`<section class="panel" role="tabpanel" id="panel-records" aria-labelledby="tab-records">
    <div class="filters" role="search">
      <input type="search" id="search" placeholder="Search keys and payloads" aria-label="Search keys and payloads" maxlength="256" value=${search} onInput=${(e) => setSearch(e.target.value)} />
      <select aria-label="Order" value=${order} onChange=${(e) => setOrder(e.target.value)}><option value="newest">Newest first</option><option value="oldest">From the oldest</option><option value="time">From a time</option></select>
      ${order === "time" && html`<input type="datetime-local" step="1" aria-label="From this time on" value=${from} onChange=${(e) => setFrom(e.target.value)} />`}
      <select aria-label="Shard" onChange=${(e) => setFocusShard(e.target.value)}><option value="" selected=${focusShard === ""}>All shards</option>
        ${indexes.map((s) => html`<option key=${s.index} value=${String(s.index)} selected=${focusShard === String(s.index)}>Shard ${s.index}${s.open ? "" : " (closed)"}</option>`)}</select>
      <button type="button" aria-pressed=${live} disabled=${order !== "newest"} onClick=${() => setLive(!live)}>Live</button>
      <button type="button" onClick=${() => load(null, [])}>Refresh</button></div>
    ${trouble && html`<div class="pad"><${Trouble} text=${trouble} /></div>`}
    ${page.records.length > 0 && html`<div class="rec heads" aria-hidden="true"><span>Arrived</span><span>Shard</span><span>Key</span><span>Kind</span><span>Payload</span><span class="num">Size</span></div>`}
    <ul class="rows" onKeyDown=${walk}>${page.records.map((row) => {
      const id = `${row.shard}/${row.position}`;
      return html`<li key=${id}><button type="button" class="rec" aria-expanded=${open === id} onClick=${() => setOpen(open === id ? "" : id)}>
        <span class="soft small" title=${when(row.at_ms)}>${clock(row.at_ms)}</span><span class="shard soft small">#${row.shard}</span><span class="mono">${row.key}</span>
        <span class="kindcell"><span class="badge kind">${row.kind}</span></span><span class="preview mono">${row.preview || "(empty)"}</span><span class="num soft small size">${bytes(row.size)}</span></button>
        ${open === id && html`<${Detail} stream=${stream} row=${row} />`}</li>`;
    })}</ul>
    ${!page.records.length && !busy && !trouble && (stream.stored === 0 ? html`<${FirstRecord} stream=${stream} />` : html`<div class="empty"><h2>Nothing found</h2><p class="soft">${search ? `No key or payload in ${whole(page.scanned)} records holds this text.` : "No records in this choice of shards and time."}</p></div>`)}
    ${(page.records.length > 0 || page.cursor) && html`<div class="more small soft">
      ${page.cursor && html`<button type="button" disabled=${busy} onClick=${() => load(page.cursor, page.records)}>${search ? "Search on" : "Load more"}</button>`}
      <span aria-live="polite">${whole(page.records.length)} shown${search ? ` of ${whole(page.scanned)} searched` : ""}${page.cursor ? "" : ", that is all"}${page.left ? `; ${page.left} more shards hold records: choose one` : ""}${live ? (open ? " · live, waiting while a record is open" : " · live") : order === "newest" && fresh > 0 ? ` · ${whole(fresh)} have come since` : ""}</span></div>`}
  </section>`;
}

function FirstRecord({ stream }) {
  const [tool, setTool] = useState("streamlet");
  const region = stream.region || "us-east-1";
  const texts = {
    streamlet: `printf '%s\\n' '{"id": 1, "customer": "ada", "total": 9.5}' |\n  streamlet put ${quote(stream.name)} --key customer --region ${region} \\\n  --endpoint-url ${ENDPOINT}`,
    aws: `aws kinesis put-record --endpoint-url ${ENDPOINT} --region ${region} \\\n  --stream-name ${quote(stream.name)} --partition-key ada \\\n  --cli-binary-format raw-in-base64-out --data '{"id": 1}'`,
    boto3: `import boto3\n\nkinesis = boto3.client("kinesis", endpoint_url="${ENDPOINT}", region_name="${region}",\n    aws_access_key_id="local", aws_secret_access_key="local")\nkinesis.put_record(StreamName=${JSON.stringify(stream.name)}, PartitionKey="ada", Data=b'{"id": 1}')`,
  };
  return html`<div class="empty"><h2>No records yet</h2><p class="soft">Put one with the button above (<kbd>p</kbd>), or from a shell or program:</p>
    <div class="how"><div class="actions" role="group" aria-label="Tool">${Object.keys(texts).map((name) => html`<button key=${name} type="button" aria-pressed=${tool === name} onClick=${() => setTool(name)}>${name}</button>`)}</div>
    <${Copy} text=${texts[tool]} what="command" /></div></div>`;
}

// --- shards -------------------------------------------------------------------------------------------------------------

/** Where each shard stands: across by its hash range, down by generation, until its children begin. */
function lineage(shards) {
  const known = new Map(shards.map((s) => [s.index, s]));
  const depth = new Map();
  for (const s of shards) depth.set(s.index, 1 + Math.max(-1, ...s.parents.map((p) => known.has(p) ? depth.get(p) : -1)));
  const rows = 1 + Math.max(0, ...depth.values());
  const x = (text) => Number(BigInt(text) * 1000000n / RING) / 1e6;
  return { rows, boxes: shards.map((s) => ({
    shard: s, x0: x(s.start), x1: s.end === String(RING - 1n) ? 1 : x(String(BigInt(s.end) + 1n)), top: depth.get(s.index),
    bottom: s.children.length ? Math.min(...s.children.map((c) => depth.has(c) ? depth.get(c) : rows)) : s.open ? rows : depth.get(s.index) + 1,
  })) };
}

function Lineage({ shards, chosen, choose }) {
  const [ref, width] = useWidth();
  const { rows, boxes } = useMemo(() => lineage(shards), [shards]);
  const gap = 16, height = rows > 8 ? 40 : 54, w = Math.max(0, width - 28);
  const y = (row) => row * (height + gap);
  const at = new Map(boxes.map((b) => [b.shard.index, b]));
  const key = (event, index) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(index); } };
  return html`<div class="lineage" ref=${ref}>${w > 0 && html`<svg width=${w} height=${y(rows) - gap + 18} viewBox=${`0 0 ${w} ${y(rows) - gap + 18}`} role="group" aria-label="Lineage of the shards: hash range across, generations from top to bottom">
    ${boxes.flatMap((b) => b.shard.children.map((c) => {
      const child = at.get(c);
      if (!child) return null;
      const x0 = Math.max(b.x0, child.x0) * w, x1 = Math.min(b.x1, child.x1) * w;
      return html`<rect key=${`${b.shard.index}-${c}`} class="link" x=${x0 + 5} width=${Math.max(1, x1 - x0 - 10)} y=${y(b.bottom) - gap} height=${gap} />`;
    }))}
    ${boxes.map((b) => {
      const s = b.shard, left = b.x0 * w + 1.5, wide = Math.max(2, (b.x1 - b.x0) * w - 3), top = y(b.top), tall = Math.max(10, y(b.bottom) - gap - top);
      return html`<g key=${s.index} class=${`shard ${s.open ? "" : "closed"} ${chosen === s.index ? "on" : ""}`} tabindex="0" role="button" aria-pressed=${chosen === s.index}
          aria-label=${`Shard ${s.index}, ${s.open ? "open" : "closed"}, ${percent(share(s))} of the hash range, ${whole(s.stored)} records${s.parents.length ? `, from ${s.parents.join(" and ")}` : ""}${s.children.length ? `, continued by ${s.children.join(" and ")}` : ""}`}
          onClick=${() => choose(s.index)} onKeyDown=${(e) => key(e, s.index)}>
        <title>${`${s.id} · ${s.open ? "open" : "closed"} · ${percent(share(s))}`}</title>
        <rect class="box" x=${left} y=${top + 1} width=${wide} height=${tall - 2} rx="7" />
        ${wide > 8 + 8 * String(s.index).length && html`<text x=${left + wide / 2} y=${top + (wide > 64 && tall > 36 ? 22 : tall > 60 ? 26 : tall / 2 + 5)} text-anchor="middle">#${s.index}</text>`}
        ${wide > 64 && tall > 36 && html`<text class="dim" x=${left + wide / 2} y=${top + 38} text-anchor="middle">${short(s.stored)} rec</text>`}</g>`;
    })}
    <text class="dim" x="1" y=${y(rows) - gap + 14}>0</text><text class="dim" x=${w / 2} y=${y(rows) - gap + 14} text-anchor="middle">hash key</text><text class="dim" x=${w - 1} y=${y(rows) - gap + 14} text-anchor="end">2¹²⁸ − 1</text>
  </svg>`}</div>`;
}

function Shards({ stream, shape, onDialog, browse }) {
  const [chosen, setChosen] = useState(null);
  const [closed, setClosed] = useState(false);
  if (!shape) return html`<section class="panel pad soft" role="tabpanel" id="panel-shards" aria-labelledby="tab-shards">…</section>`;
  const all = shape.shard_list, opened = all.filter((s) => s.open).sort((a, b) => BigInt(a.start) < BigInt(b.start) ? -1 : 1);
  const rows = closed ? [...opened, ...all.filter((s) => !s.open).reverse()] : opened;
  const one = all.find((s) => s.index === chosen);
  const bar = (s) => html`<div class=${`bar ${s.open ? "" : "closed"}`}><i style=${{ left: `${Number(BigInt(s.start) * 10000n / RING) / 100}%`, width: `${share(s)}%` }}></i></div>`;
  const buttons = (s) => html`<div class="actions">${s.open && html`<button type="button" onClick=${() => onDialog({ what: "split", shard: s })} aria-label=${`Split shard ${s.index}`}>Split</button>
    <button type="button" disabled=${opened.length < 2} onClick=${() => onDialog({ what: "merge", shard: s, opened })} aria-label=${`Merge shard ${s.index}`}>Merge</button>`}
    <button type="button" class="to-records" disabled=${!s.stored} onClick=${() => browse(s.index)} aria-label=${`Records of shard ${s.index}`}>Records</button></div>`;
  return html`<section role="tabpanel" id="panel-shards" aria-labelledby="tab-shards" class="panel">
    <div class="legend"><span><i></i>open</span><span><i class="closed"></i>closed, kept until its records expire</span><span>Choose a shard to see more.</span></div>
    <${Lineage} shards=${all} chosen=${chosen} choose=${(index) => setChosen(chosen === index ? null : index)} />
    ${shape.shards_left_out > 0 && html`<p class="pad soft small">${shape.shards_left_out} older shards are not drawn.</p>`}
    ${one && html`<div class="detail" aria-live="polite"><div class="title"><div><h2>${one.id} <span class=${`badge ${one.open ? "ok" : ""}`}>${one.open ? "open" : "closed"}</span></h2></div>${buttons(one)}</div>
      <dl class="meta"><div><dt>First hash key</dt><dd class="mono">${one.start}</dd></div><div><dt>Last hash key</dt><dd class="mono">${one.end}</dd></div>
        <div><dt>Parents, children</dt><dd>${one.parents.map((p) => `#${p}`).join(" ") || "none"} → ${one.children.map((c) => `#${c}`).join(" ") || "none"}</dd></div>
        <div><dt>Opened${one.closed_ms ? ", closed" : ""}</dt><dd>${when(one.created_ms)}${one.closed_ms ? ` – ${when(one.closed_ms)}` : ""}</dd></div>
        <div><dt>Records, bytes put</dt><dd>${whole(one.records)}, ${bytes(one.bytes)}</dd></div></dl></div>`}
    <div class="scroll"><table><thead><tr><th>Shard</th><th class="opt">Hash range</th><th class="num">Share</th><th class="num">Records</th><th class="num opt">Bytes put</th><th><span class="sr">Actions</span></th></tr></thead>
      <tbody>${rows.map((s) => html`<tr key=${s.index}><td><b>#${s.index}</b> ${!s.open && html`<span class="badge">closed</span>`}</td><td class="opt">${bar(s)}</td><td class="num">${percent(share(s))}</td><td class="num">${whole(s.stored)}</td><td class="num opt">${bytes(s.bytes)}</td><td class="actions-cell">${buttons(s)}</td></tr>`)}</tbody></table></div>
    ${all.length > opened.length && html`<div class="more"><button type="button" aria-pressed=${closed} onClick=${() => setClosed(!closed)}>${closed ? "Hide" : "Show"} ${all.length - opened.length} closed</button></div>`}
  </section>`;
}

// --- consumers ----------------------------------------------------------------------------------------------------------

function Consumers({ stream, consumers }) {
  if (!consumers.length) return html`<section class="panel" role="tabpanel" id="panel-consumers" aria-labelledby="tab-consumers"><div class="empty"><h2>Nobody has read yet</h2>
    <p class="soft">Clients that call GetRecords show here by access key and User-Agent, registered consumers by name.</p>
    <div class="how"><${Copy} what="command" text=${`ITERATOR=$(aws kinesis get-shard-iterator --endpoint-url ${ENDPOINT} --region ${stream.region || "us-east-1"} \\\n  --stream-name ${quote(stream.name)} --shard-id 0 --shard-iterator-type TRIM_HORIZON --query ShardIterator --output text)\naws kinesis get-records --endpoint-url ${ENDPOINT} --region ${stream.region || "us-east-1"} --shard-iterator "$ITERATOR"`} /></div></div></section>`;
  const tone = (ms) => ms == null ? "" : ms < 1000 ? "ok" : ms < 60000 ? "warn" : "bad";
  return html`<section class="panel" role="tabpanel" id="panel-consumers" aria-labelledby="tab-consumers"><div class="scroll"><table>
    <thead><tr><th>Consumer</th><th>Shard</th><th class="num">Iterator age</th><th class="num">Last read</th><th class="num opt">Records read</th></tr></thead>
    <tbody>${consumers.map((c, n) => html`<tr key=${`${c.kind}${c.name}${c.shard}${n}`}><td class="wrap">${c.name} <span class="badge">${c.kind}</span></td><td>${c.shard == null ? "–" : `#${c.shard}`}</td>
      <td class="num">${c.ended ? html`<span class="badge">read to its end</span>` : c.open ? html`<span class=${`badge ${tone(c.behind_ms)}`}>${c.behind_ms === 0 ? "caught up" : `${span(c.behind_ms)} behind`}</span>` : html`<span class="badge">not subscribed</span>`}</td>
      <td class="num">${c.kind === "fan-out" ? (c.open ? "subscribed" : "–") : `${span(c.silent_ms)} ago`}</td><td class="num opt">${c.records == null ? "–" : whole(c.records)}</td></tr>`)}</tbody></table></div></section>`;
}

// --- a stream -----------------------------------------------------------------------------------------------------------

const TABS = ["records", "shards", "consumers"];

function Stream({ stream, tab, tick, theme, dialog, setDialog }) {
  const [shape, setShape] = useState(null);
  const [focusShard, setFocusShard] = useState("");
  const [refresh, setRefresh] = useState(0);
  const [trouble, setTrouble] = useState("");
  const id = keyOf(stream);
  useEffect(() => {
    let on = true;
    ask(`stream?${new URLSearchParams({ name: stream.name, ...place(stream) })}`).then((found) => { if (on) { setShape(found); setTrouble(""); } }, (error) => on && setTrouble(error.message));
    return () => { on = false; };
  }, [id, stream.shape, refresh, tab === "shards" ? Math.floor(tick.at_ms / 3000) : 0]);
  useEffect(() => setFocusShard(""), [id]);
  const mine = tick.consumers.filter((c) => JSON.stringify(c.stream) === id);
  const counts = { records: short(stream.stored), shards: stream.open_shards === stream.shards ? stream.shards : `${stream.open_shards} open`, consumers: mine.length };
  const arrows = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length];
    location.hash = pathOf(stream, next);
    document.getElementById(`tab-${next}`).focus();
  };
  const close = () => setDialog(null);
  const done = (text) => { say(text); setRefresh((n) => n + 1); };
  return html`<div class="title"><div><h1>${stream.name} <span class=${`badge ${stream.status === "ACTIVE" ? "ok" : "warn"}`}>${stream.status}</span></h1>
      <p class="soft small">${stream.open_shards} open ${stream.open_shards === 1 ? "shard" : "shards"} · keeps ${stream.retention_hours} h · ${stream.mode.toLowerCase().replace("_", " ")} · ${stream.account ? `account ${stream.account}, ${stream.region}` : "in every account and region"}</p></div>
    <div class="actions"><button type="button" class="main" onClick=${() => setDialog({ what: "put" })}>Put a record</button><button type="button" class="bad" onClick=${() => setDialog({ what: "delete" })}>Delete</button></div></div>
  <${Trouble} text=${trouble} />
  <div class="charts"><${Chart} stream=${stream} names=${["records_in", "records_out"]} unit=${10} format=${short} label="Records" tick=${tick} theme=${theme} />
    <${Chart} stream=${stream} names=${["bytes_in", "bytes_out"]} unit=${1024} format=${bytes} label="Bytes" tick=${tick} theme=${theme} /></div>
  <div class="tabs" role="tablist" aria-label="Of this stream" onKeyDown=${arrows}>${TABS.map((name) => html`<button key=${name} type="button" role="tab" id=${`tab-${name}`} aria-selected=${tab === name} aria-controls=${`panel-${name}`} tabindex=${tab === name ? 0 : -1} onClick=${() => { location.hash = pathOf(stream, name); }}>${name[0].toUpperCase() + name.slice(1)}<span class="count">${counts[name]}</span></button>`)}</div>
  ${tab === "records" && html`<${Records} key=${id} stream=${stream} shape=${shape} focusShard=${focusShard} setFocusShard=${setFocusShard} refresh=${refresh} />`}
  ${tab === "shards" && html`<${Shards} key=${id} stream=${stream} shape=${shape} onDialog=${setDialog} browse=${(index) => { setFocusShard(String(index)); location.hash = pathOf(stream); }} />`}
  ${tab === "consumers" && html`<${Consumers} stream=${stream} consumers=${mine} />`}
  ${dialog && dialog.what === "put" && html`<${Put} stream=${stream} onClose=${close} done=${done} />`}
  ${dialog && dialog.what === "split" && html`<${Split} stream=${stream} shard=${dialog.shard} onClose=${close} done=${done} />`}
  ${dialog && dialog.what === "merge" && html`<${Merge} stream=${stream} shard=${dialog.shard} opened=${dialog.opened} onClose=${close} done=${done} />`}
  ${dialog && dialog.what === "delete" && html`<${Dialog} title=${`Delete ${stream.name}?`} action="Delete the stream" danger=${true} onClose=${close}
    onSubmit=${async () => { await operate(stream, "DeleteStream", { StreamName: stream.name, EnforceConsumerDeletion: true }); say(`${stream.name} is deleted`); }}>
    <p>Its ${whole(stream.stored)} records and ${mine.length ? "consumers" : "settings"} go with it. There is no way back.</p><//>`}`;
}

let lastKey = "ada";
function Put({ stream, onClose, done }) {
  const [form, setForm] = useState("text");
  const submit = async (data) => {
    const text = data.get("data"), key = data.get("key"), hash = data.get("hash").trim();
    let encoded;
    if (form === "base64") encoded = text.replace(/\s+/g, "");
    else {
      if (form === "json") { try { JSON.parse(text); } catch (error) { throw new Error(`This is not JSON: ${error.message}`); } }
      let raw = "";
      const all = new TextEncoder().encode(text);
      for (let at = 0; at < all.length; at += 32768) raw += String.fromCharCode(...all.subarray(at, at + 32768));
      encoded = btoa(raw);
    }
    const answer = await operate(stream, "PutRecord", { StreamName: stream.name, PartitionKey: key, Data: encoded, ...(hash ? { ExplicitHashKey: hash } : {}) });
    lastKey = key;
    done(`Stored in ${answer.result.ShardId}`);
  };
  return html`<${Dialog} title=${`Put a record into ${stream.name}`} action="Put" onClose=${onClose} onSubmit=${submit}>
    <div class="grid2"><label>Partition key<input name="key" required maxlength="256" defaultValue=${lastKey} autofocus autocomplete="off" /></label>
      <label>Explicit hash key (optional)<input name="hash" inputmode="numeric" pattern="0|[1-9][0-9]{0,38}" autocomplete="off" placeholder="by partition key" /></label></div>
    <div class="actions" role="group" aria-label="Data is">${["text", "json", "base64"].map((name) => html`<button key=${name} type="button" aria-pressed=${form === name} onClick=${() => setForm(name)}>${name === "text" ? "Text" : name === "json" ? "JSON" : "Base64"}</button>`)}</div>
    <label>Data<textarea name="data" rows="8" spellcheck=${false} placeholder=${form === "json" ? '{"id": 1}' : ""}></textarea></label><//>`;
}

function Split({ stream, shard, onClose, done }) {
  const start = BigInt(shard.start), end = BigInt(shard.end);
  const [key, setKey] = useState(String((start + end + 1n) / 2n));
  let lower = null;
  try { const n = BigInt(key); if (n > start && n <= end) lower = Number((n - start) * 1000n / (end - start + 1n)) / 10; } catch { /* not a number: said below */ }
  return html`<${Dialog} title=${`Split shard ${shard.index}`} action="Split" onClose=${onClose} onSubmit=${async () => {
    await operate(stream, "SplitShard", { StreamName: stream.name, ShardToSplit: shard.id, NewStartingHashKey: key });
    done(`Shard ${shard.index} is split`);
  }}><p class="soft small">It closes and keeps its records; two new shards take its range. Consumers read it to its end, then go on with them.</p>
    <label>First hash key of the upper one<input class="mono" inputmode="numeric" required value=${key} onInput=${(e) => setKey(e.target.value.trim())} autofocus /></label>
    <p class="small soft" aria-live="polite">${lower === null ? `A number above ${shard.start} and up to ${shard.end}.` : `${lower} % to the lower one, ${(100 - lower).toFixed(1)} % to the upper one.`}</p><//>`;
}

function Merge({ stream, shard, opened, onClose, done }) {
  const at = opened.findIndex((s) => s.index === shard.index);
  const neighbours = [opened[at - 1], opened[at + 1]].filter(Boolean);
  return html`<${Dialog} title=${`Merge shard ${shard.index}`} action="Merge" onClose=${onClose} onSubmit=${async (data) => {
    const other = neighbours.find((s) => s.index === Number(data.get("with")));
    const [low, high] = BigInt(shard.start) < BigInt(other.start) ? [shard, other] : [other, shard];
    await operate(stream, "MergeShards", { StreamName: stream.name, ShardToMerge: low.id, AdjacentShardToMerge: high.id });
    done(`Shards ${low.index} and ${high.index} are merged`);
  }}><p class="soft small">Both close and keep their records; one new shard takes both ranges.</p>
    <label>With its neighbour<select name="with" autofocus>${neighbours.map((s) => html`<option key=${s.index} value=${s.index}>Shard ${s.index}, ${percent(share(s))}, ${BigInt(s.start) < BigInt(shard.start) ? "below" : "above"}</option>`)}</select></label><//>`;
}

function Create({ onClose }) {
  return html`<${Dialog} title="Create a stream" action="Create" onClose=${onClose} onSubmit=${async (data) => {
    const name = data.get("name").trim();
    await operate(null, "CreateStream", { StreamName: name, ShardCount: Number(data.get("shards")) });
    say(`${name} is there`);
    location.hash = pathOf({ account: "", region: "", name });
  }}><div class="grid2"><label>Name<input name="name" required maxlength="128" pattern="[a-zA-Z0-9_.\\-]+" autofocus autocomplete="off" placeholder="orders" /></label>
    <label>Shards<input name="shards" type="number" min="1" max="10000" required defaultValue="2" /></label></div>
    <p class="soft small">Clients of every account and region find it, whatever their credentials.</p><//>`;
}

// --- faults -------------------------------------------------------------------------------------------------------------

const COMMON = ["times", "probability", "after"];
function Faults({ tick }) {
  const [found, setFound] = useState(null);
  const [kind, setKind] = useState("throttle");
  const [trouble, setTrouble] = useState("");
  const load = () => ask("faults").then(setFound, (error) => setTrouble(error.message));
  useEffect(() => { load(); }, [tick.faults, Math.floor(tick.at_ms / 2000)]);
  const act = async (name, body, text) => { try { await ask(name, body); setTrouble(""); say(text); await load(); } catch (error) { setTrouble(error.message); } };
  const add = (event) => {
    event.preventDefault();
    const fields = found.kinds.find((k) => k.kind === kind).fields, data = new FormData(event.target), fault = { kind };
    for (const field of fields) {
      const text = (data.get(field.name) || "").trim();
      if (!text) continue;
      fault[field.name] = field.name === "which" && text.includes(",") ? text.split(",").map(Number)
        : field.number && text !== "always" && text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
    }
    act("faults/add", fault, `${kind} is armed`);
  };
  const one = found && found.kinds.find((k) => k.kind === kind);
  const streams = [...new Set(tick.streams.map((s) => s.name))];
  const field = (f) => html`<label key=${`${kind}.${f.name}`}>${f.name}${f.required ? "" : " (optional)"}${
    f.name === "operation" ? html`<select name=${f.name}><option value="">any</option>${(f.choices.length ? f.choices : found.operations).map((o) => html`<option key=${o}>${o}</option>`)}</select>`
    : f.name === "stream" ? html`<select name=${f.name} required=${f.required}><option value="">${f.required ? "choose" : "any"}</option>${streams.map((o) => html`<option key=${o}>${o}</option>`)}</select>`
    : f.choices.length ? html`<select name=${f.name}>${!f.required && html`<option value="">default</option>`}${f.choices.map((o) => html`<option key=${o}>${o}</option>`)}</select>`
    : html`<input name=${f.name} required=${f.required} autocomplete="off" placeholder=${{ times: "1, or always", probability: "1", after: "0", shard: "any", which: "1, or 0,2,5" }[f.name] || ""} />`}</label>`;
  const about = (fault) => Object.entries(fault).filter(([name]) => name !== "kind").map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(",") : value}`).join(" · ") || "any call, once";
  return html`<div class="title"><div><h1>Faults</h1><p class="soft small">What goes wrong on purpose, to see what your program does. Each strikes as often as it says and is used up.</p></div></div>
    <${Trouble} text=${trouble} onClose=${() => setTrouble("")} />
    ${found && html`<section class="panel" aria-label="Add a fault"><form class="pad" onSubmit=${add}>
      <div class="grid2"><label>Kind<select id="kind" onChange=${(e) => setKind(e.target.value)}>${found.kinds.map((k) => html`<option key=${k.kind} selected=${k.kind === kind}>${k.kind}</option>`)}</select></label>
        ${one.fields.filter((f) => !COMMON.includes(f.name)).sort((a, b) => b.required - a.required).map(field)}${one.fields.filter((f) => COMMON.includes(f.name)).map(field)}</div>
      <div class="title foot"><p class="soft small">${one.says}</p><button class="main" type="submit">Switch on</button></div></form></section>
    <section class="panel" aria-label="Faults as they stand">${found.standing.length ? html`<div class="scroll"><table><thead><tr><th>Fault</th><th class="num">Struck</th><th class="num">Left</th><th class="num opt">Seen</th><th class="actions-cell"><button type="button" class="bad" onClick=${() => act("faults/clear", {}, "All faults are off")}>All off</button></th></tr></thead>
      <tbody>${[...found.standing].reverse().map((s) => html`<tr key=${s.id}><td class="wrap"><b>${s.fault.kind}</b> <span class="soft small">${about(s.fault)}</span></td><td class="num">${whole(s.struck)}</td><td class="num">${s.left == null ? "until off" : s.left === 0 ? html`<span class="badge">used up</span>` : whole(s.left)}</td><td class="num opt">${whole(s.seen)}</td>
        <td class="actions-cell"><button type="button" onClick=${() => act("faults/remove", { id: s.id }, `${s.fault.kind} is off`)} aria-label=${`Switch off fault ${s.id}`}>Off</button></td></tr>`)}</tbody></table></div>`
      : html`<div class="empty"><h2>Nothing goes wrong</h2><p class="soft">Choose a kind above: <b>throttle</b> PutRecords once, and see whether your producer tries again.</p></div>`}</section>`}`;
}

// --- the frame ----------------------------------------------------------------------------------------------------------

const KEYS = [["?", "this list"], ["/", "search records"], ["p", "put a record"], ["n", "create a stream"], ["1 2 3", "records, shards, consumers"], ["f", "faults"], ["[ ]", "previous, next stream"], ["↑ ↓", "walk through records; Enter opens one"], ["t", "dark or light"], ["Esc", "close"]];

function Welcome() {
  return html`<section class="panel"><div class="empty"><h1>No streams yet</h1><p class="soft">Create one here (<kbd>n</kbd>), or from a shell:</p>
    <div class="how"><${Copy} what="command to create a stream" text=${`aws kinesis create-stream --endpoint-url ${ENDPOINT} \\\n  --region us-east-1 --stream-name orders --shard-count 2`} />
      <p class="soft small">Any AWS SDK talks to this broker once it knows where it is. Credentials can be anything.</p>
      <${Copy} what="environment for SDKs" text=${`export AWS_ENDPOINT_URL_KINESIS=${ENDPOINT}\nexport AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local\nexport AWS_REGION=us-east-1`} /></div></div></section>`;
}

function useRoute() {
  const read = () => {
    const parts = location.hash.replace(/^#\/?/, "").split("/").map((part) => { try { return decodeURIComponent(part); } catch { return ""; } });
    if (parts[0] === "s") return { view: "stream", key: JSON.stringify(parts.slice(1, 4)), tab: TABS.includes(parts[4]) ? parts[4] : "records" };
    return { view: parts[0] === "faults" ? "faults" : "", tab: "records" };
  };
  const [route, setRoute] = useState(read);
  useEffect(() => { const on = () => setRoute(read()); addEventListener("hashchange", on); return () => removeEventListener("hashchange", on); }, []);
  return route;
}

function useTheme() {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const [theme, setTheme] = useState(root.dataset.theme || (system.matches ? "dark" : "light"));
  useEffect(() => {
    const follow = () => { if (!root.dataset.theme) setTheme(system.matches ? "dark" : "light"); };
    system.addEventListener("change", follow);
    return () => system.removeEventListener("change", follow);
  }, []);
  return [theme, () => {
    const next = theme === "dark" ? "light" : "dark";
    root.dataset.theme = next;
    try { localStorage.setItem("streamlet-theme", next); } catch { /* not kept, then */ }
    setTheme(next);
  }];
}

function App() {
  const [tick, live] = useTicks();
  const route = useRoute();
  const [theme, turn] = useTheme();
  const [dialog, setDialog] = useState(null);
  const [toast, setToast] = useState("");
  const [facts, setFacts] = useState(null);
  const [trouble, setTrouble] = useState("");
  say = setToast;
  useEffect(() => { ask("overview").then((found) => setFacts(found.broker), (error) => setTrouble(error.message)); }, []);
  useEffect(() => { if (!toast) return undefined; const timer = setTimeout(() => setToast(""), 2600); return () => clearTimeout(timer); }, [toast]);
  const streams = tick ? tick.streams : [];
  const current = route.view === "faults" ? null : route.view === "stream" ? streams.find((s) => keyOf(s) === route.key) : streams[0];
  useEffect(() => { document.title = current ? `${current.name} · streamlet broker` : "streamlet broker"; }, [current && current.name]);
  useEffect(() => setDialog(null), [route.view, route.key]);
  const keys = useRef();
  keys.current = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || dialog || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    const go = (tab) => { if (current) location.hash = pathOf(current, tab); };
    const step = (by) => { if (streams.length) location.hash = pathOf(streams[(streams.indexOf(current) + by + streams.length) % streams.length], route.tab); };
    const act = {
      "?": () => setDialog({ what: "help" }), n: () => setDialog({ what: "create" }), p: () => current && setDialog({ what: "put" }), t: turn, f: () => { location.hash = "#/faults"; },
      1: () => go("records"), 2: () => go("shards"), 3: () => go("consumers"), "[": () => step(-1), "]": () => step(1),
      "/": () => { go("records"); requestAnimationFrame(() => { const box = document.getElementById("search"); if (box) box.focus(); }); },
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  };
  useEffect(() => { const on = (event) => keys.current(event); addEventListener("keydown", on); return () => removeEventListener("keydown", on); }, []);
  return html`<a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); document.getElementById("main").focus(); }}>To the content</a>
  <header class="top"><a class="brand" href="#/"><img src="/_streamlet/console/icon.svg" alt="" />streamlet broker</a>
    <button type="button" class="endpoint" onClick=${() => copy(`AWS_ENDPOINT_URL_KINESIS=${ENDPOINT}`)} aria-label="Copy the endpoint for SDKs" title="Copy the endpoint for SDKs"><code><i>AWS_ENDPOINT_URL_KINESIS=</i>${ENDPOINT}</code> <svg viewBox="0 0 16 16" width="12" height="12" aria-hidden="true"><path d="M5 5V2.5h8.5V11H11M2.5 5H11v8.5H2.5z" fill="none" stroke="currentColor" stroke-width="1.4" /></svg></button>
    <div class="facts"><span role="status"><i class=${live ? "dot" : "dot off"}></i>${live ? "live" : "not connected"}</span>${facts && html`<span>v<b>${facts.version}</b></span>`}
      ${tick && html`<span>up <b class="uptime">${span(Math.max(1000, tick.at_ms - tick.started_ms))}</b></span><span class="opt">memory <b class="memory">${bytes(tick.memory_bytes)}</b></span>`}
      ${facts && html`<span class="opt">${facts.data_dir ? html`data in <b class="mono">${facts.data_dir}</b>` : "kept in memory"}</span>`}
      ${facts && facts.enforce_limits && html`<span>limits enforced</span>`}${tick && Math.abs(tick.now_ms - tick.at_ms) > 1500 && html`<span>clock moved by <b>${span(Math.abs(tick.now_ms - tick.at_ms))}</b></span>`}</div>
    <div class="tools">
      <button type="button" class="bare" onClick=${turn} aria-label=${`Switch to ${theme === "dark" ? "light" : "dark"}`} title="Dark or light (t)">${theme === "dark" ? "☀" : "☾"}</button>
      <button type="button" class="bare" onClick=${() => setDialog({ what: "help" })} aria-label="Keyboard shortcuts" title="Keyboard shortcuts (?)">?</button></div></header>
  <div class="frame"><nav class="side" aria-label="Streams"><div class="head"><h2>Streams</h2><button type="button" onClick=${() => setDialog({ what: "create" })} title="Create a stream (n)">Create</button></div>
    <ul>${streams.map((s) => html`<li key=${keyOf(s)}><a href=${pathOf(s, route.view === "stream" ? route.tab : "")} aria-current=${current && keyOf(s) === keyOf(current) ? "page" : undefined}><span class="name">${s.name}</span><span class="rate">${rate(s, "records_in") ? `${short(rate(s, "records_in"))}/s` : ""}</span>
      <span class="sub">${s.open_shards} ${s.open_shards === 1 ? "shard" : "shards"} · ${short(s.stored)} records${s.account ? ` · ${s.account} ${s.region}` : ""}</span></a></li>`)}
      <li><a href="#/faults" aria-current=${route.view === "faults" ? "page" : undefined}><span class="name">Faults</span><span class="rate">${tick && tick.faults ? `${tick.faults} on` : ""}</span><span class="sub">what goes wrong on purpose</span></a></li></ul></nav>
    <main id="main" tabindex="-1"><${Trouble} text=${trouble || (tick && !live ? "The broker does not answer. Is it still running? This page goes on by itself when it is back." : "")} />
      ${tick && (route.view === "faults" ? html`<${Faults} tick=${tick} />` : current ? html`<${Stream} stream=${current} tab=${route.tab} tick=${tick} theme=${theme} dialog=${dialog} setDialog=${setDialog} />`
        : route.view === "stream" && streams.length ? html`<section class="panel"><div class="empty"><h2>This stream is not there (any more)</h2><p class="soft">Choose another one.</p></div></section>` : html`<${Welcome} />`)}</main></div>
  ${dialog && dialog.what === "create" && html`<${Create} onClose=${() => setDialog(null)} />`}
  ${dialog && dialog.what === "help" && html`<${Dialog} title="Keyboard" onClose=${() => setDialog(null)}><dl class="keys">${KEYS.map(([key, text]) => html`<dt key=${key}>${key.split(" ").map((one) => html`<kbd>${one}</kbd> `)}</dt><dd>${text}</dd>`)}</dl><//>`}
  <div aria-live="polite">${toast && html`<div class="toast">${toast}</div>`}</div>`;
}

render(html`<${App} />`, document.getElementById("app"));
