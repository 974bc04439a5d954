"use strict";

// Everything that comes from the server enters the page as text or as the address of a picture, never as HTML.

const byId = (id) => document.getElementById(id);
const state = { info: null, token: null, image: null, entry: null, shown: null, number: 0 };

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function button(text, action, attributes = {}) {
  const element = make("button", { type: "button", ...attributes }, text);
  element.addEventListener("click", action);
  return element;
}

// ---- the server ---------------------------------------------------------------------------------------------------------

function takeToken() {
  const found = /^#token=([\x21-\x7e]+)$/.exec(location.hash);
  if (found) {
    sessionStorage.setItem("token", found[1]);
    history.replaceState(null, "", location.pathname);
  }
  state.token = sessionStorage.getItem("token");
}

async function ask(action, parameters, image) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const options = { headers, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" };
  if (parameters) {
    options.method = "POST";
    options.body = image || null;
    const pairs = Object.entries(parameters).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
    headers["X-ReID-Search"] = new URLSearchParams(pairs.filter(([, value]) => value !== "" && value !== null)).toString();
  }
  let response, value;
  try {
    response = await fetch(`api/${action}`, options);
    value = await response.json();
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  if (response.status === 401) askToken();
  if (!response.ok) throw new Error(String(value.error || `the server answers ${response.status}`));
  return value;
}

// ---- what the gallery is ------------------------------------------------------------------------------------------------

const days = (seconds) => (seconds === null ? "an unlimited time" : seconds % 86400 ? `${Math.round(seconds / 3600)} hours` : `${seconds / 86400} days`);
const count = (number, noun) => `${number.toLocaleString("en")} ${number === 1 ? noun : noun.replace(/y$/, "ie").replace(/([^s])$/, "$1s")}`;
const moment = (text) => text.replace("T", " ").replace(/(:00)?(\.\d+)?Z$/, " UTC");

function describe(info) {
  state.info = info;
  document.title = `${info.gallery} · search`;
  byId("title").textContent = info.gallery;
  const facts = [["", count(info.entries, "picture")], ["of", count(info.identities, "identity")], ["from", count(info.cameras.length, "camera")],
    ["model", info.model], ["kept", days(info.keep_seconds)], ["you are", info.who]];
  byId("about").replaceChildren(...facts.map(([name, value]) => make("li", {}, name ? `${name} ` : "", make("b", {}, String(value)))));
  const menu = byId("cameras"), chosen = menu.value;
  menu.replaceChildren(make("option", { value: "" }, "all"));
  for (const [key, word] of [["camera", "only"], ["other_camera", "all but"]]) {
    if (!info.cameras.length) break;
    menu.append(make("optgroup", { label: word }, ...info.cameras.map((name) => make("option", { value: JSON.stringify([key, name]) }, `${word} ${name}`))));
  }
  menu.value = chosen;
  byId("why-needed").textContent = info.reason_needed.search ? "(needed)" : "(optional)";
  byId("limit").textContent = `JPEG, PNG, WebP, BMP or TIFF, up to ${Math.floor(info.most_bytes / 2 ** 20)} MB`;
  byId("duties").textContent = info.logged
    ? `Each search is logged with name, time and reason${info.keep_log_seconds === null ? "" : `, for ${days(info.keep_log_seconds)}`}; your picture is not stored.`
    : "This gallery has no log; your picture is not stored.";
  byId("add").hidden = info.read_only;
  ready();
}

// ---- what is asked ------------------------------------------------------------------------------------------------------

function ready() {
  const info = state.info, something = state.image !== null || state.entry !== null;
  byId("go").disabled = !info || !something;
  byId("add").disabled = !info || state.image === null;
}

function choose(file) {
  if (!file) return;
  if (state.info && file.size > state.info.most_bytes) {
    fail(new Error(`expected an image of at most ${state.info.most_bytes} bytes at the upload, it is larger; give another file.`));
    return;
  }
  state.image = file;
  state.entry = null;
  use(file.name || "a pasted picture");
  const reader = new FileReader();
  reader.addEventListener("load", () => preview(String(reader.result)));
  reader.readAsDataURL(file);
  ready();
}

function use(text) {
  byId("using-text").textContent = text;
  byId("using").hidden = false;
}

function preview(address) {
  const picture = byId("preview");
  picture.hidden = !address;
  byId("hint").hidden = Boolean(address);
  byId("limit").hidden = Boolean(address);
  if (address) picture.src = address; else picture.removeAttribute("src");
}

function forget() {
  Object.assign(state, { image: null, entry: null });
  byId("file").value = "";
  byId("using").hidden = true;
  preview(null);
  ready();
}

function filters() {
  const chosen = { top: byId("top").value, per: byId("per").value, known: byId("known").value, why: byId("why").value.trim() };
  if (byId("cameras").value) {
    const [key, name] = JSON.parse(byId("cameras").value);
    chosen[key] = name;
  }
  for (const name of ["since", "until"]) if (byId(name).value) chosen[name] = byId(name).value;
  return chosen;
}

async function search() {
  if (byId("go").disabled) return;
  if (state.info.reason_needed.search && !byId("why").value.trim()) {
    byId("why").focus();
    fail(new Error("expected a reason for the audit log, got none; give one."));
    return;
  }
  const number = (state.number += 1), asked = { image: state.image, entry: state.entry, why: byId("why").value.trim(), picture: byId("preview").src };
  tell("busy", "Searching", "This takes a moment.");
  const parameters = asked.entry === null ? filters() : { ...filters(), entry: asked.entry };
  try {
    const answer = await ask("search", parameters, asked.image);
    if (number === state.number) show(answer, asked);
  } catch (error) {
    if (number === state.number) fail(error);
  }
}

// ---- the answer ---------------------------------------------------------------------------------------------------------

function tell(kind, heading, text) {
  byId("verdict").className = `panel verdict ${kind}`;
  byId("heading").textContent = heading;
  byId("summary").textContent = text;
  byId("verdict").scrollIntoView({ block: "nearest" });
}

function fail(error) {
  byId("answer").replaceChildren();
  tell("failed", "No answer", error.message);
}

function show(answer, asked) {
  state.shown = { answer, asked };
  const limit = answer.threshold, near = answer.hits.filter((hit) => hit.accepted).length;
  const looked = `${count(answer.looked_at, "picture")} looked at`;
  if (!limit) {
    tell("open", "The nearest pictures", `${looked}. The gallery has no threshold, so nothing is said on whether the person is in it; a first place is no identification.`);
  } else if (answer.nobody) {
    tell("nobody", "Nobody in the gallery", `${looked}, none of them near enough. The threshold: ${answer.threshold_text}.`);
  } else {
    tell("some", `${near} of ${answer.hits.length} within the threshold`, `A first place is no identification. ${looked}. The threshold: ${answer.threshold_text}.`);
  }
  const farthest = Math.max(...answer.hits.map((hit) => hit.distance ?? 0), limit ? 1.25 * limit.distance : 0) || 1;
  byId("answer").replaceChildren(...answer.hits.map((hit, place) => card(hit, place + 1, limit, farthest, asked)));
}

function card(hit, rank, limit, farthest, asked) {
  const kind = hit.accepted === null ? "open" : hit.accepted ? "within" : "beyond", name = hit.identity ?? "identity not known";
  const picture = hit.picture
    ? make("img", { src: hit.picture, alt: `rank ${rank}: ${name}` })
    : make("div", { class: "blank", role: "img", "aria-label": `rank ${rank}: ${name}, no picture` }, "no picture");
  const facts = [["camera", hit.camera], ["time", hit.time && moment(hit.time)], ["track", hit.track], ["entry", `${hit.id}, until ${hit.expires ? moment(hit.expires).slice(0, 10) : "removed"}`]];
  const rows = facts.filter(([, value]) => value).flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, String(value))]);
  const buttons = make("div", { class: "buttons" }, button("search from this", () => searchFrom(hit), { class: "plain" }));
  if (state.info.explains && hit.picture) buttons.append(button("explain", () => explain(hit, asked), { class: "plain" }));
  if (!state.info.read_only) buttons.append(button("remove…", () => confirmRemoval(hit), { class: "plain" }));
  return make("li", { class: `hit ${kind}` },
    make("figure", {}, picture, make("span", { class: "rank", "aria-hidden": "true" }, String(rank))),
    make("div", { class: "facts" }, make("h3", hit.identity === null ? { class: "unnamed" } : {}, name), make("dl", {}, ...rows),
      ...nearness(hit, limit, farthest), buttons));
}

