// The switch between the system's theme, light and dark. The choice is kept in localStorage.

const KEY = "natproxy-theme";

/**
 * Connect the radio buttons called "theme".
 * @param {() => void} changed called when the colours have changed, also by the system.
 */
export function connectThemeSwitch(changed) {
  const root = document.documentElement;
  const buttons = document.querySelectorAll("input[name=theme]");
  for (const button of buttons) {
    button.checked = button.value === (root.dataset.theme ?? "auto");
    button.addEventListener("change", () => {
      if (button.value === "auto") delete root.dataset.theme;
      else root.dataset.theme = button.value;
      try {
        if (button.value === "auto") localStorage.removeItem(KEY);
        else localStorage.setItem(KEY, button.value);
      } catch {
        // Storage is switched off: the choice lasts until the page is loaded again.
      }
      changed();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
