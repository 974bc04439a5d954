"use strict";

// ---- search: a pure function of the points -----------------------------------------------------------------------------

function select(points, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const exact = points.filter((point) => point.person.toLowerCase() === text.trim().toLowerCase());
  if (exact.length) return exact;
  return points.filter((point) => words.every((word) => point.person.toLowerCase().includes(word) || point.name.toLowerCase().includes(word)));
}

// ---- the page: text enters it as text, never as HTML -------------------------------------------------------------------

function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function show(data) {
  const wide = 1000, high = 720, near = 14, most = 24, colors = 8;
  const byId = (id) => document.getElementById(id);
  const map = byId("map"), facts = byId("facts"), ofPerson = byId("person"), find = byId("find"), color = byId("color");
  const points = data.points.map(([x, y, side, person, camera, picture, name], index) => ({
    index, x: 20 + x * (wide - 40), y: 20 + (1 - y) * (high - 40), query: side === 0, group: person,
    person: data.people[person], known: data.known[person], camera: data.cameras[camera], place: camera, picture, name }));
  const whole = { x: 0, y: 0, width: wide, height: high };
  let view = { ...whole }, kept = null;

  const marks = points.map((point) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "path");
    map.append(mark);
    return mark;
  });

  function look() {
    map.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    const size = 5 * view.width / wide;
    points.forEach((point, index) => {
      const { x, y } = point, r = size;
      marks[index].setAttribute("d", point.query
        ? `M${x} ${y - 1.3 * r}L${x + 1.3 * r} ${y}L${x} ${y + 1.3 * r}L${x - 1.3 * r} ${y}Z`
        : `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`);
    });
  }

  function paint() {
    const found = new Set(find.value.trim() ? select(points, find.value).map((point) => point.index) : points.map((point) => point.index));
    const group = kept && kept.known ? kept.group : -1;
    points.forEach((point, index) => {
      const number = (color.value === "camera" ? point.place : point.group) % colors;
      const classes = ["point", `p${number}`];
      if (group >= 0 ? point.group !== group : !found.has(index)) classes.push("faded");
      if (kept && (point === kept || point.group === group)) classes.push("same");
      marks[index].setAttribute("class", classes.join(" "));
    });
    const shown = group >= 0 ? points.filter((point) => point.group === group).length : found.size;
    try {
      history.replaceState(null, "", find.value ? `#${new URLSearchParams({ find: find.value })}` : "#");
    } catch { /* Some browsers limit how often; the view itself is drawn. */ }
    byId("shown").textContent = `${shown.toLocaleString("en")} of ${points.length.toLocaleString("en")} images`;
  }

  function picture(point, alt) {
    const text = data.pictures[point.picture];
    return text ? make("img", { src: `data:image/webp;base64,${text}`, alt }) : make("div", { class: "blank" }, "no picture");
  }

  function words(point) {
    return [`${point.query ? "query" : "gallery"}, camera ${point.camera}`, point.name];
  }

  function tell(point) {
    const title = point.known ? `person ${point.person}` : point.person;
    facts.replaceChildren(make("figure", { class: "shown-image" }, picture(point, title)),
      make("div", {}, make("b", {}, title), ...words(point).map((text) => make("p", { class: "note" }, text))));
    const others = point.known ? points.filter((other) => other.group === point.group && other !== point) : [];
    ofPerson.replaceChildren(...others.slice(0, most).map((other) =>
      make("figure", { title: words(other).join("\n") }, picture(other, words(other)[0]))));
    if (others.length > most) ofPerson.append(make("p", { class: "note" }, `and ${others.length - most} more`));
  }

  function place(event) {
    const box = map.getBoundingClientRect(), scale = Math.max(view.width / box.width, view.height / box.height);
    return {
      x: view.x + view.width / 2 + (event.clientX - box.left - box.width / 2) * scale,
      y: view.y + view.height / 2 + (event.clientY - box.top - box.height / 2) * scale, scale };
  }

  function nearest(event) {
    const at = place(event);
    let best = null, distance = near * at.scale;
    for (const point of points) {
      const far = Math.hypot(point.x - at.x, point.y - at.y);
      if (far < distance) [best, distance] = [point, far];
    }
    return best;
  }

  map.addEventListener("pointermove", (event) => {
    const point = kept ? null : nearest(event);
    if (!point) return;
    tell(point);
    points.forEach((other, index) => marks[index].classList.toggle("same", other === point || (point.known && other.group === point.group)));
  });
  map.addEventListener("click", (event) => {
    kept = kept ? null : nearest(event);
    if (kept) tell(kept);
    paint();
  });
  map.addEventListener("dblclick", () => { view = { ...whole }; look(); });
  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    const at = place(event), share = Math.min(event.deltaY < 0 ? 0.8 : 1.25, wide / view.width);
    view = { x: at.x + (view.x - at.x) * share, y: at.y + (view.y - at.y) * share, width: view.width * share, height: view.height * share };
    look();
  }, { passive: false });
  find.form.addEventListener("submit", (event) => event.preventDefault());
  find.addEventListener("input", () => {
    kept = null;
    const found = find.value.trim() ? select(points, find.value) : [];
    if (found.length) tell(found[0]);
    paint();
  });
  color.addEventListener("input", () => { legend(); paint(); });

  function legend() {
    const entry = (kind, text) => make("li", { class: kind }, make("span", { class: "dot" }), make("span", {}, text));
    const cameras = color.value === "camera" && data.cameras.length <= colors ? data.cameras : [];
    byId("legend").replaceChildren(make("li", {}, "◆ query ● gallery"), ...cameras.map((name, number) => entry(`k${number}`, `camera ${name}`)));
  }

  // The part behind # keeps a search, so that it can be sent to somebody.
  find.value = new URLSearchParams(location.hash.slice(1)).get("find") || "";
  legend();
  look();
  paint();
  if (find.value) find.dispatchEvent(new Event("input"));
}

if (typeof document !== "undefined") show(JSON.parse(document.getElementById("data").textContent));
if (typeof module !== "undefined") module.exports = { select };