function nearness(hit, limit, farthest) {
  const share = (value) => `${Math.max(0, Math.min(100, (100 * value) / farthest))}%`;
  const reach = make("span", { class: "reach" }), bar = make("div", { class: "scale", "aria-hidden": "true" }, reach);
  reach.style.width = hit.distance === null ? "100%" : share(hit.distance);
  if (limit) {
    const mark = make("span", { class: "limit" });
    mark.style.left = share(limit.distance);
    bar.append(mark);
  }
  const words = make("p", { class: "near" }, "distance ", make("b", {}, hit.distance === null ? "not comparable" : hit.distance.toFixed(3)));
  if (limit && hit.distance !== null) words.append(` (${Math.abs(hit.distance - limit.distance).toFixed(3)} ${hit.accepted ? "within" : "beyond"} ${limit.distance.toFixed(3)})`);
  if (hit.similarity !== null) words.append(", similarity ", make("b", {}, hit.similarity.toFixed(3)));
  return [bar, words];
}

function searchFrom(hit) {
  Object.assign(state, { image: null, entry: hit.id });
  byId("file").value = "";
  preview(hit.picture);
  byId("hint").hidden = byId("limit").hidden = Boolean(hit.picture);
  use(`entry ${hit.id}${hit.identity === null ? "" : `, ${hit.identity}`}`);
  ready();
  search();
  scrollTo({ top: 0 });
}

