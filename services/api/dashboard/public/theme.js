// Runs before the first paint, so that nothing flashes. A file, because the content security policy forbids inline scripts.
try {
  const theme = localStorage.getItem("dirl.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {}
