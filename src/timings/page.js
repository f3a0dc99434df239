// The page is complete without this; it only adds zoom, a filter, and what a package needs when it is pointed at.
(() => {
  const gantt = document.getElementById("gantt");
  if (!gantt) return;
  const rows = [...gantt.querySelectorAll("tr[data-n]")];
  const byNumber = new Map(rows.map((row) => [row.dataset.n, row]));
  const needs = (row) => (row.dataset.needs || "").split(" ").filter(Boolean);
  const users = new Map();
  rows.forEach((row) => needs(row).forEach((n) => users.set(n, [...(users.get(n) || []), row.dataset.n])));
  const tools = document.getElementById("tools");
  tools.classList.remove("hidden");
  tools.querySelector("#zoom").addEventListener("input", (event) => {
    gantt.style.width = `calc(190px + (100% - 190px) * ${event.target.value})`;
  });
  const filter = () => {
    const text = tools.querySelector("#find").value.toLowerCase();
    const built = tools.querySelector("#built").checked;
    const critical = tools.querySelector("#critical").checked;
    rows.forEach((row) => row.classList.toggle("off",
      (built && !row.dataset.built) || (critical && !row.classList.contains("critical")) ||
      !row.dataset.name.toLowerCase().includes(text)));
  };
  tools.addEventListener("input", filter);
  filter();
  let shown = null;
  const point = (row) => {
    if (row === shown) return;
    shown = row;
    const near = row ? new Set([row.dataset.n, ...needs(row), ...(users.get(row.dataset.n) || [])]) : null;
    rows.forEach((other) => {
      other.classList.toggle("dim", Boolean(near) && !near.has(other.dataset.n));
      other.classList.toggle("near", Boolean(near) && near.has(other.dataset.n));
    });
  };
  gantt.addEventListener("mouseover", (event) => point(event.target.closest("th") && event.target.closest("tr[data-n]")));
  gantt.addEventListener("mouseleave", () => point(null));
})();
