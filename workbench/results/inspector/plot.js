// A figure of plotly that says what was clicked and dragged. All plots of a page share plotly.js,
// which is loaded after the models are initialised: anywidget gives that two seconds at most.
const load = async (code) => {
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  await import(address);
  URL.revokeObjectURL(address);
  return window.Plotly;
};

const initialize = ({ model }) => {
  if (model.get("code")) window.semlibPlotly ??= load(model.get("code"));
};

const render = async ({ model, el }) => {
  if (model.get("code")) return; // this model only carries plotly.js
  while (!window.semlibPlotly) await new Promise((wait) => setTimeout(wait, 20));
  const Plotly = await window.semlibPlotly;
  const plot = el.appendChild(document.createElement("div"));
  const save = () => Plotly.downloadImage(plot, { format: "svg" });
  const config = {
    displaylogo: false,
    showSendToCloud: false, // nothing is sent away
    plotlyServerURL: "",
    edits: { shapePosition: true },
    toImageButtonOptions: { scale: 2 },
    modeBarButtonsToRemove: ["select2d", "lasso2d"],
    modeBarButtonsToAdd: [{ name: "Download plot as an SVG", icon: Plotly.Icons.disk, click: save }],
  };
  const draw = () => {
    const { data, layout } = JSON.parse(model.get("figure"));
    plot.setAttribute("aria-label", layout.meta.said);
    return Plotly.react(plot, data, layout, config);
  };
  plot.setAttribute("role", "figure");
  model.on("change:figure", draw);
  await draw();
  // a run's (held-out class, method, score), its trial, and a threshold
  plot.on("plotly_click", ({ points: [{ data, customdata }] }) => {
    if (data.meta && customdata) model.send([...data.meta, customdata[3], customdata[0], true]);
  });
  let back;
  plot.on("plotly_relayout", (edit) => {
    const [, k] = Object.keys(edit).join().match(/^shapes\[(\d+)\]/) ?? [];
    if (k === undefined) return;
    model.send([...plot.layout.meta.lines[k], plot.layout.shapes[k].x0, false]);
    clearTimeout(back);
    back = setTimeout(draw, 1000); // where the same images are flagged, the line goes back
  });
  const size = new ResizeObserver(() => plot.offsetParent && Plotly.Plots.resize(plot));
  size.observe(el);
  return () => {
    clearTimeout(back);
    size.disconnect();
    model.off("change:figure", draw);
    Plotly.purge(plot);
  };
};

export default { initialize, render };
