"use strict";
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const label = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  prefersDark.addEventListener("change", label);
  label();
  button.hidden = false;

  const charts = [...document.querySelectorAll(".chart")];
  // `ast`: expressions are interpreted, so that the page may forbid eval
  const options = { renderer: "svg", actions: false, ast: true };
  const draw = async (chart) => {
    await window.vegaEmbed(chart, JSON.parse(chart.nextElementSibling.textContent), options);
    // the chart is one picture with a text and a table: its marks are not read out one by one
    chart.querySelector("svg").setAttribute("aria-hidden", "true");
  };
  Promise.allSettled(charts.map(draw)).then((drawn) => {
    drawn.filter((one) => one.status === "rejected").forEach((one) => console.error(one.reason));
    root.dataset.charts = "drawn";
  });
})();
