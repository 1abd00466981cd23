import js from "@eslint/js";
import hooks from "eslint-plugin-react-hooks";
import ts from "typescript-eslint";

export default ts.config(
  { ignores: ["dist", "src/generated"] },
  js.configs.recommended,
  ts.configs.strict,
  { files: ["src/**/*.{ts,tsx}"], ...hooks.configs.flat.recommended },
  { files: ["e2e/**/*.mjs"], languageOptions: { globals: { process: "readonly", console: "readonly", document: "readonly", window: "readonly", performance: "readonly", URL: "readonly" } } },
);
