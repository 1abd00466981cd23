/** Light, dark or system theme. */
import { useState } from "react";

const KEY = "dirl.theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" } as const;
type Theme = keyof typeof NEXT;

function read(): Theme {
  const kept = localStorage.getItem(KEY);
  return kept === "light" || kept === "dark" ? kept : "auto";
}

function apply(theme: Theme): void {
  if (theme === "auto") {
    localStorage.removeItem(KEY);
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem(KEY, theme);
    document.documentElement.dataset.theme = theme;
  }
}

export function ThemeChoice() {
  const [theme, setTheme] = useState<Theme>(read);
  const change = () => {
    apply(NEXT[theme]);
    setTheme(NEXT[theme]);
  };
  return (
    <button type="button" className="button small" onClick={change} title="Light, dark or system theme">
      Theme: {theme}
    </button>
  );
}
