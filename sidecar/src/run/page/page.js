"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.connections;
  const at = (id) => document.getElementById(id);
  const count = rows.start.length;
  const ROW = 22;
  const MARKS = { alarm: "\u2715", note: "!", fine: "\u2713", unknown: "?" };
  const WEIGHTS = { alarm: "Problem", note: "Note", fine: "Fine", unknown: "Not measured" };
  const MEANINGS = {
    refused: "The peer answered the SYN with a RST: nothing listens there, or a firewall rejects it.",
    timeout: "No answer until the kernel gave it up.",
    unreachable: "An ICMP error came: no route, or a firewall.",
    abandoned: "The application gave the attempt up before an answer came.",
    local: "This end could not send its SYN: no free port, no route, or a policy forbids it.",
    reset: "A RST; which end sent it was not seen.",
    reset_received: "The peer, or a device on the path, sent a RST.",
    reset_sent: "This end sent a RST: it closed with unread data, or on purpose.",
    _OTHER: "The cause was not seen.",
    local_fin: "This end closed first.",
    peer_fin: "The peer closed first.",
    unknown: "How it closed was not seen.",
  };
  const LOSSES = {
    socket_storage: "the kernel had no room for them",
    callbacks: "the kernel, or another program, does not report them",
    ring_full: "the ring buffer was full when they closed (FLOWCAR_RING_BYTES)",
    malformed_record: "the record of the close did not decode",
    destroy_overrun: "more sockets closed at once than a buffer holds",
    disconnected: "the socket was disconnected before it was first seen",
    detached: "another process detached flowcar's programs",
    restart: "they closed while no flowcar followed them",
  };

  // === Texts ===

  // Everything becomes text: names of peers come from the network.
  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") element.className = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const digits = (value) => value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2);
  const duration = (us) => {
    if (us === null || us < 0) return "-";
    const s = us / 1e6;
    if (s >= 5999.5) return `${Math.floor(Math.round(s / 60) / 60)}h${String(Math.round(s / 60) % 60).padStart(2, "0")}m`;
    if (s >= 99.5) return `${Math.floor(Math.round(s) / 60)}m${String(Math.round(s) % 60).padStart(2, "0")}s`;
    if (s >= 0.9995) return `${digits(s)}s`;
    if (us >= 999.5) return `${digits(us / 1e3)}ms`;
    return `${Math.round(us)}us`;
  };
  const bytes = (number) => {
    if (number < 1000) return `${number}B`;
    let value = number / 1000;
    let unit = 0;
    for (; value >= 999.5 && unit < 5; unit += 1) value /= 1000;
    return digits(value) + ["kB", "MB", "GB", "TB", "PB", "EB"][unit];
  };
  const plural = (number, one, more) => `${number} ${number === 1 ? one : more}`;
  const address = (ip, port) => (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`);
  const local = (row) => address(data.strings[rows.local[row]], rows.local_port[row]);
  const remote = (row) => address(data.strings[rows.remote[row]], rows.remote_port[row]);
  const peerName = (row) => data.peers[rows.peer[row]].name;
  // A server's connections have its own port in common, and their clients' addresses differ.
  const rowName = (row) => (data.strings[rows.role[row]] === "server" ? remote(row) : peerName(row));
  let pidBefore = 0;
  const pids = rows.pid.map((step) => (pidBefore += step));
  const isProcessKnown = (row) => pids[row] > 0;
  const programName = (row) => (rows.process[row] < 0 ? "process" : data.strings[rows.process[row]]);
  const processName = (row) => (isProcessKnown(row) ? `${programName(row)} (${pids[row]})` : "not known");
  const end = (row) => (rows.end[row] < 0 ? "open" : data.strings[rows.end[row]]);
  const slowness = (row) => Math.max(rows.connect[row], rows.rtt_p99[row], rows.exchange_p99[row]);
  const lasted = (row) => Math.max(rows.connect[row], 0) + Math.max(rows.duration[row], 0);
  const sum = (counts) => Object.values(counts).reduce((total, each) => total + each, 0);
  const clock = (us) => new Date(data.began_unix_ms + us / 1000).toISOString().replace("T", " ").replace("Z", " UTC");

  // === What is shown ===

  let peer = -1;
  // What the filter of processes lets through: a connection's row.
  let ofProcess = () => true;
  let shown = [];
  let chosen = -1;
  let span = data.took_us;
  for (let row = 0; row < count; row += 1) span = Math.max(span, rows.start[row] + lasted(row));
  span = Math.max(span, 1);

  const choose = () => {
    const [state, order] = [at("state").value, at("order").value];
    const fits = (row) =>
      (peer < 0 || rows.peer[row] === peer) &&
      ofProcess(row) &&
      (state === "all" || (state === "failure" ? rows.failure[row] === 1 : rows.end[row] < 0));
    shown = [];
    for (let row = 0; row < count; row += 1) if (fits(row)) shown.push(row);
    if (order === "slow") shown.sort((one, other) => slowness(other) - slowness(one));
    chosen = shown.length ? 0 : -1;
    let text = plural(shown.length, "row", "rows");
    if (data.left_out) text += `; ${data.left_out} more connections have no row: the page keeps the failed and the slowest ones`;
    at("shown").textContent = text;
    at("rows").scrollTop = 0;
    at("axis-of").value = shown.length > 200 ? "view" : "run";
    drawRows();
    drawDetails();
    drawOverview();
    drawMaps();
    for (const button of document.querySelectorAll("#peer-table button[data-peer]")) {
      const pressed = Number(button.dataset.peer) === peer;
      button.setAttribute("aria-pressed", pressed);
      button.closest("tr").classList.toggle("chosen", pressed);
    }
  };
  const choosePeer = (of) => {
    peer = of;
    at("peer").value = String(of);
    choose();
  };

  // === Findings ===

  const showButton = ({ peer: of, process: pid }) => {
    const whose = data.peers[of].name;
    const name = pid === null ? `Show the connections of ${whose}` : `Show the connections of process ${pid} to ${whose}`;
    const button = make("button", { class: "show", type: "button", "aria-label": name }, "Show its connections");
    button.addEventListener("click", () => {
      at("order").value = "slow";
      chooseProcess(pid);
      choosePeer(of);
      at("connections").scrollIntoView();
      at("rows").focus({ preventScroll: true });
    });
    return button;
  };
  const drawFindings = () => {
    const outstanding = ["alarm", "note"].flatMap((weight) => data.findings.filter((of) => of.weight === weight));
    const list = at("alarms");
    for (const of of outstanding) {
      const head = make("strong", {}, make("span", { class: "mark", "aria-hidden": "true" }, MARKS[of.weight]), `${WEIGHTS[of.weight]}: ${of.question}`);
      const item = make("li", { class: of.weight }, head, of.text);
      if (of.peer !== null && count) item.append(" ", showButton(of));
      list.append(item);
    }
    if (!outstanding.length && count) {
      const text = ` Nothing stands out. ${data.findings[0].text}`;
      list.append(make("li", { class: "fine" }, make("span", { class: "mark", "aria-hidden": "true" }, MARKS.fine), text));
    }
    if (data.hint || !count) {
      const hint = data.hint || "no connection and no attempt was seen";
      const text = ` ${hint.charAt(0).toUpperCase()}${hint.slice(1)}.`;
      list.append(make("li", { class: "unknown" }, make("span", { class: "mark", "aria-hidden": "true" }, MARKS.unknown), text));
    }
    for (const of of data.findings) {
      const mark = make("span", { class: "mark" }, MARKS[of.weight]);
      mark.setAttribute("aria-label", WEIGHTS[of.weight]);
      mark.setAttribute("role", "img");
      at("answers").append(make("div", { class: of.weight === "note" ? "" : of.weight }, make("dt", {}, mark, of.question), make("dd", {}, of.text)));
    }
  };

  // === Peers ===

  const pair = (of, which) => (of === null ? -1 : of[which]);
  const longest = Math.max(1, ...data.peers.map((of) => pair(of.exchange || of.rtt, 0)));
  const stack = (of) => {
    const total = pair(of.exchange || of.rtt, 0);
    if (total < 0) return "-";
    const network = of.exchange === null ? total : Math.min(total, of.server ? 0 : of.network || 0);
    const bar = make("div", { class: "stack", role: "img" });
    bar.setAttribute("aria-label", `${duration(total)}, of which the network ${duration(network)}`);
    bar.title = bar.getAttribute("aria-label");
    for (const [name, part] of [["network", network], ["server", total - network]]) {
      const piece = make("span", { class: name });
      piece.style.width = `${(100 * part) / longest}%`;
      if (part > 0) bar.append(piece);
    }
    return bar;
  };
  const COLUMNS = [
    { name: "peer", value: (of) => of.name, text: true },
    { name: data.exchanges ? "median answer" : "median RTT", value: (of) => pair(of.exchange || of.rtt, 0), show: stack },
    { name: "answer p50", value: (of) => pair(of.exchange, 0), show: (of) => duration(pair(of.exchange, 0)) },
    { name: "answer p99", value: (of) => pair(of.exchange, 1), show: (of) => duration(pair(of.exchange, 1)) },
    { name: data.smoothed ? "RTT p50, smoothed" : "RTT p50", value: (of) => pair(of.rtt, 0), show: (of) => duration(pair(of.rtt, 0)) },
    { name: data.smoothed ? "RTT p99, smoothed" : "RTT p99", value: (of) => pair(of.rtt, 1), show: (of) => duration(pair(of.rtt, 1)) },
    { name: "connect p99", value: (of) => pair(of.connect, 1), show: (of) => duration(pair(of.connect, 1)) },
    { name: "conns", value: (of) => of.connections },
    { name: "failed", value: (of) => sum(of.failed), bad: true },
    { name: "cut off", value: (of) => sum(of.cut_off), bad: true },
    { name: "retrans", value: (of) => of.retransmits },
    { name: "sent", value: (of) => of.sent, show: (of) => bytes(of.sent) },
    { name: "received", value: (of) => of.received, show: (of) => bytes(of.received) },
  ];
  if (!data.exchanges) COLUMNS.splice(2, 2);
  let sorting = { column: 1, descending: true };
  const drawPeers = () => {
    const { value, text } = COLUMNS[sorting.column];
    const order = data.peers.map((_, place) => place);
    const compare = (one, other) => (text ? (one < other ? -1 : one > other ? 1 : 0) : one - other);
    order.sort((one, other) => compare(value(data.peers[one]), value(data.peers[other])) * (sorting.descending ? -1 : 1));
    const body = document.querySelector("#peer-table tbody");
    body.replaceChildren(...order.map((place) => {
      const of = data.peers[place];
      const button = make("button", { type: "button", "data-peer": place, "aria-pressed": place === peer, title: of.name }, of.name);
      button.addEventListener("click", () => choosePeer(place === peer ? -1 : place));
      const line = make("tr", { class: place === peer ? "chosen" : "" }, make("th", { scope: "row" }, button));
      for (const column of COLUMNS.slice(1)) {
        const cell = make("td", { class: column.show === stack ? "" : "number" }, column.show ? column.show(of) : String(column.value(of)));
        if (column.bad && column.value(of) > 0) cell.classList.add("is-bad");
        line.append(cell);
      }
      return line;
    }));
    document.querySelectorAll("#peer-table thead th").forEach((head, place) => {
      if (place === sorting.column) head.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  const headPeers = () => {
    const line = make("tr");
    COLUMNS.forEach((column, place) => {
      const button = make("button", { type: "button" }, column.name);
      button.addEventListener("click", () => {
        sorting = { column: place, descending: sorting.column === place ? !sorting.descending : !column.text };
        drawPeers();
      });
      line.append(make("th", { scope: "col", class: place > 1 ? "number" : "" }, button));
    });
    document.querySelector("#peer-table thead").append(line);
    const options = data.peers.map((of, place) => make("option", { value: place }, of.name));
    at("peer").append(make("option", { value: -1 }, "all peers"), ...options);
  };

  // === Processes ===

  // Programs that ran as several processes are a choice together, and the processes with the most connections one each.
  const MOST_PROCESSES = 200;
  const programs = new Map();
  const processes = new Map();
  for (let row = 0; row < count; row += 1) {
    if (!isProcessKnown(row)) continue;
    const [program, pid] = [programName(row), pids[row]];
    if (!programs.has(program)) programs.set(program, new Set());
    programs.get(program).add(pid);
    if (!processes.has(pid)) processes.set(pid, { connections: 0, row });
    const process = processes.get(pid);
    process.connections += 1;
    // Not each connection of a process that has ended has its name.
    if (rows.process[process.row] < 0) process.row = row;
  }
  const choices = [["all processes", () => true]];
  for (const [program, of] of programs) {
    if (of.size > 1) choices.push([`${program}: all ${of.size}`, (row) => isProcessKnown(row) && programName(row) === program]);
  }
  const busiest = [...processes].sort(([, one], [, other]) => other.connections - one.connections).slice(0, MOST_PROCESSES);
  for (const [pid, process] of busiest) choices.push([processName(process.row), (row) => pids[row] === pid, pid]);
  const setProcesses = () => {
    at("process-filter").hidden = !processes.size;
    at("connections").classList.toggle("has-processes", processes.size > 1);
    at("process").append(...choices.map(([name], place) => make("option", { value: place }, name)));
    at("process").addEventListener("change", (event) => {
      ofProcess = choices[Number(event.target.value)][1];
      choose();
    });
  };
  // All of them where none is meant, or where it has too few connections to be a choice.
  const chooseProcess = (pid) => {
    const place = pid === null ? 0 : Math.max(0, choices.findIndex(([, , of]) => of === pid));
    at("process").value = String(place);
    ofProcess = choices[place][1];
  };

  // === Connections ===

  // The part of the run that the rows' bars show: all of it, or that of the rows in view.
  let axis = [0, span];
  const left = (us) => `${(100 * (us - axis[0])) / (axis[1] - axis[0])}%`;
  const width = (us) => `${(100 * us) / (axis[1] - axis[0])}%`;
  const steps = (length, most) => {
    const rough = length / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  };
  const drawAxis = (places) => {
    axis = [0, span];
    if (at("axis-of").value === "view" && places.length) {
      const of = places.map((place) => shown[place]);
      const from = Math.min(...of.map((row) => rows.start[row]));
      const to = Math.max(...of.map((row) => rows.start[row] + lasted(row)));
      axis = [from, Math.max(to, from + 100)];
    }
    const step = steps(axis[1] - axis[0], 6);
    const marks = [];
    for (let us = Math.ceil(axis[0] / step) * step; us < axis[1] - step * 0.3; us += step) {
      const mark = make("span", {}, us === 0 ? "0" : duration(us));
      mark.style.left = left(us);
      marks.push(mark);
    }
    at("axis").replaceChildren(...marks);
  };
  const rowElement = (place) => {
    const row = shown[place];
    const line = make("div", { class: "row", role: "option", id: `row-${place}`, "aria-selected": place === chosen, "aria-setsize": shown.length, "aria-posinset": place + 1 });
    line.style.top = `${place * ROW}px`;
    const track = make("div", { class: "track" });
    const piece = (name, from, length) => {
      const span = make("span", { class: name });
      span.style.left = left(from);
      span.style.width = width(length);
      track.append(span);
    };
    const connect = Math.max(rows.connect[row], 0);
    if (connect || rows.duration[row] < 0) piece("connect", rows.start[row], connect);
    if (rows.duration[row] >= 0) piece("life", rows.start[row] + connect, rows.duration[row]);
    const is_failure = rows.failure[row] === 1;
    const symbol = is_failure ? "\u2715" : rows.end[row] < 0 ? "\u25b6" : "";
    if (symbol) {
      const mark = make("span", { class: "end", "aria-hidden": "true" }, symbol);
      mark.style.left = left(rows.start[row] + lasted(row));
      track.append(mark);
    }
    if (is_failure) line.classList.add("failure");
    const slow = slowness(row);
    line.append(make("span", { class: "label" }, `${rowName(row)} ${slow > 0 ? `${duration(slow)} ` : ""}${end(row)}`));
    if (processes.size > 1) line.append(make("span", { class: "process" }, processName(row)));
    line.append(track);
    line.addEventListener("click", () => move(place));
    return line;
  };
  const drawRows = () => {
    const box = at("rows");
    at("spacer").style.height = `${shown.length * ROW}px`;
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 10);
    const visible = Math.ceil((box.clientHeight || 416) / ROW) + 20;
    const above = Math.floor(box.scrollTop / ROW);
    const fits = Math.ceil((box.clientHeight || 416) / ROW);
    drawAxis(shown.slice(above, above + fits).map((_, place) => above + place));
    const elements = [];
    for (let place = first; place < Math.min(shown.length, first + visible); place += 1) elements.push(rowElement(place));
    at("spacer").replaceChildren(...elements);
    if (chosen >= 0) box.setAttribute("aria-activedescendant", `row-${chosen}`);
    else box.removeAttribute("aria-activedescendant");
  };
  const move = (place) => {
    if (!shown.length) return;
    chosen = Math.min(Math.max(place, 0), shown.length - 1);
    const box = at("rows");
    const top = chosen * ROW;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
    drawRows();
    drawDetails();
    drawOverview();
  };
  const drawDetails = () => {
    const pane = at("details");
    if (chosen < 0) {
      pane.replaceChildren(make("p", {}, "No connection is shown."));
      return;
    }
    const row = shown[chosen];
    const list = make("dl");
    const add = (name, text) => list.append(make("dt", {}, name), make("dd", {}, text));
    const reason = end(row);
    const none = rows.duration[row] < 0;
    add("from", local(row));
    add("to", remote(row));
    add("role", data.strings[rows.role[row]]);
    add("process", processName(row));
    add("began", `+${duration(rows.start[row])}, ${clock(rows.start[row])}`);
    add("connect", rows.connect[row] < 0 ? "not seen" : duration(rows.connect[row]));
    add("duration", none ? "never established" : duration(rows.duration[row]));
    const meaning = reason === "reset" && none ? "A RST came after the peer had answered." : MEANINGS[reason];
    add("close", reason === "open" ? "open when the command ended" : `${reason}. ${meaning || ""}`);
    add("exchanges", rows.exchange_count[row] ? `${rows.exchange_count[row]}: p50 ${duration(rows.exchange_p50[row])}, p99 ${duration(rows.exchange_p99[row])}` : data.exchanges ? "none" : "not measured");
    add(data.smoothed ? "RTT (smoothed)" : "RTT", rows.rtt_count[row] ? `${rows.rtt_count[row]}: min ${duration(rows.rtt_min[row])}, p50 ${duration(rows.rtt_p50[row])}, p99 ${duration(rows.rtt_p99[row])}` : "none");
    add("sent", `${bytes(rows.sent[row])} in ${plural(rows.segments_sent[row], "segment", "segments")}, ${rows.retransmits[row]} sent again`);
    add("received", `${bytes(rows.received[row])} in ${plural(rows.segments_received[row], "segment", "segments")}`);
    if (rows.window[row] || rows.buffer[row]) add("held back", `${duration(rows.window[row])} by the peer's window, ${duration(rows.buffer[row])} by the send buffer`);
    pane.replaceChildren(make("h3", {}, peerName(row)), make("p", { class: "note" }, `Connection ${chosen + 1} of ${shown.length}`), list);
  };

  // === Drawings ===

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const prepare = (canvas) => {
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    return { context, width, height };
  };
  const drawOverview = () => {
    const canvas = at("overview");
    // A list that fits has nothing to add.
    canvas.hidden = shown.length <= 18;
    canvas.style.display = canvas.hidden ? "none" : "";
    if (canvas.hidden) return;
    canvas.setAttribute("aria-label", `${shown.length} connections over ${duration(span)}; the list below has each`);
    const { context, width, height } = prepare(canvas);
    const [life, bad, cursor] = ["--life", "--bad", "--cursor"].map(colour);
    const thick = Math.max(1, Math.min(6, height / shown.length));
    const draw = (place) => {
      const row = shown[place];
      const x = (width * rows.start[row]) / span;
      context.fillRect(x, (height - thick) * (place / Math.max(1, shown.length - 1)), Math.max(3, (width * lasted(row)) / span), rows.failure[row] ? Math.max(2, thick) : thick);
    };
    context.fillStyle = life;
    shown.forEach((row, place) => rows.failure[row] || draw(place));
    // Behind the others a failure would be hidden.
    context.fillStyle = bad;
    shown.forEach((row, place) => rows.failure[row] && draw(place));
    if (chosen >= 0) {
      const y = (height - thick) * (chosen / Math.max(1, shown.length - 1)) + thick / 2;
      context.fillStyle = cursor;
      context.fillRect(0, y - 0.5, width, 1);
      context.beginPath();
      context.moveTo(0, y - 6);
      context.lineTo(8, y);
      context.lineTo(0, y + 6);
      context.fill();
    }
  };

  // A heat map: columns are parts of the run, rows are ranges of durations, two to each doubling.
  const heats = ["exchange", "rtt"].map((kind) => ({ kind, canvas: at(`map-${kind}`), column: 0, row: 0, cells: new Map() }));
  const lowest = (row) => 1e6 * 2 ** (row / 2);
  const rangeOf = (row) => (row === data.heat.zero_row ? `up to ${duration(lowest(row + 1))}` : `${duration(lowest(row))} to ${duration(lowest(row + 1))}`);
  const SHADES = 64;
  const palette = () => {
    const [cold, hot] = ["--cold", "--hot"].map((name) => colour(name).split(",").map(Number));
    const shade = (share) => `rgb(${cold.map((from, place) => Math.round(from + (hot[place] - from) * share)).join(", ")})`;
    return Array.from({ length: SHADES }, (_, place) => shade(place / (SHADES - 1)));
  };
  const load = (heat) => {
    const map = data.heat.maps.find((of) => of.peer === peer) || data.heat.maps[0];
    heat.cells = new Map();
    heat.most = 0;
    [heat.top, heat.bottom] = [-1e9, 1e9];
    const flat = map[heat.kind];
    for (let place = 0; place < flat.length; place += 3) {
      const [column, row, number] = flat.slice(place, place + 3);
      heat.cells.set(`${column},${row}`, number);
      heat.most = Math.max(heat.most, number);
      heat.top = Math.max(heat.top, row);
      heat.bottom = Math.min(heat.bottom, row);
      heat.last = Math.max(heat.last || 0, column);
    }
    heat.columns = Math.max(data.heat.columns, (heat.last || 0) + 1);
    while (heat.most && heat.top - heat.bottom < 9) {
      heat.top += 1;
      heat.bottom = Math.max(heat.bottom - 1, data.heat.zero_row);
    }
  };
  const drawMap = (heat) => {
    const { context, width, height } = prepare(heat.canvas);
    const box = { left: 56, right: width - 8, top: 8, bottom: height - 44 };
    heat.box = box;
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = colour("--muted");
    const caption = at(`c-${heat.kind}`).textContent;
    if (!heat.most) {
      const why = heat.kind === "exchange" && !data.exchanges ? "Exchanges were not measured." : "Nothing was measured.";
      context.fillText(why, box.left, height / 2);
      heat.canvas.setAttribute("aria-label", `${caption}: ${why}`);
      return;
    }
    const lines = heat.top - heat.bottom + 1;
    const [wide, high] = [(box.right - box.left) / heat.columns, (box.bottom - box.top) / lines];
    heat.size = [wide, high];
    const y = (row) => box.bottom - (row - heat.bottom) * high;
    const shades = palette();
    let most = [0, 0, 0];
    for (const [key, number] of heat.cells) {
      const [column, row] = key.split(",").map(Number);
      if (number > most[2]) most = [column, row, number];
      context.fillStyle = shades[Math.round((SHADES - 1) * Math.log(1 + number) / Math.log(1 + heat.most))];
      const gap = wide > 4 ? 1 : 0;
      context.fillRect(box.left + column * wide, y(row + 1), Math.max(1, wide - gap), Math.max(1, high - gap));
    }
    context.strokeStyle = colour("--line");
    context.fillStyle = colour("--muted");
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let us = 1; us < 1e10; us *= 10) {
      const line = y(2 * Math.log2(us / 1e6));
      if (line > box.bottom + 1 || line < box.top) continue;
      context.globalAlpha = 0.6;
      context.fillRect(box.left, line, box.right - box.left, 0.5);
      context.globalAlpha = 1;
      context.fillText(duration(us).replace(/\.0+/, ""), box.left - 6, line);
    }
    context.strokeRect(box.left, box.top, box.right - box.left, box.bottom - box.top);
    context.textAlign = "left";
    const total = heat.columns * data.heat.column_us;
    const step = steps(total, 5);
    for (let us = 0; us < total * 0.95; us += step) {
      context.fillText(us === 0 ? "0" : duration(us), box.left + ((box.right - box.left) * us) / total, box.bottom + 12);
    }
    shades.forEach((shade, place) => {
      context.fillStyle = shade;
      context.fillRect(box.left + 16 + place * 2, height - 20, 2, 12);
    });
    context.fillStyle = colour("--muted");
    context.fillText("1", box.left, height - 13);
    context.fillText(`${heat.most} in a cell`, box.left + 150, height - 13);
    if (document.activeElement === heat.canvas) {
      context.strokeStyle = colour("--cursor");
      context.lineWidth = 2;
      context.strokeRect(box.left + heat.column * wide - 1, y(heat.row + 1) - 1, Math.max(4, wide) + 1, high + 1);
    }
    const range = (column) => `${duration(column * data.heat.column_us)} to ${duration((column + 1) * data.heat.column_us)}`;
    heat.canvas.setAttribute("aria-label", `${caption}. Most in one cell: ${most[2]}, ${rangeOf(most[1])}, ${range(most[0])} after the start. Arrow keys move between cells.`);
  };
  const readOut = (heat) => {
    const number = heat.cells.get(`${heat.column},${heat.row}`) || 0;
    const from = duration(heat.column * data.heat.column_us);
    const to = duration((heat.column + 1) * data.heat.column_us);
    const what = heat.kind === "rtt" ? plural(number, "round trip", "round trips") : plural(number, "exchange", "exchanges");
    at(`r-${heat.kind}`).textContent = `${from} to ${to} after the start: ${what} of ${rangeOf(heat.row)}`;
  };
  const place = (heat, column, row) => {
    if (!heat.most) return;
    heat.column = Math.min(Math.max(column, 0), heat.columns - 1);
    heat.row = Math.min(Math.max(row, heat.bottom), heat.top);
    drawMap(heat);
    readOut(heat);
  };
  const drawMaps = () => {
    const has = data.heat.maps.some((of) => of.peer === peer);
    const whose = peer < 0 ? "of all peers" : has ? `of ${data.peers[peer].name}` : "of all peers, as this peer has no heat map of its own";
    at("heat-note").textContent =
      `A cell counts the samples ${whose} that were taken in one part of the run (left to right, ${duration(data.heat.column_us)} each) and lasted so long (bottom to top). ` +
      "The time of a sample is known to half a second, and what comes in one report is spread over that time. Arrow keys move between cells." +
      (data.smoothed ? " Round trips are the kernel's smoothed values: their highest percentiles are lower than those of single round trips." : "");
    heats.forEach((heat) => {
      load(heat);
      heat.row = Math.min(Math.max(heat.row, heat.bottom), heat.top);
      drawMap(heat);
    });
  };

  // === Failures and books ===

  const drawFailures = () => {
    const found = data.peers.flatMap((of) => [
      ...Object.entries(of.failed).map(([reason, number]) => ["attempt", reason, of.name, number]),
      ...Object.entries(of.cut_off).map(([reason, number]) => ["connection", reason, of.name, number]),
    ]);
    found.sort((one, other) => other[3] - one[3]);
    if (!found.length) {
      at("failures").replaceChildren(at("h-failures"), make("p", {}, "No attempt failed, and no connection was cut off."));
      return;
    }
    document.querySelector("#failure-table tbody").append(...found.map(([kind, reason, name, number]) => {
      const meaning = reason === "reset" && kind === "attempt" ? "A RST came after the peer had answered." : MEANINGS[reason] || "";
      const what = kind === "attempt" ? `attempt: ${reason}` : `cut off: ${reason}`;
      return make("tr", {}, make("td", {}, what), make("td", {}, name), make("td", { class: "number" }, String(number)), make("td", { class: "long" }, meaning));
    }));
  };
  const drawBooks = () => {
    const { opened, closed, live, lost, failed, lost_by, unscoped } = data.books;
    at("equation").textContent = `${opened} opened = ${closed} closed + ${live} live + ${lost} lost; ${failed} failed to connect`;
    const lines = Object.entries(lost_by).map(([reason, number]) => `${number} lost by ${reason}: ${LOSSES[reason] || ""}`);
    if (!lost) lines.push("The end of every connection is known.");
    if (unscoped) lines.push(`${unscoped} more sockets of this network namespace opened and closed between two polls. inet_diag does not report their cgroup: short connections of the command may be missing.`);
    at("losses").append(...lines.map((line) => make("li", {}, line)));
  };
  const drawAbout = () => {
    at("program").textContent = data.program;
    document.title = `${data.program}: flowcar report`;
    const parts = [clock(0).replace(/\.\d+ /, " "), `${duration(data.took_us)} long`];
    if (data.exit_status !== null) parts.push(`exit status ${data.exit_status}`);
    parts.push(`${plural(data.books.opened, "connection", "connections")}, ${plural(data.books.failed, "failed attempt", "failed attempts")}`);
    at("about").textContent = parts.join(" \u00b7 ");
    const notes = [`flowcar ${data.version}, source ${data.source}`];
    if (!data.exchanges) notes.push("exchanges were not measured");
    if (data.smoothed) notes.push("round trip times are the kernel's smoothed values");
    if (data.source === "inet_diag") notes.push("no handshake is seen, and starts are those of the first socket dump");
    at("footer").textContent = `${notes.join("; ")}. Times count from the start of the command. p50 and p99 are off by 9 % at most.`;
  };

  // === Start ===

  drawAbout();
  at("bar-note").hidden = !data.exchanges;
  drawFindings();
  headPeers();
  setProcesses();
  drawPeers();
  drawFailures();
  drawBooks();
  for (const id of ["peers", "connections", "heat"]) at(id).hidden = !count;
  at("peer").addEventListener("change", (event) => choosePeer(Number(event.target.value)));
  at("state").addEventListener("change", choose);
  at("order").addEventListener("change", choose);
  at("axis-of").addEventListener("change", drawRows);
  at("rows").addEventListener("scroll", drawRows);
  at("rows").addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(at("rows").clientHeight / ROW) - 1);
    const to = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + page, PageUp: chosen - page, Home: 0, End: shown.length - 1 }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(to);
  });
  at("overview").addEventListener("click", (event) => {
    const { top, height } = at("overview").getBoundingClientRect();
    move(Math.round(((event.clientY - top) / height) * (shown.length - 1)));
  });
  for (const heat of heats) {
    heat.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!step) return;
      event.preventDefault();
      place(heat, heat.column + step[0], heat.row + step[1]);
    });
    heat.canvas.addEventListener("pointermove", (event) => {
      if (!heat.most) return;
      const { left, top } = heat.canvas.getBoundingClientRect();
      const column = Math.floor((event.clientX - left - heat.box.left) / heat.size[0]);
      const row = heat.bottom + Math.floor((heat.box.bottom - (event.clientY - top)) / heat.size[1]);
      place(heat, column, row);
    });
    for (const name of ["focus", "blur"]) heat.canvas.addEventListener(name, () => drawMap(heat));
  }
  const redraw = () => {
    drawRows();
    drawOverview();
    drawMaps();
  };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("resize", redraw);
  choose();
})();
