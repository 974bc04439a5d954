"use strict";

// ---- search and order: pure functions of the entries -----------------------------------------------------------------

const orders = {
  worst: (a, b) => unscored(a) - unscored(b) || a.ap - b.ap || a.row - b.row,
  best: (a, b) => unscored(a) - unscored(b) || b.ap - a.ap || a.row - b.row,
  late: (a, b) => unscored(a) - unscored(b) || b.first - a.first || a.ap - b.ap || a.row - b.row,
  row: (a, b) => a.row - b.row,
};

function unscored(entry) {
  return entry.ap === null;
}

// "camera 2" is one word; a number that is somebody's identity finds nothing else.
function wordsOf(text) {
  return text.toLowerCase().replace(/\bcamera\s+(?=\S)/g, "camera:").split(/\s+/).filter(Boolean);
}

function fits(entry, word, identities) {
  if (word.startsWith("camera:")) return entry.camera.toLowerCase() === word.slice(7);
  const identity = entry.identity.toLowerCase();
  if (identities.has(word)) return identity === word;
  return identity.includes(word) || entry.name.toLowerCase().includes(word);
}

function select(entries, text, missed, order) {
  const words = wordsOf(text), identities = new Set(entries.map((entry) => entry.identity.toLowerCase()));
  return entries
    .filter((entry) => (!missed || entry.first !== 1) && words.every((word) => fits(entry, word, identities)))
    .sort(orders[order] || orders.worst);
}

// ---- the page: text enters it as text, never as HTML -------------------------------------------------------------------

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function show(data) {
  const size = 20, holder = document.getElementById("cards"), more = document.getElementById("more");
  const controls = Object.fromEntries(["sort", "find", "missed"].map((id) => [id, document.getElementById(id)]));
  let chosen = [], drawn = 0;

  function picture(number, alt) {
    const text = data.pictures[number];
    if (!text) return make("div", { class: "blank", role: "img", "aria-label": `${alt} (no picture on this page)` }, "no picture");
    return make("img", { src: `data:image/webp;base64,${text}`, alt, decoding: "async" });
  }

  const dialog = make("dialog", { class: "why-dialog", "aria-label": "Explanation of a match" });
  document.body.append(dialog);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  // On demand: a picture is decoded when somebody asks for it.
  function why(number, title) {
    const button = make("button", { class: "why", type: "button", "aria-label": `why: ${title}` }, "why?");
    button.addEventListener("click", () => {
      const close = make("button", { class: "more", type: "button" }, "Close");
      close.addEventListener("click", () => dialog.close());
      dialog.replaceChildren(make("h2", {}, title),
        make("img", { src: `data:image/webp;base64,${data.pictures[number]}`, alt: "regions of the query and of the match that make them similar" }),
        make("p", { class: "note" }, "Left the query, right the match; colors are what each region adds to their similarity. " +
          "Below stand the sum of the regions and what no region adds. This explains the score of a model; it is not evidence of identity."), close);
      dialog.showModal();
    });
    return button;
  }

  function answer(number, distance, rank, right, reason) {
    const image = data.gallery[number], word = right ? "right" : "wrong";
    const camera = `camera ${image.camera}`;
    return make("figure", { class: word, title: `${image.name}\n${image.person}, ${camera}` },
      picture(image.picture, `rank ${rank}, ${right ? "same person" : "another person"}: ${image.person}, ${camera}`),
      make("span", { class: "rank", "aria-hidden": "true" }, String(rank)),
      make("span", { class: "mark", "aria-hidden": "true" }, right ? "✓" : "✗"),
      make("figcaption", {}, make("b", {}, distance), make("span", {}, image.person), make("span", {}, camera)),
      ...(reason >= 0 ? [why(reason, `rank ${rank}, ${right ? "same person" : "another person"}: ${image.person}`)] : []));
  }

  function card(entry) {
    const facts = make("dl", {});
    const rows = [["AP", unscored(entry) ? "not scored" : `${(100 * entry.ap).toFixed(1)} %`],
      ["first hit", entry.first > 0 ? `rank ${entry.first}` : "none"], ["correct", `${entry.correct} in gallery`],
      ["identity", entry.identity], ["camera", entry.camera]];
    for (const [term, value] of rows) facts.append(make("dt", {}, term), make("dd", {}, value));
    facts.append(make("dd", { class: "name" }, entry.name));
    const answers = make("ol", { class: "answers" });
    entry.gallery.forEach((number, place) =>
      answers.append(make("li", {}, answer(number, entry.distances[place], place + 1, entry.right[place] === "1", entry.why ? entry.why[place] : -1))));
    if (entry.later) answers.append(make("li", { class: "later" }, answer(entry.later[0], entry.later[1], entry.first, true, -1)));
    const query = make("figure", { class: "query", title: entry.name }, picture(entry.picture, `query, identity ${entry.identity}`));
    return make("article", { class: "card", "aria-label": `query ${entry.name}` }, make("div", { class: "query-facts" }, query, facts), answers);
  }

  function draw() {
    holder.append(...chosen.slice(drawn, drawn + size).map(card));
    drawn = Math.min(drawn + size, chosen.length);
    more.hidden = drawn >= chosen.length;
  }

  function update() {
    chosen = select(data.queries, controls.find.value, controls.missed.checked, controls.sort.value);
    drawn = 0;
    holder.replaceChildren();
    if (!chosen.length) holder.append(make("p", { class: "nothing" }, "No query fits this search."));
    draw();
    document.getElementById("shown").textContent = `${chosen.length.toLocaleString("en")} of ${data.queries.length.toLocaleString("en")} queries`;
    const state = new URLSearchParams();
    if (controls.find.value) state.set("find", controls.find.value);
    if (controls.missed.checked) state.set("missed", "1");
    if (controls.sort.value !== "worst") state.set("sort", controls.sort.value);
    try {
      history.replaceState(null, "", `#${state}`);
    } catch { /* Some browsers limit how often; the view itself is drawn. */ }
  }

  // The part behind # keeps a view, so that it can be sent to somebody.
  const state = new URLSearchParams(location.hash.slice(1));
  controls.find.value = state.get("find") || "";
  controls.missed.checked = state.get("missed") === "1";
  if (state.get("sort") in orders) controls.sort.value = state.get("sort");
  controls.find.form.addEventListener("submit", (event) => event.preventDefault());
  for (const control of Object.values(controls)) control.addEventListener("input", update);
  more.addEventListener("click", draw);
  new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) draw(); }, { rootMargin: "800px" }).observe(more);
  update();
}

if (typeof document !== "undefined") show(JSON.parse(document.getElementById("data").textContent));
if (typeof module !== "undefined") module.exports = { select };
