// Small helpers of the pages: running times count here, so that the server need not send them.
(() => {
  const seen = new WeakMap();
  const words = (s) => {
    if (s < 60) return `${Math.floor(s)} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${String(Math.floor(s % 60)).padStart(2, "0")} s`;
    return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  };
  setInterval(() => {
    if (document.hidden) return;
    for (const one of document.querySelectorAll("[data-seconds]")) {
      const key = one.dataset.seconds;
      const known = seen.get(one);
      if (!known || known.key !== key) seen.set(one, { key, at: Date.now() });
      const { at } = seen.get(one);
      const text = words(parseFloat(key) + (Date.now() - at) / 1000);
      if (one.textContent !== text) one.textContent = text;
    }
  }, 500);

  const THEMES = ["auto", "light", "dark"];
  const theme = () => {
    try { return localStorage.getItem("taos-theme") || "auto"; } catch { return "auto"; }
  };
  const apply = () => {
    const chosen = theme();
    const dark = chosen === "auto" ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    if (window.Quasar && Quasar.Dark && document.body.classList.contains("body--dark") !== dark) Quasar.Dark.set(dark);
    for (const one of document.querySelectorAll("[data-theme-word]")) one.textContent = chosen;
  };
  window.taosTheme = () => {
    const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
    try { localStorage.setItem("taos-theme", next); } catch { /* private mode: until the page is left */ }
    apply();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", apply);
  window.addEventListener("load", () => { apply(); setTimeout(apply, 300); });
  apply();

  // What grows stays at its end while its reader is there.
  const away = new WeakSet();
  document.addEventListener("scroll", ({ target: box }) => {
    if (!box.matches?.(".chat")) return;
    if (box.scrollHeight - box.scrollTop - box.clientHeight > 48) away.add(box);
    else away.delete(box);
  }, true);
  window.taosEnd = (id, always = false) => requestAnimationFrame(() => {
    const box = document.getElementById(id);
    if (!box) return;
    if (always) away.delete(box);
    if (!away.has(box)) box.scrollTop = box.scrollHeight;
  });
  // A log: follow is what its reader ticked.
  window.taosText = (id, text, follow) => {
    const box = document.getElementById(id);
    if (!box) return;
    box.textContent = text;
    if (follow) box.scrollTop = box.scrollHeight;
  };
  window.taosGrow = (id, text, follow) => {
    const box = document.getElementById(id);
    if (!box) return;
    box.append(text);
    if (box.textContent.length > 400000) box.textContent = box.textContent.slice(-300000);
    if (follow) box.scrollTop = box.scrollHeight;
  };
  // What is typed goes to the server and leaves its box only when the server took it.
  const sent = new WeakMap();
  window.taosTake = (id) => {
    const box = document.getElementById(id);
    sent.set(box, box.value);
    return box.value;
  };
  window.taosTaken = (id) => {
    const box = document.getElementById(id);
    if (box && box.value === sent.get(box)) box.value = "";
  };
  window.taosSet = (id, value) => {
    const box = document.getElementById(id);
    if (box) box.value = value;
  };
  // A terminal fills its box however that changes: another window, a phone that is turned.
  window.taosFit = (id, element) => {
    const box = document.getElementById(id);
    if (!box) return;
    let soon;
    const watch = new ResizeObserver(() => {
      clearTimeout(soon);
      if (!box.isConnected) watch.disconnect();
      else soon = setTimeout(() => getElement(element)?.fit(), 100);
    });
    watch.observe(box);
  };
  const KEYS = { Escape: "\x1b", Tab: "\t" };
  const ARROWS = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D" };
  window.taosKey = (element, key) => {
    const { terminal } = getElement(element);
    const begin = terminal.modes.applicationCursorKeysMode ? "\x1bO" : "\x1b[";
    terminal.input(KEYS[key] ?? begin + ARROWS[key]);
  };
  // Arrow keys move between tabs, as the ARIA practices have it.
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest?.("[role=tab]");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!tab || !step) return;
    const tabs = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]")];
    tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length].focus();
    event.preventDefault();
  });
})();
