"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = [...document.querySelectorAll(".lanes tbody tr")];
  const panel = document.getElementById("panel");
  const slider = document.getElementById("slider");
  const place = document.getElementById("place");
  const buttons = { first: byId("first"), back: byId("back"), on: byId("on"), last: byId("last"), play: byId("play") };
  const last = data.moments.length;
  let at = last;
  let timer = 0;

  function byId(id) {
    return document.getElementById(id);
  }

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // Every value after the first `moments` events: lane -> field -> {value, ghost, state}.
  function values(moments) {
    const found = {};
    for (const lane of data.lanes) found[lane] = {};
    const write = (edit) => {
      found[edit.owner] ??= {};
      found[edit.owner][edit.field] = edit;
    };
    data.start.forEach(write);
    for (const moment of data.moments.slice(0, moments)) moment.edits.forEach(write);
    return found;
  }

  function valueTables() {
    const changed = new Set((at > 0 ? data.moments[at - 1].edits : []).map((e) => `${e.owner}.${e.field}`));
    return Object.entries(values(at)).flatMap(([lane, fields]) => {
      const edits = Object.values(fields);
      if (edits.length === 0) return [];
      const state = edits.find((e) => e.is_state);
      const heading = element("h3", {}, lane || "whole system");
      if (state) heading.append(element("span", { class: `state c${data.colours[state.new] ?? 0}` }, state.new));
      const body = element("tbody", {});
      for (const edit of edits) {
        const kind = [changed.has(`${lane}.${edit.field}`) ? "new" : "", edit.ghost ? "ghost" : ""].join(" ");
        const text = kind.startsWith("new") ? `${edit.old} → ${edit.new}` : edit.new;
        body.append(element("tr", { class: kind }, element("th", { scope: "row" }, edit.field), element("td", { class: "mono" }, text)));
      }
      return [heading, element("table", { "aria-label": `values of ${lane || "the whole system"}` }, body)];
    });
  }

  function show(next) {
    at = Math.max(0, Math.min(last, next));
    rows.forEach((row, i) => {
      row.classList.toggle("current", i + 1 === at);
      row.classList.toggle("later", i + 1 > at);
      row.setAttribute("aria-current", i + 1 === at ? "step" : "false");
    });
    slider.value = String(at);
    place.textContent = `${at} of ${last}`;
    buttons.first.disabled = buttons.back.disabled = at === 0;
    buttons.on.disabled = buttons.last.disabled = at === last;
    const moment = at > 0 ? data.moments[at - 1] : null;
    const title = element("h2", { class: "mono" }, moment ? `${at}. ${moment.event}` : "Before the first event");
    const meaning = element("p", { class: "soft" }, moment ? `${moment.meaning} By the ${moment.actor}.` : data.before);
    const notes = (moment ? moment.notes : []).map((note) => element("p", { class: "note" }, note));
    panel.replaceChildren(title, meaning, ...notes, ...valueTables());
    if (at > 0) rows[at - 1].scrollIntoView({ block: "nearest" });
    history.replaceState(null, "", `#${at}`);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    buttons.play.textContent = "Play";
  }

  function play() {
    if (timer) return stop();
    if (at === last) show(0);
    buttons.play.textContent = "Pause";
    timer = setInterval(() => (at === last ? stop() : show(at + 1)), 1100);
  }

  const moves = {
    ArrowRight: () => show(at + 1), ArrowDown: () => show(at + 1), ArrowLeft: () => show(at - 1),
    ArrowUp: () => show(at - 1), Home: () => show(0), End: () => show(last),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in moves)) return;
    event.preventDefault();
    stop();
    moves[event.key]();
  });
  rows.forEach((row, i) => row.addEventListener("click", () => { stop(); show(i + 1); }));
  buttons.first.addEventListener("click", () => { stop(); show(0); });
  buttons.back.addEventListener("click", () => { stop(); show(at - 1); });
  buttons.on.addEventListener("click", () => { stop(); show(at + 1); });
  buttons.last.addEventListener("click", () => { stop(); show(last); });
  buttons.play.addEventListener("click", play);
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const wanted = Number.parseInt(location.hash.slice(1), 10);
  show(Number.isNaN(wanted) ? last : wanted);
})();
