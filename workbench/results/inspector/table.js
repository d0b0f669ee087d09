// HTML that says which of its images was clicked, or chosen by the keyboard
const render = ({ model, el }) => {
  const write = () => (el.innerHTML = model.get("value"));
  const choose = (event) => {
    const { image } = event.target.dataset;
    const asked = event.type === "click" || event.key === "Enter";
    if (image && asked) model.send(["image", Number(image)]);
  };
  el.classList.add("table");
  el.addEventListener("click", choose);
  el.addEventListener("keydown", choose);
  model.on("change:value", write);
  write();
  return () => model.off("change:value", write);
};

export default { render };