// ---- dialogs ------------------------------------------------------------------------------------------------------------

function open(title, parts, buttons) {
  byId("dialog-title").textContent = title;
  byId("dialog-body").replaceChildren(...parts);
  byId("dialog-problem").hidden = true;
  byId("dialog-buttons").replaceChildren(...buttons);
  if (!byId("dialog").open) byId("dialog").showModal();
}

function close() {
  byId("dialog").close();
}

function complain(error) {
  byId("dialog-problem").textContent = error.message;
  byId("dialog-problem").hidden = false;
}

function field(name, label, attributes = {}) {
  const input = make("input", { type: "text", maxlength: "300", autocomplete: "off", id: `field-${name}`, ...attributes });
  return make("label", { class: "field" }, make("span", {}, label), input);
}

const valueOf = (name) => byId(`field-${name}`).value.trim();

function reasonField() {
  const row = field("why", state.info.reason_needed.other ? "Reason" : "Reason (optional)", { maxlength: "500" });
  row.querySelector("input").value = byId("why").value;
  return row;
}

// Runs an action of a dialog, its button off meanwhile, so that a second click does nothing twice.
async function attempt(clicked, action) {
  clicked.disabled = true;
  byId("dialog-problem").hidden = true;
  try {
    await action();
  } catch (error) {
    complain(error);
  } finally {
    clicked.disabled = false;
  }
}

function confirmRemoval(hit) {
  const subject = hit.picture ? [make("img", { class: "subject", src: hit.picture, alt: "the picture that would be removed" })] : [];
  const name = hit.identity === null ? "a person without a name" : hit.identity;
  const remove = button("Remove", () => attempt(remove, async () => {
    const gone = await ask("remove", { id: hit.id, expected: 1, why: valueOf("why") });
    close();
    await refresh();
    byId("answer").replaceChildren();
    tell("open", "Removed", `Entry ${hit.id} is gone; ${count(gone.entries, "picture")} left. Searches no longer find it, and search.py compact removes what is left of it in the file.`);
  }), { class: "danger" });
  open("Remove this picture from the gallery?", [...subject,
    make("p", {}, `Entry ${hit.id}, ${name}${hit.camera === null ? "" : `, camera ${hit.camera}`}. This cannot be undone.`), reasonField()],
    [button("Cancel", close), remove]);
}

