// Before the first paint, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem("streamlet-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch { /* storage may be denied: the system's theme it is */ }
