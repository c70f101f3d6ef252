"use strict";
(() => {
  // Sorting: a click on a heading sorts by it, best or first at the top; a second click turns the order round.
  for (const button of document.querySelectorAll("table.sortable th button")) {
    button.addEventListener("click", () => {
      const heading = button.closest("th"), table = heading.closest("table"), body = table.tBodies[0];
      const column = Number(button.dataset.column);
      const before = heading.getAttribute("aria-sort");
      const order = before === "none" ? button.dataset.first : before === "ascending" ? "descending" : "ascending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = row => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const x = value(a), y = value(b);
        if (x === "" || y === "") return (x === "") - (y === "");  // what has no score stays at the end
        const order = column === 0 ? a.dataset.order - b.dataset.order : x - y;
        return sign * order || a.dataset.order - b.dataset.order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  }

  // A chart's cursor: with the pointer or the arrow keys, values are read out beside the legend.
  for (const chart of document.querySelectorAll(".chart")) {
    const plot = chart.querySelector(".plot"), cursor = chart.querySelector(".cursor"), readout = chart.querySelector("output");
    let data = null, at = -1;
    const show = index => {
      data ??= JSON.parse(chart.dataset.chart);
      const last = data.x.length - 1;
      at = Math.min(Math.max(index, 0), last);
      cursor.hidden = false;
      cursor.style.left = 100 * (data.steps ? (at + 0.5) / (last + 1) : last ? at / last : 0) + "%";
      const values = data.lines.map(([label, , line]) => `${label} ${line[at] === null ? "not scored" : line[at].toFixed(data.digits + 1)}`);
      readout.textContent = `${data.name} ${data.x[at]}: ${values.join(", ")}`;
    };
    const follow = event => {
      data ??= JSON.parse(chart.dataset.chart);
      const box = plot.getBoundingClientRect(), part = (event.clientX - box.left) / box.width;
      show(data.steps ? Math.floor(part * data.x.length) : Math.round(part * (data.x.length - 1)));
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", () => { if (document.activeElement !== plot) cursor.hidden = true; });
    plot.addEventListener("blur", () => { cursor.hidden = true; });
    plot.addEventListener("keydown", event => {
      const step = event.shiftKey ? 10 : 1;
      const target = { ArrowRight: at + step, ArrowLeft: Math.max(at - step, 0), Home: 0, End: Infinity }[event.key];
      if (target !== undefined) { show(target); event.preventDefault(); }
    });
  }

  // Links to a video open it.
  const reveal = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id && document.getElementById(id);
    if (!target) return;
    const details = target.closest("details");
    if (details) {
      details.open = true;
      target.scrollIntoView();
      if (details === target) details.querySelector("summary").focus({ preventScroll: true });
    }
  };
  addEventListener("hashchange", reveal);
  document.addEventListener("click", event => {  // the same link a second time changes no hash
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) reveal();
  });
  reveal();

  // Finding videos by name, opening and closing all.
  const videos = [...document.querySelectorAll("details.video")];
  const filter = document.querySelector("#filter");
  if (filter) {
    filter.closest(".tools").hidden = false;
    filter.addEventListener("input", () => {
      const text = filter.value.trim().toLowerCase();
      for (const item of document.querySelectorAll("[data-video]")) item.hidden = !item.dataset.video.toLowerCase().includes(text);
    });
    document.querySelector("#open-all").addEventListener("click", () => videos.forEach(v => { v.open = !v.hidden; }));
    document.querySelector("#close-all").addEventListener("click", () => videos.forEach(v => { v.open = false; }));
  }
})();
