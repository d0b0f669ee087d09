// A figure of plotly that says what was clicked, dragged and selected, in JupyterLab or on a page
// of its own. All plots of a notebook share plotly.js, which is loaded after the models are
// initialised: anywidget gives that two seconds at most.
const load = async (code) => {
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  await import(address);
  URL.revokeObjectURL(address);
  return window.Plotly;
};

const draw = (Plotly, plot, { data, layout }) => {
  const save = () => Plotly.downloadImage(plot, { format: "svg" });
  plot.setAttribute("role", "figure");
  plot.setAttribute("aria-label", layout.meta.said);
  return Plotly.react(plot, data, layout, {
    displaylogo: false,
    responsive: true,
    showSendToCloud: false, // nothing is sent away
    plotlyServerURL: "",
    edits: { shapePosition: true },
    toImageButtonOptions: { scale: 2 },
    modeBarButtonsToRemove: layout.meta.map ? [] : ["select2d", "lasso2d"],
    modeBarButtonsToAdd: [{ name: "Download plot as an SVG", icon: Plotly.Icons.disk, click: save }],
  });
};

// The k-th image of a sheet, as an element of so many pixels a side
const thumbnail = (k, address, { across }, size) => {
  const image = document.createElement("div");
  image.className = "thumbnail";
  image.style.cssText = `width: ${size}px; height: ${size}px; background-image: url(${address});
    background-size: ${across * size}px; background-position:
    -${(k % across) * size}px -${Math.floor(k / across) * size}px`;
  return image;
};

// Thumbnails at the pointer; sheet: gives the address of the images
const point = (plot, sheet) => {
  let shown;
  const hide = () => shown?.remove();
  plot.on("plotly_unhover", hide);
  plot.on("plotly_hover", ({ event, points: [{ customdata }] }) => {
    hide();
    if (!plot.layout.meta.map) return;
    const box = plot.getBoundingClientRect();
    shown = thumbnail(customdata, sheet(), plot.layout.meta.map, 96);
    // clear of the text beside the point: above it, or below where there is no room
    const above = event.clientY - box.top - 150;
    shown.style.left = `${Math.max(event.clientX - box.left - 48, 0)}px`;
    shown.style.top = `${above > 0 ? above : above + 204}px`;
    plot.append(shown);
  });
};

// A click, unless it is one of two: they zoom out
const clicked = (plot, react) => {
  let one;
  plot.on("plotly_click", ({ event, points: [point] }) => {
    clearTimeout(one);
    if (event.detail < 2) one = setTimeout(() => react(point), 350);
  });
  plot.on("plotly_doubleclick", () => clearTimeout(one));
};

// On a page without a kernel
const alone = async (el, figure, sheet) => {
  const plot = el.appendChild(document.createElement("div"));
  const kept = el.appendChild(document.createElement("p"));
  kept.setAttribute("role", "status");
  await draw(window.Plotly, plot, JSON.parse(figure.textContent));
  point(plot, () => sheet);
  clicked(plot, ({ text, customdata }) => {
    kept.innerHTML = text; // written by image_map.texts, which escapes names
    kept.prepend(thumbnail(customdata, sheet, plot.layout.meta.map, 192));
  });
};

const initialize = ({ model }) => {
  if (model.get("code")) window.semlibPlotly ??= load(model.get("code"));
};

const render = async ({ model, el }) => {
  if (model.get("code")) return; // this model only carries plotly.js
  while (!window.semlibPlotly) await new Promise((wait) => setTimeout(wait, 20));
  const Plotly = await window.semlibPlotly;
  const plot = el.appendChild(document.createElement("div"));
  const redraw = () => draw(Plotly, plot, JSON.parse(model.get("figure")));
  let sheet;
  const cut = () => {
    URL.revokeObjectURL(sheet);
    sheet = URL.createObjectURL(new Blob([model.get("sheet")], { type: "image/jpeg" }));
  };
  model.on("change:figure", redraw);
  model.on("change:sheet", cut);
  cut();
  await redraw();
  point(plot, () => sheet);
  clicked(plot, ({ data, customdata }) => {
    if (plot.layout.meta.map) model.send(["image", customdata]);
    // a run's (held-out class, method, score), its trial, and a threshold
    else if (data.meta && customdata)
      model.send(["point", ...data.meta, customdata[3], customdata[0], true]);
  });
  plot.on("plotly_selected", (event) => {
    if (event) model.send(["images", ...event.points.map(({ customdata }) => customdata)]);
  });
  let back;
  plot.on("plotly_relayout", (edit) => {
    const [, k] = Object.keys(edit).join().match(/^shapes\[(\d+)\]/) ?? [];
    if (k === undefined) return;
    model.send(["point", ...plot.layout.meta.lines[k], plot.layout.shapes[k].x0, false]);
    clearTimeout(back);
    back = setTimeout(redraw, 1000); // where the same images are flagged, the line goes back
  });
  const size = new ResizeObserver(() => plot.offsetParent && Plotly.Plots.resize(plot));
  size.observe(el);
  return () => {
    clearTimeout(back);
    size.disconnect();
    URL.revokeObjectURL(sheet);
    model.off("change:figure", redraw);
    model.off("change:sheet", cut);
    Plotly.purge(plot);
  };
};

export default { initialize, render };
