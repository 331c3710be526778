// Runs before the page is painted, so that a chosen theme does not flash the other one.
"use strict";
try {
  const theme = localStorage.getItem("natproxy-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is switched off: the system's theme is used.
}
