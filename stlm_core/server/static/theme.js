// Light or dark as the system has it, until the button says otherwise. Runs before the page is drawn.

(() => {
  const CHOICE = "stlm-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");

  function apply() {
    document.documentElement.dataset.theme = localStorage.getItem(CHOICE) ?? (system.matches ? "dark" : "light");
  }

  system.addEventListener("change", apply);
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      localStorage.setItem(CHOICE, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
      apply();
    });
  });
})();
