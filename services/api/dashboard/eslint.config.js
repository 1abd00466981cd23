import js from "@eslint/js";
import hooks from "eslint-plugin-react-hooks";
import ts from "typescript-eslint";

/** Node's, and what the functions use that the scripts evaluate in a page. */
const SCRIPT_GLOBALS = ["process", "console", "URL", "document", "window", "performance", "requestAnimationFrame", "Event", "KeyboardEvent", "HTMLInputElement"];

export default ts.config(
  { ignores: ["dist", "public", "src/generated"] },
  js.configs.recommended,
  ts.configs.strict,
  { files: ["src/**/*.{ts,tsx}"], ...hooks.configs.flat.recommended },
  { files: ["e2e/**/*.mjs"], languageOptions: { globals: Object.fromEntries(SCRIPT_GLOBALS.map((name) => [name, "readonly"])) } },
);
