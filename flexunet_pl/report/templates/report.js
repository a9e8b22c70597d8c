for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const falls = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const isNumber = head.classList.contains("number");
    const rows = [...body.rows].map((row) => [row, value(row, column)]);
    rows.sort(([, one], [, other]) => {
      if (one === "" || other === "") return (one === "") - (other === "");
      const order = isNumber ? Number(one) - Number(other) : one.localeCompare(other, undefined, {numeric: true});
      return falls ? -order : order;
    });
    body.append(...rows.map(([row]) => row));
  }));
}
const filters = document.querySelector("form.filters");
if (filters) {
  const rows = [...document.querySelector("table.sortable").tBodies[0].rows];
  const [words, kind, wrong] = ["words", "kind", "wrong"].map((name) => filters.querySelector(`[name=${name}]`));
  const output = filters.querySelector("output");
  const apply = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const classes = row.dataset.classes.split("\n");
      const fits = wanted.every((word) => row.dataset.words.includes(word))
        && (kind.value === "" || classes.includes(kind.value)) && (!wrong.checked || row.dataset.wrong === "1");
      row.hidden = !fits;
      count += fits;
    }
    output.textContent = `${count} of ${rows.length} images`;
  };
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