function confirmAddition() {
  const image = state.image, subject = make("img", { class: "subject", alt: "the picture that would be added" });
  if (byId("preview").src) subject.src = byId("preview").src;
  const add = button("Add", () => attempt(add, async () => {
    const labels = Object.fromEntries(["identity", "camera", "time", "track", "why"].map((name) => [name, valueOf(name)]));
    const added = await ask("add", labels, image);
    close();
    await refresh();
    byId("answer").replaceChildren();
    tell("open", "Added", `It is entry ${added.id}. The gallery has ${count(added.entries, "picture")}, each kept for ${days(state.info.keep_seconds)}.`);
  }), { class: "main" });
  open("Add this picture to the gallery?", [subject,
    make("p", {}, `It will be kept for ${days(state.info.keep_seconds)}, and everyone who may search can find it. Leave unknown fields empty.`),
    field("identity", "Identity"), field("camera", "Camera", { list: "camera-names" }), field("time", "Time (UTC)", { type: "datetime-local" }),
    field("track", "Track"), make("datalist", { id: "camera-names" }, ...state.info.cameras.map((name) => make("option", { value: name }))), reasonField()],
    [button("Cancel", close), add]);
}

async function explain(hit, asked) {
  open("What makes them similar?", [make("p", {}, "The first explanation takes a while: the model is compiled for it.")], [button("Close", close)]);
  const parameters = { entry: hit.id, why: asked.why }, before = asked.picture;
  if (asked.entry !== null) parameters.query_entry = asked.entry;
  try {
    const found = await ask("explain", parameters, asked.image);
    const figure = (source, text) => (source ? [make("figure", {}, make("img", { src: source, alt: text }), make("figcaption", {}, text))] : []);
    const source = found.picture === "original" ? "the original picture" : "the gallery's small picture, so it can differ a little from the ranking's";
    const scale = `The scale goes from ${found.low.toPrecision(2)} (dark) to ${found.high.toPrecision(2)} (bright) in both.`;
    open("What makes them similar?", [
      make("div", { class: "pair" }, ...figure(before, "asked with"), ...figure(found.query, "its regions"),
        ...figure(found.entry, "its regions"), ...figure(hit.picture, `entry ${found.id}`)),
      make("p", {}, `Similarity ${found.similarity.toFixed(3)}, computed from ${source}. ${found.note} ${scale}`)], [button("Close", close)]);
  } catch (error) {
    complain(error);
  }
}

function askToken() {
  const enter = button("Continue", () => {
    sessionStorage.setItem("token", valueOf("token"));
    close();
    start();
  }, { class: "main" });
  open("This server needs a token", [make("p", {}, "The person who runs it has given you one, or printed it when the server started."),
    field("token", "Token", { type: "password" })], [enter]);
}

// ---- start --------------------------------------------------------------------------------------------------------------

async function refresh() {
  describe(await ask("info"));
}

const beginning = [byId("heading").textContent, byId("summary").textContent];

async function start() {
  takeToken();
  try {
    await refresh();
    tell("", ...beginning);
  } catch (error) {
    fail(error);
  }
}

function listen() {
  byId("file").addEventListener("change", (event) => choose(event.target.files[0]));
  byId("preview").addEventListener("error", () => preview(null)); // such as TIFF, which the server reads and browsers do not
  byId("clear").addEventListener("click", forget);
  byId("add").addEventListener("click", confirmAddition);
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  // A dialog's buttons act by themselves; Enter in one of its fields must not close it.
  byId("dialog").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  const drop = byId("drop");
  for (const [name, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", over);
    });
  }
  document.addEventListener("drop", (event) => choose(event.dataTransfer.files[0]));
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) choose(file);
  });
}

listen();
start();
